"""Measures of posteriors: convergence, weights and calibration, with numbers as input and
output.
"""
