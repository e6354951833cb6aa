"""Schedules, bases, denoisers and the ODE. Knows tensors and callables, no data set, no network."""
