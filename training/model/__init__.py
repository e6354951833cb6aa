"""A denoiser with all that is needed to rebuild it."""
