"""Flows that inflate data to a Gaussian of the same or lower dimension, and back.

What is exported here is stable, and ``docs/howto/python.md`` shows how to use it. It is imported
when it is first asked for, so that ``import training`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.flow.distribution import FlowDistribution
    from training.flow.eigenbasis import EigenBasis
    from training.flow.latent.distributions import GaussianLatents, LatentDistribution
    from training.flow.pfode import ProbabilityFlow
    from training.flow.schedules import InflationSchedule
    from training.models.adapters import FlowDensity, SbiPosterior, sbi_estimator
    from training.models.answers import Answers
    from training.models.any_posterior import CalibratedPosterior, calibrate, check
    from training.models.datasets import Images, Records, Simulations, Table, Toy
    from training.models.draws import PosteriorDraws
    from training.models.guarantees import Guarantee
    from training.models.model import Model
    from training.models.predictors import FlowClassifier, FlowRegressor
    from training.models.priors import normal_prior
    from training.models.rounds import rounds

_HOMES = {
    "Answers": "models.answers",
    "CalibratedPosterior": "models.any_posterior",
    "calibrate": "models.any_posterior",
    "check": "models.any_posterior",
    "EigenBasis": "flow.eigenbasis",
    "Images": "models.datasets",
    "Guarantee": "models.guarantees",
    "FlowClassifier": "models.predictors",
    "FlowDensity": "models.adapters",
    "FlowDistribution": "flow.distribution",
    "FlowRegressor": "models.predictors",
    "GaussianLatents": "flow.latent.distributions",
    "InflationSchedule": "flow.schedules",
    "LatentDistribution": "flow.latent.distributions",
    "Model": "models.model",
    "PosteriorDraws": "models.draws",
    "ProbabilityFlow": "flow.pfode",
    "Records": "models.datasets",
    "SbiPosterior": "models.adapters",
    "normal_prior": "models.priors",
    "rounds": "models.rounds",
    "sbi_estimator": "models.adapters",
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
    "PosteriorDraws",
    "ProbabilityFlow",
    "Records",
    "SbiPosterior",
    "Simulations",
    "Table",
    "Toy",
    "calibrate",
    "check",
    "normal_prior",
    "rounds",
    "sbi_estimator",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
