"""Pictures of trajectories, images, coverage, correlations and training runs.

Each subject has its own module or package, which reads the files, decides which pictures to draw,
and draws them. ``look`` defines the style that all pictures share. ``album`` finds the module for
each file. Drawing functions take plain arrays and return a matplotlib ``Figure``, or frames of one.
They do not touch matplotlib's global state.
"""
