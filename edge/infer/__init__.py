"""Engines: bundles on disk, and the runtimes that run them."""
