"""Networks that the paper's original code trained: read as data, then built of our own layers."""
