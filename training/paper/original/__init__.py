"""Networks trained by the paper's original code: read as data, then built from our own layers."""
