"""Stories of flows, told once for whatever the data are: simulations, posteriors, coverage."""
