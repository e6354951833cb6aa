"""Data, networks, flows and measures, and the loop that trains a denoiser."""
