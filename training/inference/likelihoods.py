"""Likelihoods of observations y, given points x of data space, in the data's own units.

The observations here are linear in the point, with Gaussian noise,

    y = A x + n,      n ~ N(0, Sigma),

where A is the identity, a choice of coordinates, or any linear map.

Users supply other densities as ``FILE.py:function``, a function of points in data units. A
likelihood takes points ``[N, D]``, a float64 tensor, and returns the log likelihoods ``[N]`` of the
observation. Samplers that use gradients need it to be differentiable by torch. A posterior also
takes the observations, ``[N, C]``, and returns log densities up to a constant. The file is the
user's own program and is executed; network and results files never are.

Linear observation maps A, without their matrices.

Most maps of images are *separable*. They map each channel X to

    R X C^T

with a matrix R for rows and one C for columns of pixels. Examples are blur by a Gaussian kernel
(whose weights sum to 1 at the borders too), averages over squares of pixels, and crops.
"""

import importlib.util
import re
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, pi, prod
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import normal_numbers

FARTHEST = 5.0
"""Number of standard deviations at which the kernel of a blur is truncated."""
DOT_PRODUCT = 1e-5
"""Largest relative difference of dot products at which two functions count as adjoint."""


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

    @classmethod
    def from_functions(
        cls,
        apply: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        shape: Sequence[int],
    ) -> "MatrixMap":
        """Return the map of two functions on batches of float64 tensors.

        Args:
            apply: Function from points ``[N, *shape]`` to observations ``[N, ...]``.
            adjoint: The adjoint (transposed) function, from observations to points.
            shape: Shape of a point, for example (channels, height, width).

        Raises:
            DataError: The functions fail the dot-product test ``<A x, y> = <x, A^T y>``, so that
                they are not linear or not adjoint.
        """
        x = normal_numbers((2, *shape), 0)
        seen = apply(x)
        y = normal_numbers(tuple(seen.shape), 1)
        products = [(a * b).flatten(1).sum(dim=1) for a, b in ((seen, y), (x, adjoint(y)))]
        sizes = torch.linalg.vector_norm(seen.flatten(1), dim=1) * y.flatten(1).norm(dim=1)
        off = float(((products[0] - products[1]).abs() / sizes).max())
        if not off <= DOT_PRODUCT:
            raise DataError(
                f"the operator's functions are not linear and adjoint: <A x, y> and <x, A^T y> "
                f"differ by {off:.2g} of their size, more than {DOT_PRODUCT:g}. Correct the adjoint"
            )
        size = seen[0].numel()
        units = torch.eye(size, dtype=torch.float64).view(size, *seen.shape[1:])
        return cls(adjoint(units).reshape(size, -1))


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


NUMBERS_AT_ONCE = 2**17
"""Limit on the number of coordinates of points per evaluation of several observations."""


