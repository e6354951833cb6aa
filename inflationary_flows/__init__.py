"""Flows that inflate data to a Gaussian of the same or lower dimension, and back.

All that is exported here is that of ``training``, which an installed copy has below this name, as
it has ``dnnlib`` and ``torch_utils``: no other package of these names is in its way.
"""

from typing import TYPE_CHECKING, Any

import training
from dnnlib import __version__

if TYPE_CHECKING:
    from training import *  # noqa: F403

__all__ = [*training.__all__, "__version__"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    return getattr(training, name)
