"""Learning: the only place where torch lives. Good frames → bundle, calibration, report."""
