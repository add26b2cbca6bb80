"""What the daemon shows over HTTP: metrics, health, an API that only reads, and a page for the operator."""
