"""What the scripts share of PyTorch: process groups, network and result files, statistics."""
