"""The law of latents: what a generation starts from, and what a melt should end in."""
