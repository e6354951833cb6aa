"""Posteriors of partly or noisily observed points, with the flow as their prior."""
