"""Figures and tables of the paper, at a scale that a CPU computes in minutes."""
