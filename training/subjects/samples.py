"""Points of a data set, all of them or as they are needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


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
