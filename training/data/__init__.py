"""Where data comes from. Knows nothing of networks or flows."""
