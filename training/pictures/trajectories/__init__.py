"""Pictures of simulations: point clouds, animations, latents and their spectra."""
