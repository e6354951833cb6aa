"""Samplers of the posterior of standard normal variables, many observations at once."""
