"""Flows that inflate data to a Gaussian of the same or lower dimension, and back.

What is exported here is stable, and ``docs/howto/python.md`` shows how to use it. It is imported
when it is first asked for, so that ``import training`` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.commands.adapters import FlowDensity, SbiPosterior, sbi_estimator
    from training.commands.answers import Answers
    from training.commands.datasets import Images, Records, Simulations, Table, Toy
    from training.commands.guarantees import Guarantee
    from training.commands.models import Model, PosteriorDraws
    from training.commands.predictors import FlowClassifier, FlowRegressor
    from training.commands.priors import normal_prior
    from training.commands.rounds import rounds
    from training.flow.distribution import FlowDistribution
    from training.flow.eigenbasis import EigenBasis
    from training.flow.latent.distributions import GaussianLatents, LatentDistribution
    from training.flow.pfode import ProbabilityFlow
    from training.flow.schedules import InflationSchedule

_HOMES = {
    "Answers": "commands.answers",
    "EigenBasis": "flow.eigenbasis",
    "Images": "commands.datasets",
    "Guarantee": "commands.guarantees",
    "FlowClassifier": "commands.predictors",
    "FlowDensity": "commands.adapters",
    "FlowDistribution": "flow.distribution",
    "FlowRegressor": "commands.predictors",
    "GaussianLatents": "flow.latent.distributions",
    "InflationSchedule": "flow.schedules",
    "LatentDistribution": "flow.latent.distributions",
    "Model": "commands.models",
    "PosteriorDraws": "commands.models",
    "ProbabilityFlow": "flow.pfode",
    "Records": "commands.datasets",
    "SbiPosterior": "commands.adapters",
    "normal_prior": "commands.priors",
    "rounds": "commands.rounds",
    "sbi_estimator": "commands.adapters",
    "Simulations": "commands.datasets",
    "Table": "commands.datasets",
    "Toy": "commands.datasets",
}

__all__ = [
    "Answers",
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
