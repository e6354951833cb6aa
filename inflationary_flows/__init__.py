"""Flows that inflate data to a Gaussian of the same or lower dimension, and back.

This package exports the public names of ``training``. An installed copy contains ``training``,
``dnnlib`` and ``torch_utils`` below this package, so that other packages with these names cause no
conflicts.
"""

import typing

import training as _training
from dnnlib import __version__

if typing.TYPE_CHECKING:
    from training import *  # noqa: F403

__all__ = [*_training.__all__, "__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> typing.Any:
    return getattr(_training, name)
