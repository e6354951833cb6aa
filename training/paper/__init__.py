"""Experiments of the paper.

Residual correlations, coverage of meshes, mixtures over latents, and networks of the original code.
"""
