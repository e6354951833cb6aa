"""PyTorch utilities that scripts share: process groups, network and result files, statistics."""
