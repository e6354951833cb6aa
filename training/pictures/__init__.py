"""Pictures of trajectories, latents, images and training runs.

Drawing functions take plain arrays and return a matplotlib ``Figure``, or frames of one; none
touches matplotlib's global state. ``trajectories``, ``saved_images`` and ``runs`` read files of the
scripts into such arrays; ``album`` decides what is drawn of them.
"""
