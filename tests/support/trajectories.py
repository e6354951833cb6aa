"""What the file of a simulation holds."""

from training.files.trajectory import STATE_KEYS

KEYS = {
    "times": ("S",),
    **dict.fromkeys(STATE_KEYS, ("S", "N", "D")),
    "mean": ("D",),
    "eigenvectors": ("D", "D"),
    "eigenvalues": ("D",),
    "scale": ("S",),
    "noise_variance": ("S", "D"),
}
"""Shapes of its arrays: ``S`` saved times, ``N`` samples, ``D`` dimensions."""
