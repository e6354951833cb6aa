"""Points of a data set, and what is measured of those that were melted and brought back."""

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
        points: ``[N, D]`` in image space.
        labels: ``[N, L]``; None for a network without classes.
        arrays: What else files say of them.
        pixels: The images themselves, ``[N, C, H, W]`` uint8; None for other data.
    """

    points: Tensor
    labels: Tensor | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Points of a data set, read as they are needed.

    Attributes:
        count: How many.
        read: Those with numbers in a range.
    """

    count: int
    read: Callable[[range], Samples]

    def __len__(self) -> int:
        return self.count


class Returns(ABC):
    """Errors of the points so far, on the CPU of every rank.

    Attributes:
        paths: Files of the results.
    """

    paths: list[Path]

    @abstractmethod
    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """More points: they, their latents and what came back, ``[n, D]``."""

    @abstractmethod
    def save(self, about: Mapping[str, Any]) -> None:
        """Writes the files, with what is known about how the errors came to be."""

    @abstractmethod
    def line(self) -> str:
        """The most important numbers."""


@dataclass
class WorstImages:
    """What is kept of the images with the largest errors: these first, equal ones as added.

    Attributes:
        count: Number of images at most.
        errors: Theirs ``[k]``.
        rows: Tensors ``[k, ...]`` by name.
    """

    count: int
    errors: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    rows: dict[str, Tensor] = field(default_factory=dict)

    def add(self, errors: Tensor, **rows: Tensor) -> None:
        """More images: their errors ``[n]``, and ``[n, ...]`` of what is to be kept of them."""
        kept = self.rows or {name: more[:0] for name, more in rows.items()}
        together = torch.cat([self.errors, errors])
        order = together.argsort(descending=True, stable=True)[: self.count]
        self.errors = together[order]
        self.rows = {name: torch.cat([kept[name], more])[order] for name, more in rows.items()}


class ImageReturns(Returns):
    """Errors of images in gray levels, and the worst images.

    Args:
        paths: Files of the results.
        keep_worst: Images to keep of those that come back worst.
        shape: ``(C, H, W)``.
    """

    def __init__(self, paths: Sequence[Path], keep_worst: int, shape: tuple[int, int, int]):
        self.paths = list(paths)
        self.worst, self._shape = WorstImages(keep_worst), shape
        self._columns: list[Tensor] = []

    @property
    def errors(self) -> RoundtripErrors:
        """Of all images."""
        return RoundtripErrors(*torch.cat(self._columns).unbind(dim=1))

    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        pixels = samples.pixels
        assert pixels is not None
        errors = RoundtripErrors.of(pixels.flatten(1), back)
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
        errors = self.errors
        save_worst(self.paths[1], errors, self.worst.rows, self._shape)
        known = {
            "images": len(errors.mse),
            "image_shape": list(self._shape),
            "worst": self.paths[1].name,
        }
        save_errors(self.paths[0], errors, {**known, **about})

    def line(self) -> str:
        summary = self.errors.summary()
        return (
            f"Roundtrip of {len(self.errors.mse)} images: mean squared error "
            f"{summary['mse']:.6g} squared gray levels after rounding to 8 bits, "
            f"{summary['mse_float']:.6g} before; largest error "
            f"{summary['max_abs_error']:.4g} gray levels; {summary['exact_pixels']:.4%} of the "
            "pixels exact"
        )


class RowReturns(Returns):
    """Errors of rows of a table, whose columns have names, for a file of results."""

    def __init__(self, path: Path, names: Sequence[str]):
        self.paths, self._names = [path], names
        self._errors: list[Tensor] = []

    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        data, device = samples.points, flow.device
        error = flow.to_eigen(back.to(device)) - flow.to_eigen(data.to(device))
        self._errors.append(torch.stack([error.cpu(), back - data]))

    def summary(self) -> dict[str, Any]:
        """Root mean squares and the largest errors: of all in the coordinates of the flow, where
        columns have unit variance, and of each column by name, in its units."""
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
        save_json(self.paths[0], {"format": ROWS_FORMAT, **self.summary(), **about})

    def line(self) -> str:
        summary = self.summary()
        return (
            f"Roundtrip of {summary['rows']} rows: root mean square error "
            f"{summary['rms_error']:.2g}, largest {summary['max_abs_error']:.2g}, in the flow's "
            "coordinates of unit variance"
        )
