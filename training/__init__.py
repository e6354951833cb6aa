"""Flows that inflate data to a Gaussian of the same or lower dimension, and back.

What is exported here is stable, and ``docs/api.md`` shows how to use it. It is imported when it is
first asked for, so that ``import training`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.data.toys import Toy
    from training.flow.eigenbasis import EigenBasis
    from training.flow.latent.laws import GaussianLaw, LatentLaw
    from training.flow.pfode import ProbabilityFlow
    from training.flow.schedules import InflationSchedule
    from training.model.model import Model

__all__ = [
    "EigenBasis",
    "GaussianLaw",
    "InflationSchedule",
    "LatentLaw",
    "Model",
    "ProbabilityFlow",
    "Toy",
]

_HOMES = {
    "EigenBasis": "training.flow.eigenbasis",
    "GaussianLaw": "training.flow.latent.laws",
    "InflationSchedule": "training.flow.schedules",
    "LatentLaw": "training.flow.latent.laws",
    "Model": "training.model.model",
    "ProbabilityFlow": "training.flow.pfode",
    "Toy": "training.data.toys",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'training' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
