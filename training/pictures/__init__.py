"""Pictures of trajectories, images, coverage, correlations and training runs.

One room a subject: each reads its files, decides which pictures there are, and draws them.
``look`` holds the look that they share, and ``album`` finds the subject of each file. Drawing
functions take plain arrays and return a matplotlib ``Figure``, or frames of one; none touches
matplotlib's global state.
"""
