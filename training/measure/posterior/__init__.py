"""Measures of posteriors, numbers in and numbers out: convergence, weights, calibration."""
