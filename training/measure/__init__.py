"""Measures of samples and flows, independent of how these were made."""
