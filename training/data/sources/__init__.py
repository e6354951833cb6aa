"""From published formats of data to data sets of ours."""
