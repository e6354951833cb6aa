"""Schedules, bases, denoisers and the ODE, independent of data sets and networks."""
