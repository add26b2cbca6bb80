"""edge: frames from a scanner's folder in, verdicts on MQTT out."""

__version__ = "0.1.0"
