"""What people say of verdicts: taken, kept, listed, and what it would change in thresholds."""
