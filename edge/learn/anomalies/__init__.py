"""Synthetic anomalies: shapes × fills × blends on good windows, light as a negative, labels where seen."""
