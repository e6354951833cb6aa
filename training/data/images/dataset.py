"""Image data sets: square images of one shape in a zip or folder, with or without labels."""

import copy
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.codec import decode_exact
from training.data.images.containers import (
    LABEL_FILE,
    Container,
    image_names,
    labels_of,
    open_container,
)
from training.names import script

CACHE_CHUNK = 1000
MOST_LISTED = 20
"""Maximum number of classes whose image counts are listed."""


class ImageDataset:
    """Square 8-bit images of one shape, gray or RGB, in a zip or folder.

    The first image defines the shape; the shapes of all other images are checked on reading.

    Args:
        path: The zip or folder, as written by ``dataset_tool.py``.
        use_labels: Whether to read the labels in ``dataset.json``; otherwise labels have length 0.
        max_size: Number of images of a random subset, in the order of the data set; None for all.
        seed: Random seed of the subset.
        xflip: Whether to add the mirror images of the n images, with indices n to 2n - 1.
        classes: Minimum number of classes, since a subset may lack the last classes.

    Attributes:
        image_shape: Shape ``(C, H, W)`` of the images.
        places: Indices ``[n]`` of the used images in the whole data set.

    Raises:
        DataError: The path is not a data set, or has no images, unsafe names, or missing or
            malformed labels. When images are read, an image is damaged or differs in shape.
    """

    def __init__(
        self,
        path: Path,
        use_labels: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        xflip: bool = False,
        classes: int = 0,
    ):
        self.path, self._xflip = path, xflip
        self._container: Container | None = None
        self._owner = 0  # process that opened the container
        names = image_names(self._files())
        if not names:
            raise DataError(
                f"{path} contains no images: make a data set with {script('dataset_tool')}"
            )
        labels: Tensor | None = None
        self._classes: int | None = None
        if use_labels:
            listed = labels_of(self._files(), names)
            if listed is None:
                raise DataError(
                    f"{path} has no labels (null in its dataset.json): train without labels, or "
                    f"make a data set with labels by {script('dataset_tool')}"
                )
            are_classes = isinstance(listed[0], int)  # [n], else vectors [n, k]
            labels = torch.tensor(listed, dtype=torch.int64 if are_classes else torch.float32)
            self._classes = max(int(labels.max()) + 1, classes) if are_classes else None
        self._cache: Tensor | None = None
        self.image_shape = self._first_shape(names[0])
        self.places = torch.arange(len(names))
        if max_size is not None and max_size < len(names):
            generator = seeded_generator("cpu", seed)
            chosen = torch.randperm(len(names), generator=generator)[:max_size].sort().values
            self.places = chosen
            names = [names[index] for index in chosen.tolist()]
            labels = None if labels is None else labels[chosen]
        self._names, self._labels = names, labels

    @property
    def name(self) -> str:
        """Name of the zip or folder, without its suffix."""
        path = self.path.resolve()
        return path.name if path.is_dir() else path.stem

    @property
    def dim(self) -> int:
        """Dimension of an image as a point, ``C * H * W``."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def label_dim(self) -> int:
        """Length of a label: the number of classes, the length of vectors, or 0 without labels."""
        if self._labels is None:
            return 0
        return self._classes or self._labels.shape[1]

    @property
    def has_vectors(self) -> bool:
        """Whether labels are vectors rather than classes."""
        return self._labels is not None and self._classes is None

    def classes(self) -> Tensor | None:
        """Return the classes ``[n]`` of the images, even if unused; None if there are none."""
        there = LABEL_FILE in self._files().names
        labels = labels_of(self._files(), self._names) if there else None
        return torch.tensor(labels) if labels and isinstance(labels[0], int) else None

    def labels_in_words(self) -> str:
        """Return a text with the kind of labels and the number of images per class.

        The labels of the data set are described even if they are unused.
        """
        there = LABEL_FILE in self._files().names
        labels = labels_of(self._files(), self._names) if there else None
        if not labels:
            return "none"
        if not isinstance(labels[0], int):
            return f"vectors of {len(labels[0])} numbers"
        counts = sorted(Counter(labels).items())
        listed = ", ".join(f"{name}: {count:,}" for name, count in counts[:MOST_LISTED])
        more = ", ..." * (len(counts) > MOST_LISTED)
        return f"{len(counts)} classes, images per class {listed}{more}"

    @property
    def has_labels(self) -> bool:
        """Whether the data set has labels that are used."""
        return self.label_dim > 0

    def __len__(self) -> int:
        return len(self._names) * (2 if self._xflip else 1)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read images ``[n, C, H, W]``, uint8, with their labels ``[n, label_dim]``, float32.

        Classes become one-hot vectors.

        Args:
            indices: Indices of the n images.
        """
        index = torch.tensor(indices, dtype=torch.int64)
        files = index % len(self._names)
        if self._cache is not None:
            pixels = self._cache[files]
        else:
            rows = [self._read_file(self._names[file]) for file in files.tolist()]
            pixels = torch.from_numpy(np.stack(rows))
        mirrored = (index >= len(self._names)).view(-1, 1, 1, 1)
        if mirrored.any():
            pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        labels = torch.zeros(len(files), 0) if self._labels is None else self._labels[files]
        if self._classes is not None:
            labels = torch.nn.functional.one_hot(labels, self._classes).to(torch.float32)
        return pixels, labels

    def keep_in_memory(self) -> None:
        """Read, check and cache all images; later reads use the cache."""
        if self._cache is not None:
            return
        total = len(self._names)
        try:
            cache = torch.empty(total, *self.image_shape, dtype=torch.uint8)
        except RuntimeError as error:
            raise DataError(
                f"{self.path} does not fit in memory: give --no-cache to read images from disk"
            ) from error
        with distributed.progress_bar(total=total, desc="Caching images", unit="image") as bar:
            for start in range(0, total, CACHE_CHUNK):
                names = self._names[start : start + CACHE_CHUNK]
                rows = np.stack([self._read_file(name) for name in names])
                cache[start : start + len(names)] = torch.from_numpy(rows)
                bar.update(len(names))
        self._cache = cache

    def split(self, fraction: float, seed: int) -> tuple["ImageDataset", "ImageDataset"]:
        """Split the data set at random into a part for training and a held-out part.

        Args:
            fraction: Fraction of the images to hold out, at least one image.
            seed: Random seed of the split.

        Raises:
            DataError: Too few images are left for training.
        """
        images = len(self._names)
        count = max(1, round(fraction * images))
        if images - count < 2:
            raise DataError(
                f"{self.path} has {images} images: {count} of them cannot be held out, so give a "
                "smaller fraction"
            )
        order = torch.randperm(images, generator=seeded_generator("cpu", seed, Stream.SPLIT))
        return self._part(order[count:].sort().values), self._part(order[:count].sort().values)

    def _part(self, files: Tensor) -> "ImageDataset":
        part = copy.copy(self)
        part._container = None  # it opens its own
        part._names = [self._names[file] for file in files.tolist()]
        part.places = self.places[files]
        part._labels = None if self._labels is None else self._labels[files]
        part._cache = None if self._cache is None else self._cache[files]
        return part

    def close(self) -> None:
        """Close the zip, which is reopened on the next read."""
        if self._container is not None and self._owner == os.getpid():
            self._container.close()
        self._container = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_container": None}

    def _files(self) -> Container:
        # A forked process shares the position in an open file with its parent.
        if self._container is None or self._owner != os.getpid():
            self._container, self._owner = open_container(self.path), os.getpid()
        return self._container

    def _first_shape(self, name: str) -> tuple[int, int, int]:
        files = self._files()
        height, width, channels = decode_exact(files.read(name), files.where(name)).shape
        if height != width:
            raise DataError(
                f"{files.where(name)} is {width}x{height}, not square: make the data set "
                f"with {script('dataset_tool')} --transform=center-crop"
            )
        return channels, height, width

    def _read_file(self, name: str) -> np.ndarray:
        files = self._files()
        pixels = decode_exact(files.read(name), files.where(name)).transpose(2, 0, 1)
        if pixels.shape != self.image_shape:
            channels, height, width = self.image_shape
            raise DataError(
                f"{files.where(name)} is {pixels.shape[2]}x{pixels.shape[1]} with "
                f"{pixels.shape[0]} channel(s), but the first image is {width}x{height} "
                f"with {channels}: make a data set with {script('dataset_tool')}"
            )
        return pixels