class Likelihood(ABC):
    """Interface of likelihoods ``p(y | x)`` of observations y, given points x of data space."""

    own: ClassVar[bool] = False
    """Whether the likelihood itself contains the observation."""
    dear: ClassVar[bool] = False
    """Whether the likelihood is far more expensive than prior points; ``auto`` then looks at its
    approximation first.
    """

    @abstractmethod
    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        """Return the log likelihoods ``[N]`` of observations, one for each point, in nats.

        Args:
            points: Points ``[N, D]``.
            observed: Observation of each point ``[N, K]``.

        Raises:
            DataError: A log likelihood is NaN or plus infinity.
        """

    def log_prob_each(self, points: Tensor, observed: Tensor) -> Tensor:
        """Return the log likelihoods ``[m, P]`` of m observations at each of P points, in nats.

        Each evaluation covers the same number of observations, so that no result depends on the
        number of observations: the last evaluation is padded with its first observation.

        Args:
            points: Points ``[P, D]``.
            observed: Observations ``[m, K]``.
        """
        size, dim = points.shape
        step = 1 if self.dear else max(1, NUMBERS_AT_ONCE // (size * dim))
        order = F.pad(torch.arange(len(observed), device=points.device), (0, -len(observed) % step))
        every, log_likelihood = points.repeat(step, 1), []
        for block in torch.split(order, step):
            each = observed[block].repeat_interleave(size, dim=0)
            log_likelihood.append(self.log_prob(every, each).view(step, size))
        return torch.cat(log_likelihood)[: len(observed)]

    @abstractmethod
    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Simulate observations ``[N, K]`` of points ``[N, D]``, on the CPU.

        Raises:
            UsageError: The likelihood cannot simulate observations.
        """

    @abstractmethod
    def to(self, device: torch.device) -> "Likelihood":
        """Move the likelihood to another device."""

    def approximate(self) -> "Likelihood":
        """Return an approximation for locating posteriors; a cheap likelihood returns itself."""
        return self

    def is_differentiable(self, points: Tensor) -> bool:
        """Return whether log likelihoods have gradients with respect to points ``[N, D]``."""
        return True

    def curvature_root(self, dim: int) -> Tensor | None:
        """Return the whitened observation matrix ``Sigma^(-1/2) A [K, D]``; None if not Gaussian.

        Observations are ``A x``, plus noise with covariance Sigma.

        Args:
            dim: D, the dimension of points.
        """
        return None


class Gaussian(Likelihood):
    """Gaussian likelihood of a linear map of the point.

    Args:
        noise: Standard deviation ``[]``, one for each observed value ``[K]``, or the covariance
            ``[K, K]``.
        coordinates: Indices of the observed coordinates ``[K]``; None for all.
        operator: A linear map, or its matrix ``[K, D]``; None for the identity. Only one of
            ``coordinates`` and ``operator`` may be given.
        dim: Dimension of points, D, to check the size of the noise; None where it is not known.

    Raises:
        UsageError: The noise is not positive, or its size is not that of the observations.

    Example:
        >>> import torch
        >>> seen = Gaussian(torch.tensor(0.1), coordinates=torch.tensor([0]))
        >>> points = torch.tensor([[1.0, 5.0], [2.0, 6.0]], dtype=torch.float64)
        >>> seen.observe(points).flatten().tolist()
        [1.0, 2.0]
    """

    def __init__(
        self,
        noise: Tensor,
        coordinates: Tensor | None = None,
        operator: LinearMap | Tensor | None = None,
        dim: int | None = None,
    ):
        if coordinates is not None and operator is not None:
            raise UsageError("give either observed coordinates or an operator, not both")
        self.coordinates = coordinates
        self.operator = MatrixMap(operator) if isinstance(operator, Tensor) else operator
        self.root = _root(noise.double())
        size = dim if coordinates is None else len(coordinates)
        size = size if self.operator is None else self.operator.size
        if size is not None and self.root.ndim and len(self.root) != size:
            raise UsageError(
                f"the noise has {len(self.root)} entries for {size} observed values: give one "
                "entry per value"
            )

    def to(self, device: torch.device) -> "Gaussian":
        """Move the noise and the observation map to another device; return the likelihood."""
        self.root = self.root.to(device)
        self.operator = None if self.operator is None else self.operator.to(device)
        self.coordinates = None if self.coordinates is None else self.coordinates.to(device)
        return self

    def observe(self, points: Tensor) -> Tensor:
        """Return the noise-free observations ``A x [N, K]`` of points ``[N, D]``."""
        if self.operator is not None:
            return self.operator(points)
        return points if self.coordinates is None else points[:, self.coordinates]

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        """Return log densities ``[N]`` of observations given points ``[N, D]``, in nats."""
        seen = self.observe(points)
        scaled = self._whitened(observed - seen)
        size = seen.shape[1]
        # Half the log determinant of the covariance.
        logs = self.root.diagonal().log() if self.root.ndim == 2 else self.root.log().expand(size)
        normalizer = size * log(2 * pi) / 2 + logs.sum()
        return checked(-scaled.square().sum(dim=1) / 2 - normalizer, "the Gaussian likelihood")

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Simulate observations ``A x + n [N, K]`` of points ``[N, D]``, on the CPU, float64."""
        seen = self.observe(points).cpu()
        noise = torch.randn(seen.shape, generator=generator, dtype=torch.float64)
        root = self.root.cpu()
        return seen + (noise @ root.T if root.ndim == 2 else noise * root)

    def deviations(self, mean: Tensor, covariance: Tensor, observed: Tensor) -> Tensor:
        """Return the deviations ``[M, K]`` of observations from their expectation under a prior.

        The unit is the standard deviation of an observation under the prior.

        Args:
            mean: Prior mean of points ``[D]``.
            covariance: Prior covariance of points ``[D, D]``.
            observed: Observations ``[M, K]``.
        """
        variance = self.observe(self.observe(covariance).T).diagonal()
        root = self.root if self.root.ndim < 2 else self.root.norm(dim=1)
        return (observed - self.observe(mean[None])).abs() / (variance + root.square()).sqrt()

    def covariance(self, size: int) -> Tensor:
        """Return the noise covariance ``Sigma [K, K]`` of K = ``size`` observed values."""
        if self.root.ndim == 2:
            return self.root @ self.root.T
        return torch.diag(self.root.square().expand(size))

    def curvature_root(self, dim: int) -> Tensor:
        """Return the whitened observation matrix ``Sigma^(-1/2) A [K, D]``.

        Observations are ``A x``, plus noise with covariance Sigma.

        Args:
            dim: D, the dimension of points.
        """
        columns = self.observe(torch.eye(dim, dtype=torch.float64, device=self.root.device))
        return self._whitened(columns).T

    def covariance_root(self, size: int) -> Tensor:
        """Return a square root ``[K, K]`` of the noise covariance of ``size`` observed values."""
        return self.root if self.root.ndim == 2 else self.root.expand(size).diag()

    def _whitened(self, residuals: Tensor) -> Tensor:
        """Return ``Sigma^(-1/2) r`` of residuals ``[N, K]``."""
        if self.root.ndim < 2:
            return residuals / self.root
        return torch.linalg.solve_triangular(self.root, residuals.T, upper=False).T


def _root(noise: Tensor) -> Tensor:
    """Return standard deviations as they are, or the Cholesky factor of a covariance."""
    if noise.ndim < 2:
        if not ((noise > 0) & noise.isfinite()).all():
            raise UsageError("the noise must be positive: an exact observation has no density")
        return noise
    symmetric = noise.ndim == 2 and noise.shape[0] == noise.shape[1]
    if not symmetric or not torch.allclose(noise, noise.T):
        raise UsageError(
            f"the covariance of the noise, of shape {list(noise.shape)}, is not a symmetric "
            "matrix: correct it"
        )
    root, failed = torch.linalg.cholesky_ex(noise)
    if failed:
        raise UsageError(
            "the covariance of the noise is not positive definite: increase its diagonal"
        )
    return root


def checked(values: Tensor, name: str) -> Tensor:
    """Return log likelihoods ``[N]`` unchanged, after a check for NaN and plus infinity.

    Args:
        values: Log likelihoods.
        name: Name of the function that returned the log likelihoods, for the message.

    Raises:
        DataError: A log likelihood is NaN or plus infinity.
    """
    wrong = values.isnan() | (values == torch.inf)
    if wrong.any():
        raise DataError(
            f"{name} is NaN or infinite at {int(wrong.sum())} of {len(values)} points: return a "
            "finite log density, or -inf where the density is 0"
        )
    return values


@dataclass(frozen=True)
class UserFunction:
    """A function supplied by the user, in a file or as an object of the running program.

    Attributes:
        path: The file; the name alone for an object of the running program.
        name: Name of the function.
        function: Function from points ``[N, D]`` and further arguments to values ``[N]``.
        token: Identity of an object of the running program: two such functions are the same if
            their tokens are equal. None for a function from a file, which is compared by the
            contents of the file.
    """

    path: Path
    name: str
    function: Callable[..., Tensor]
    token: str | None = None

    @classmethod
    def of_object(cls, function: Callable[..., Any], token: str | None) -> "UserFunction":
        """Wrap any callable: a function (also from a notebook), a closure, a partial or an object.

        Args:
            function: The callable.
            token: Text that identifies the function and all that it uses; None for a new one, so
                that the function is equal to no other.
        """
        inner = getattr(function, "func", function)  # of a partial
        name = getattr(inner, "__name__", type(inner).__name__)
        plain = re.sub(r"\W+", "", name) or "function"  # of a lambda
        return cls(Path(plain), plain, function, uuid4().hex if token is None else token)

    @classmethod
    def load(cls, text: str, option: str) -> "UserFunction":
        """Load a user's function, given as ``FILE.py:function``.

        Args:
            text: File and function, as typed by the user.
            option: Name of the command-line option, for error messages.

        Raises:
            UsageError: The file does not exist, or has no callable with that name.
            DataError: Running the file raised an exception, whose traceback was printed to stderr.
        """
        path, name, function = object_in_file(text, option)
        if not callable(function):
            raise UsageError(
                f"--{option}: {path.name} has no function '{name}': give the name of one that it "
                "defines"
            )
        return cls(path, name, function)

    def __str__(self) -> str:
        return f"{self.path}:{self.name}" if self.token is None else self.name

    def __call__(self, points: Tensor, *others: Tensor) -> Tensor:
        """Evaluate the function as a log density: return values ``[N]`` of points ``[N, D]``.

        Raises:
            DataError: The function raised an exception or returned another type or shape.
        """
        values = self._returned(points, *others)
        if not isinstance(values, Tensor) or values.shape != points.shape[:1]:
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DataError(
                f"{self} returned {shape} for points of shape {list(points.shape)}: the function "
                f"must return a tensor [{len(points)}]"
            )
        return checked(values.double(), str(self))

    def drawn(self, count: int, draw: np.random.Generator) -> Tensor:
        """Call the function as a prior: return draws ``[count, D]``, float64.

        Args:
            count: Number of draws.
            draw: NumPy generator, passed to the function.

        Raises:
            DataError: The function raised an exception or returned another type or shape.
        """
        values = self._returned(count, draw)
        several = isinstance(values, Tensor | np.ndarray) and values.ndim == 2
        if not several or len(values) != count or not torch.as_tensor(values).isfinite().all():
            shape = list(values.shape) if hasattr(values, "shape") else type(values).__name__
            raise DataError(
                f"{self} returned {shape} for {count} draws: the function must return finite "
                f"numbers [{count}, D]"
            )
        return torch.as_tensor(values).double()

    def _returned(self, *arguments: object) -> Any:
        try:
            return self.function(*arguments)
        except Exception as error:
            if self.token is not None:  # the caller is a Python program, which has the traceback
                raise DataError(f"{self} raised {type(error).__name__}: {error}") from error
            raise _in_a_line(error, self.path, str(self)) from None


def object_in_file(text: str, option: str) -> tuple[Path, str, Any]:
    """Run a user's file and return its path, and the name and the value of an object in it.

    Args:
        text: File and name, as ``FILE.py:name``.
        option: Name of the command-line option, for error messages.

    Raises:
        UsageError: The file does not exist.
        DataError: Running the file raised an exception, whose traceback was printed to stderr.
    """
    file, _, name = text.rpartition(":")
    path = Path(file).absolute()
    if not name.isidentifier() or path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"--{option} is '{text}': give FILE.py:function, with the path of an existing file"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _in_a_line(error, path, file) from None
    return path, name, getattr(module, name, None)


class UserLikelihood(Likelihood):
    """A log likelihood supplied by the user, as a function in a file.

    The function takes points ``[N, D]`` and returns log likelihoods ``[N]``, in nats.

    Args:
        text: File and function, as ``FILE.py:function``.

    Raises:
        UsageError: The file does not exist, or has no callable with that name.
        DataError: Running the file raised an exception.
    """

    own = True

    def __init__(self, text: str):
        self._function = UserFunction.load(text, "likelihood")

    def to(self, device: torch.device) -> "UserLikelihood":
        """Return the likelihood unchanged: the function takes points on any device."""
        return self

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        """Return the function's log likelihoods ``[N]`` of points ``[N, D]``, in nats."""
        return self._function(points)

    def is_differentiable(self, points: Tensor) -> bool:
        """Return whether the function's values have gradients with respect to points."""
        with torch.enable_grad():
            values = self.log_prob(points.detach().clone().requires_grad_(), points[:, :0])
        return values.requires_grad

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Raise UsageError: the function cannot simulate observations."""
        raise UsageError(
            f"{self._function} returns likelihoods but cannot simulate observations: "
            "check needs gaussian, mask or linear"
        )


def _in_a_line(error: Exception, path: Path, where: str) -> DataError:
    """Print the traceback from the user's file on, and return the error that ends the script."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename) != path:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    print("".join(lines), end="", file=sys.stderr)
    return DataError(f"{where} raised {type(error).__name__}: {error}")
