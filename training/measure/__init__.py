"""Measures of samples and flows, whoever made them."""
