"""Images that come with scikit-learn, so that they need no download."""

import importlib
from functools import partial
from typing import Any

import numpy as np

from training.data.sources.source import Images, Source, SourceImage, given

DIGITS = "digits"


def digits() -> Source:
    """The 1797 digits of 8x8 pixels that come with scikit-learn, gray levels 0-16 as 0-255."""
    datasets: Any = importlib.import_module("sklearn.datasets")
    levels, labels = datasets.load_digits(return_X_y=True)
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)

    def images() -> Images:
        for index, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            yield SourceImage(f"digit {index}", partial(given, image), label)

    return Source(images(), len(pixels))
