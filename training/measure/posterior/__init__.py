"""Measures of posteriors: convergence, weights and calibration.

Inputs and outputs are numbers.
"""
