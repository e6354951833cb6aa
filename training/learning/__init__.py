"""Training: the loss, a step, the loop, the run's folder."""
