"""Likelihoods that the user writes: ``FILE.py:function`` of points in data units.

The function takes points ``[N, D]``, a float64 tensor, and returns log likelihoods ``[N]`` of what
was observed. Samplers that follow gradients need it to be differentiable by torch. The file is the
user's own program and is run as such; network and results files never are.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.inference.likelihoods import Likelihood, checked


class UserLikelihood(Likelihood):
    """A function of a file.

    Args:
        path: The file.
        name: The function's name in it.
        function: Log likelihoods ``[N]`` of points ``[N, D]``.
    """

    def __init__(self, path: Path, name: str, function: Callable[[Tensor], Tensor]):
        self._path, self._name, self._function = path, name, function

    @classmethod
    def load(cls, text: str) -> "UserLikelihood":
        """The function that ``FILE.py:function`` names.

        Raises:
            UsageError: There is no such file, or nothing of that name to call in it.
            DataError: The file raised when it was run; its own traceback went to stderr.
        """
        file, _, name = text.rpartition(":")
        path = Path(file).absolute()
        if not name.isidentifier() or path.suffix != ".py" or not path.is_file():
            raise UsageError(
                f"--likelihood is '{text}': give FILE.py:function, of a file that exists"
            )
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise _told(error, path, file) from None
        function = getattr(module, name, None)
        if not callable(function):
            raise UsageError(f"{file} has no function '{name}'")
        return cls(path, name, function)

    def to(self, device: torch.device) -> "UserLikelihood":
        return self

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        where = f"{self._path}:{self._name}"
        try:
            found = self._function(points)
        except Exception as error:
            raise _told(error, self._path, where) from None
        if not isinstance(found, Tensor) or found.shape != points.shape[:1]:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise DataError(
                f"{where} returned {shape} for points {list(points.shape)}: it must return a "
                f"tensor [{len(points)}]"
            )
        return checked(found.double(), where)

    def is_differentiable(self, points: Tensor) -> bool:
        with torch.enable_grad():
            found = self.log_prob(points.detach().clone().requires_grad_(), points[:, :0])
        return found.requires_grad

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        raise UsageError(
            f"{self._path}:{self._name} gives likelihoods, but draws no observations: a check "
            "needs one of gaussian, mask or linear"
        )


def _told(error: Exception, path: Path, where: str) -> DataError:
    """Shows the traceback from the user's file on, and gives the error that ends the script."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename) != path:
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    print("".join(lines), end="", file=sys.stderr)
    return DataError(f"{where} raised {type(error).__name__}: {error}")
