"""Base distributions of latents: the start of generation, and the target of inflation."""
