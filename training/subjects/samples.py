"""Points of a data set, and errors of points that were inflated and generated back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_utils.results import save_json
from training.files.roundtrip import ROWS_FORMAT, save_errors, save_worst
from training.flow.pfode import ProbabilityFlow
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors


@dataclass(frozen=True, eq=False)
class Samples:
    """Points of a data set, the same on every rank.

    Attributes:
        points: Points ``[N, D]`` in image space.
        labels: Labels ``[N, L]``; None for a network without classes.
        arrays: Further arrays for the results file, by name.
        pixels: Images ``[N, C, H, W]`` uint8; None for other data.
    """

    points: Tensor
    labels: Tensor | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Points of a data set, read when they are needed.

    Attributes:
        count: Number of points.
        read: Function that reads the points whose indices are in a range.
    """

    count: int
    read: Callable[[range], Samples]

    def __len__(self) -> int:
        return self.count


class Returns(ABC):
    """Roundtrip errors accumulated over batches of points, on the CPU of every rank.

    Attributes:
        paths: Files of the results.
    """

    paths: list[Path]

    @abstractmethod
    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """Add points with their latents and the points generated back, ``[n, D]``."""

    @abstractmethod
    def save(self, about: Mapping[str, Any]) -> None:
        """Write the files, with a description of how the errors were computed."""

    @abstractmethod
    def line(self) -> str:
        """Return the most important numbers in one line."""


@dataclass
class WorstImages:
    """Collection of the images with the largest errors, sorted by decreasing error.

    Images with equal errors are in the order of addition.

    Attributes:
        count: Largest number of images.
        errors: Errors of the images ``[k]``.
        rows: Tensors ``[k, ...]`` about these images, by name.
    """

    count: int
    errors: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    rows: dict[str, Tensor] = field(default_factory=dict)

    def add(self, errors: Tensor, **rows: Tensor) -> None:
        """Add images with their errors ``[n]``, and tensors ``[n, ...]`` to keep by name."""
        kept = self.rows or {name: more[:0] for name, more in rows.items()}
        together = torch.cat([self.errors, errors])
        order = together.argsort(descending=True, stable=True)[: self.count]
        self.errors = together[order]
        self.rows = {name: torch.cat([kept[name], more])[order] for name, more in rows.items()}


class ImageReturns(Returns):
    """Roundtrip errors of images in gray levels, and the worst images.

    Args:
        paths: Files of the results.
        keep_worst: Number of worst images to keep.
        shape: Shape of an image ``(C, H, W)``.
    """

    def __init__(self, paths: Sequence[Path], keep_worst: int, shape: tuple[int, int, int]):
        self.paths = list(paths)
        self.worst, self._shape = WorstImages(keep_worst), shape
        self._columns: list[Tensor] = []

    @property
    def errors(self) -> RoundtripErrors:
        """Errors of all images."""
        return RoundtripErrors(*torch.cat(self._columns).unbind(dim=1))

    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """Add errors of images, and keep the worst images with their latents."""
        pixels = samples.pixels
        assert pixels is not None
        errors = RoundtripErrors.from_images(pixels.flatten(1), back)
        self._columns.append(errors.columns())
        levels = (back + 1) * LEVELS_PER_UNIT
        labels = {} if samples.labels is None else {"labels": samples.labels}
        self.worst.add(
            errors.mse_float,
            indices=samples.arrays["image_index"],
            columns=errors.columns(),
            originals=pixels,
            returned=levels.float().view(pixels.shape),
            latents=latents.float(),
            **labels,
        )

    def save(self, about: Mapping[str, Any]) -> None:
        """Write the errors as JSON, and the worst images as ``.npz``."""
        errors = self.errors
        save_worst(self.paths[1], errors, self.worst.rows, self._shape)
        known = {
            "images": len(errors.mse),
            "image_shape": list(self._shape),
            "worst": self.paths[1].name,
        }
        save_errors(self.paths[0], errors, {**known, **about})

    def line(self) -> str:
        """Return the errors of all images in one line."""
        summary = self.errors.summary()
        return (
            f"Round trip of {len(self.errors.mse)} images: mean squared error "
            f"{summary['mse']:.6g} squared gray levels after rounding to 8 bits, "
            f"{summary['mse_float']:.6g} before; largest error "
            f"{summary['max_abs_error']:.4g} gray levels; {summary['exact_pixels']:.4%} "
            "of the pixels exact"
        )


class RowReturns(Returns):
    """Roundtrip errors of the rows of a table with named columns.

    Args:
        path: File of the results.
        names: Names of the columns.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.paths, self._names = [path], names
        self._errors: list[Tensor] = []

    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """Add errors of rows, in coordinates of unit variance and in the units of the columns."""
        data, device = samples.points, flow.device
        error = flow.to_eigen(back.to(device)) - flow.to_eigen(data.to(device))
        self._errors.append(torch.stack([error.cpu(), back - data]))

    def summary(self) -> dict[str, Any]:
        """Return root-mean-square and largest errors.

        Errors of all columns together are in the coordinates of the flow, with unit variance.
        Errors of each column are in its units, by name.
        """
        errors, of_columns = torch.cat(self._errors, dim=1)
        columns = zip(
            self._names,
            of_columns.square().mean(dim=0).sqrt().tolist(),
            of_columns.abs().amax(dim=0).tolist(),
            strict=True,
        )
        return {
            "rows": len(errors),
            "rms_error": float(errors.square().mean().sqrt()),
            "max_abs_error": float(errors.abs().max()),
            "columns": {name: {"rms": rms, "max_abs": most} for name, rms, most in columns},
        }

    def save(self, about: Mapping[str, Any]) -> None:
        """Write root-mean-square and largest errors as JSON."""
        save_json(self.paths[0], {"format": ROWS_FORMAT, **self.summary(), **about})

    def line(self) -> str:
        """Return the errors of all rows in one line."""
        summary = self.summary()
        return (
            f"Round trip of {summary['rows']} rows: root mean square error "
            f"{summary['rms_error']:.2g}, largest {summary['max_abs_error']:.2g}, in "
            "coordinates of unit variance"
        )
