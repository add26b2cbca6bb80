"""The daemon's memory: one SQLite file for journal, verdicts, parts and outbox; evidence beside it."""
