"""A trained denoiser, with everything needed to rebuild it."""
