"""Training: the loss, a training step, the training loop and the run directory."""
