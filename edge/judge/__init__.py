"""From score maps to evaluations: statistics, calibration, thresholds, parts."""
