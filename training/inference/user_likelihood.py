"""Densities that the user writes: ``FILE.py:function`` of points in data units.

A likelihood takes points ``[N, D]``, a float64 tensor, and returns log likelihoods ``[N]`` of what
was observed. Samplers that follow gradients need it to be differentiable by torch. A posterior also
takes what was observed, ``[N, C]``, and returns logs up to a constant. The file is the user's own
program and is run as such; network and results files never are.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.inference.likelihoods import Likelihood, checked


@dataclass(frozen=True)
class UserFunction:
    """A function of a file, which gives a number for each point.

    Attributes:
        path: The file.
        name: The function's name in it.
        function: Numbers ``[N]`` of points ``[N, D]``, and of what else it takes.
    """

    path: Path
    name: str
    function: Callable[..., Tensor]

    @classmethod
    def load(cls, text: str, option: str) -> "UserFunction":
        """The function that ``FILE.py:function`` names.

        Args:
            text: What was typed.
            option: The option that it was typed for.

        Raises:
            UsageError: There is no such file, or nothing of that name to call in it.
            DataError: The file raised when it was run; its own traceback went to stderr.
        """
        file, _, name = text.rpartition(":")
        path = Path(file).absolute()
        if not name.isidentifier() or path.suffix != ".py" or not path.is_file():
            raise UsageError(
                f"--{option} is '{text}': give FILE.py:function, of a file that exists"
            )
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise _in_a_line(error, path, file) from None
        function = getattr(module, name, None)
        if not callable(function):
            raise UsageError(f"{file} has no function '{name}'")
        return cls(path, name, function)

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"

    def __call__(self, points: Tensor, *others: Tensor) -> Tensor:
        """Logs ``[N]`` of points ``[N, D]``, in float64.

        Raises:
            DataError: The function raised, or returned something else.
        """
        try:
            values: Any = self.function(points, *others)
        except Exception as error:
            raise _in_a_line(error, self.path, str(self)) from None
        if not isinstance(values, Tensor) or values.shape != points.shape[:1]:
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise DataError(
                f"{self} returned {shape} for points {list(points.shape)}: it must return a "
                f"tensor [{len(points)}]"
            )
        return checked(values.double(), str(self))

    def drawn(self, count: int, draw: np.random.Generator) -> Tensor:
        """Points ``[count, D]`` that the function, a prior, draws by a generator; float64.

        Raises:
            DataError: The function raised, or returned something else.
        """
        try:
            values: Any = self.function(count, draw)
        except Exception as error:
            raise _in_a_line(error, self.path, str(self)) from None
        several = isinstance(values, Tensor | np.ndarray) and values.ndim == 2
        if not several or len(values) != count or not torch.as_tensor(values).isfinite().all():
            shape = list(values.shape) if hasattr(values, "shape") else type(values).__name__
            raise DataError(
                f"{self} returned {shape} for {count} draws: it must return finite numbers "
                f"[{count}, D]"
            )
        return torch.as_tensor(values).double()

    def simulated(self, points: Tensor, draw: np.random.Generator, width: int) -> Tensor:
        """Data ``[N, width]`` that the function, a simulator, makes of points ``[N, D]`` by draws
        of a generator; float64.

        Raises:
            DataError: The function raised, or returned something else.
        """
        try:
            values: Any = self.function(points, draw)
        except Exception as error:
            raise _in_a_line(error, self.path, str(self)) from None
        wanted = (len(points), width)
        if not isinstance(values, Tensor | np.ndarray) or tuple(values.shape) != wanted:
            shape = list(values.shape) if hasattr(values, "shape") else type(values).__name__
            raise DataError(
                f"{self} returned {shape} for points {list(points.shape)}: it must return data "
                f"{list(wanted)}"
            )
        return torch.as_tensor(values).double()


class UserLikelihood(Likelihood):
    """A function of a file.

    Args:
        function: Log likelihoods ``[N]`` of points ``[N, D]``.
    """

    own = True

    def __init__(self, function: UserFunction):
        self._function = function

    @classmethod
    def load(cls, text: str) -> "UserLikelihood":
        """The likelihood that ``FILE.py:function`` names; raises as ``UserFunction.load`` does."""
        return cls(UserFunction.load(text, "likelihood"))

    def to(self, device: torch.device) -> "UserLikelihood":
        return self

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        return self._function(points)

    def is_differentiable(self, points: Tensor) -> bool:
        with torch.enable_grad():
            values = self.log_prob(points.detach().clone().requires_grad_(), points[:, :0])
        return values.requires_grad

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        raise UsageError(
            f"{self._function} gives likelihoods, but draws no observations: a check "
            "needs one of gaussian, mask or linear"
        )


def _in_a_line(error: Exception, path: Path, where: str) -> DataError:
    """Shows the traceback from the user's file on, and gives the error that ends the script."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename) != path:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    print("".join(lines), end="", file=sys.stderr)
    return DataError(f"{where} raised {type(error).__name__}: {error}")
