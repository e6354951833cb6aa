"""Pictures of trajectories, latents and training runs.

Drawing functions take plain arrays and return a matplotlib ``Figure``, or frames of one; none
touches matplotlib's global state. ``trajectories`` and ``runs`` read files of the scripts into such
arrays.
"""
