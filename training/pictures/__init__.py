"""Pictures of trajectories, latents, images, coverage, correlations and training runs.

Drawing functions take plain arrays and return a matplotlib ``Figure``, or frames of one; none
touches matplotlib's global state. ``trajectories``, ``runs`` and the modules ``saved_...`` read
files of the scripts into such arrays; ``album``, and the albums of a kind, decide what is drawn of
them.
"""
