"""Scanning folders: which files are new, complete, and what their names say."""
