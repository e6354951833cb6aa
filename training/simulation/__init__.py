"""From the options of a simulation script to trajectories, images, and the files of them."""
