"""What only the experiments of the paper need.

Residual correlations, coverage of meshes, mixtures over latents, and networks of the original code.
"""
