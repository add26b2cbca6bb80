"""How the daemon says how it is doing: metrics, health, log, and what systemd wants to know."""
