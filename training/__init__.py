"""Flows that inflate data to a Gaussian of the same or lower dimension, and back.

What is exported here is stable, and ``docs/howto/python.md`` shows how to use it. It is imported
when it is first asked for, so that ``import training`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.flow.eigenbasis import EigenBasis
    from training.flow.latent import GaussianLatents, LatentDistribution
    from training.flow.pfode import FlowDistribution, ProbabilityFlow
    from training.flow.schedules import InflationSchedule
    from training.models.adapters import FlowDensity, SbiPosterior, sbi_estimator
    from training.models.answers import Answers
    from training.models.datasets import Images, Simulations, Table, Toy
    from training.models.draws import PosteriorDraws
    from training.models.guarantees import CalibratedPosterior, Guarantee, calibrate, check
    from training.models.model import Model
    from training.models.predictors import FlowClassifier, FlowRegressor
    from training.models.results import ModelEvidence, PopulationDraws, QueryDraws
    from training.models.rounds import rounds
    from training.models.simulated import simulate

_HOMES = {
    "Answers": "models.answers",
    "CalibratedPosterior": "models.guarantees",
    "calibrate": "models.guarantees",
    "check": "models.guarantees",
    "EigenBasis": "flow.eigenbasis",
    "Images": "models.datasets",
    "Guarantee": "models.guarantees",
    "FlowClassifier": "models.predictors",
    "FlowDensity": "models.adapters",
    "FlowDistribution": "flow.pfode",
    "FlowRegressor": "models.predictors",
    "GaussianLatents": "flow.latent",
    "InflationSchedule": "flow.schedules",
    "LatentDistribution": "flow.latent",
    "Model": "models.model",
    "ModelEvidence": "models.results",
    "PopulationDraws": "models.results",
    "PosteriorDraws": "models.draws",
    "ProbabilityFlow": "flow.pfode",
    "QueryDraws": "models.results",
    "SbiPosterior": "models.adapters",
    "rounds": "models.rounds",
    "sbi_estimator": "models.adapters",
    "simulate": "models.simulated",
    "Simulations": "models.datasets",
    "Table": "models.datasets",
    "Toy": "models.datasets",
}

__all__ = [
    "Answers",
    "CalibratedPosterior",
    "EigenBasis",
    "FlowClassifier",
    "FlowDensity",
    "FlowDistribution",
    "FlowRegressor",
    "GaussianLatents",
    "Guarantee",
    "Images",
    "InflationSchedule",
    "LatentDistribution",
    "Model",
    "ModelEvidence",
    "PopulationDraws",
    "PosteriorDraws",
    "ProbabilityFlow",
    "QueryDraws",
    "SbiPosterior",
    "Simulations",
    "Table",
    "Toy",
    "calibrate",
    "check",
    "rounds",
    "sbi_estimator",
    "simulate",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
