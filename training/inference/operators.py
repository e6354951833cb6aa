"""Linear observation maps A, without their matrices.

Most maps of images are *separable*. They map each channel X to

    R X C^T

with a matrix R for rows and one C for columns of pixels. Examples are blur by a Gaussian kernel
(whose weights sum to 1 at the borders too), averages over squares of pixels, and crops.
"""

from abc import ABC, abstractmethod
from math import prod

import torch
from torch import Tensor

from torch_utils.seeds import normal_numbers

FARTHEST = 5.0
"""Number of standard deviations at which the kernel of a blur is truncated."""


class LinearMap(ABC):
    """Interface of linear maps ``A`` from points of D coordinates to observations of K values.

    Attributes:
        size: Number of observed values, K.
        shape: Shape ``(C, H, W)`` of the resulting images; None where the result is no image.
    """

    size: int
    shape: tuple[int, int, int] | None = None

    @abstractmethod
    def __call__(self, points: Tensor) -> Tensor:
        """Return the observations ``A x [N, K]`` of points ``x [N, D]``."""

    @abstractmethod
    def to(self, device: torch.device) -> "LinearMap":
        """Move the map to another device."""

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """Matrix ``A [K, D]`` of the map, float64."""


class MatrixMap(LinearMap):
    """Linear map given by its matrix.

    Args:
        matrix: Matrix ``A [K, D]``.
    """

    def __init__(self, matrix: Tensor):
        self._matrix = matrix.double()
        self.size = len(matrix)

    def __call__(self, points: Tensor) -> Tensor:
        """Return the observations ``A x [N, K]`` of points ``x [N, D]``."""
        return points @ self._matrix.T.to(points)

    def to(self, device: torch.device) -> "MatrixMap":
        """Move the matrix to another device; return the map."""
        self._matrix = self._matrix.to(device)
        return self

    @property
    def matrix(self) -> Tensor:
        """Matrix ``A [K, D]`` of the map."""
        return self._matrix

    @classmethod
    def random(cls, size: int, dim: int, seed: int) -> "MatrixMap":
        """Draw a random map, whose matrix has independent normal entries of variance ``1 / D``.

        The observed values of a point have about the same size as its coordinates.

        Args:
            size: K, the number of observed values.
            dim: D, the number of coordinates.
            seed: Random seed.
        """
        return cls(normal_numbers((size, dim), seed) / dim**0.5)


class Separable(LinearMap):
    """Separable linear map of images: one matrix for rows and one for columns of pixels.

    The same two matrices apply to each channel.

    Args:
        rows: Matrix of rows ``R [h, H]``.
        columns: Matrix of columns ``C [w, W]``.
        channels: Number of channels of the images.

    Example:
        >>> import torch
        >>> half = Separable.downsampling(2, (1, 2, 4))
        >>> half(torch.tensor([[1.0, 3.0, 5.0, 7.0, 1.0, 3.0, 5.0, 7.0]])).tolist()
        [[2.0, 6.0]]
    """

    def __init__(self, rows: Tensor, columns: Tensor, channels: int):
        self._rows, self._columns = rows.double(), columns.double()
        self._before = (channels, rows.shape[1], columns.shape[1])
        self.shape = (channels, len(rows), len(columns))
        self.size = prod(self.shape)

    def __call__(self, points: Tensor) -> Tensor:
        """Return ``R X C^T`` of each channel X of images ``[N, D]``, as rows ``[N, K]``."""
        images = points.reshape(-1, *self._before)
        return (self._rows.to(points) @ images @ self._columns.to(points).T).flatten(1)

    def to(self, device: torch.device) -> "Separable":
        """Move both matrices to another device; return the map."""
        self._rows, self._columns = self._rows.to(device), self._columns.to(device)
        return self

    @property
    def matrix(self) -> Tensor:
        """Matrix ``A [K, D]`` of the map: ``R^T Y C`` of each observation Y with a single 1."""
        assert self.shape is not None
        units = torch.eye(self.size, dtype=torch.float64).reshape(-1, *self.shape)
        return (self._rows.to(units).T @ units @ self._columns.to(units)).flatten(1)

    @classmethod
    def blur(cls, std: float, shape: tuple[int, int, int]) -> "Separable":
        """Return the map that blurs images by a Gaussian kernel.

        Args:
            std: Standard deviation of the kernel, in pixels.
            shape: Shape ``(C, H, W)`` of the images.
        """
        channels, height, width = shape
        return cls(_kernel(std, height), _kernel(std, width), channels)

    @classmethod
    def downsampling(cls, factor: int, shape: tuple[int, int, int]) -> "Separable":
        """Return the map that averages images over squares of pixels.

        Args:
            factor: Side of the squares in pixels, which must divide both sides of the images.
            shape: Shape ``(C, H, W)`` of the images.
        """
        channels, height, width = shape
        return cls(_means(factor, height), _means(factor, width), channels)

    @classmethod
    def crop(
        cls, corner: tuple[int, int], sides: tuple[int, int], shape: tuple[int, int, int]
    ) -> "Separable":
        """Return the map that crops images to a rectangle.

        Args:
            corner: First row and first column of the rectangle, from 0.
            sides: Numbers of rows and columns.
            shape: Shape ``(C, H, W)`` of the images.
        """
        channels, *whole = shape
        parts = zip(corner, sides, whole, strict=True)
        rows, columns = (torch.eye(size)[first : first + side] for first, side, size in parts)
        return cls(rows, columns, channels)


def _kernel(std: float, size: int) -> Tensor:
    """Return blur weights ``[size, size]`` for the pixels of a line."""
    places = torch.arange(size, dtype=torch.float64)
    apart = (places[:, None] - places).abs() / std
    weights = (-apart.square() / 2).exp().masked_fill(apart > FARTHEST, 0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def _means(factor: int, size: int) -> Tensor:
    """Return averaging weights ``[size / factor, size]``."""
    return torch.eye(size // factor).repeat_interleave(factor, dim=1) / factor
