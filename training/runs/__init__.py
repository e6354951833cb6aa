"""Runs of flows for all kinds of data: simulations, posteriors, coverage, and queries."""
