"""Hierarchical models: the population of which the posteriors of members are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from dnnlib.numbers import beside, rounded
from dnnlib.warned import warn
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.formats import listed
from training.files.arrays import evenly
from training.files.population import QUANTILES, SavedPopulation
from training.files.posterior_draws import SavedPosteriors
from training.flow.coordinates.maps import Bounded
from training.inference.population import (
    LARGEST_NOISE,
    LARGEST_R_HAT,
    Population,
    PopulationPlan,
    sample_population,
)
from training.models.checkpoint import progress
from training.models.results import PopulationDraws
from training.names import CHAINS, POPULATION, UNIFORM
from training.settings.posterior import PopulationSettings
from training.subjects import TableFlow
from training.subjects.likelihoods import normal_model, prior_of
from training.subjects.parameter_priors import ParameterPrior, prior_in_file
from training.trained.network import TrainedNetwork

MOST_WEIGHTS, FEWEST_DRAWS = 2**17, 2000
"""Maximum number of draws of all members weighted in each step, and minimum number per member,
which takes precedence.
"""
IDENTITY = "identity"
"""Description of a parameter that is normal without a transform."""
PRIOR_DRAWS = 2000
"""Number of draws that describe a prior whose draws are not in the file."""
WIDER = 1.5
"""Standard deviation of the prior of a second round, relative to that of a new member."""


def population(
    settings: PopulationSettings,
    saved: SavedPosteriors,
    name: str,
    prior_file: str = "the attribute prior",
) -> PopulationDraws:
    """Infer a hierarchical model from the posterior draws of its members.

    Args:
        settings: Settings.
        saved: Draws of the posterior of each member.
        name: Name of the data of the prior for new members.
        prior_file: Name of the prior for new members, for messages.

    Raises:
        DataError: Draws are beyond their bounds, or there are too few members.
    """
    before = MemberPrior.of(settings, saved)
    points = members_of(saved)
    y, log_det = before.coordinates(points)
    if not y.isfinite().all():
        column = saved.names[int((~y.isfinite()).flatten(0, 1).any(dim=0).int().argmax())]
        raise DataError(f"{saved.path}: draws of '{column}' are beyond its bounds")
    log_prior = before.log_prior(points, saved.names) - log_det
    draws = ceil(settings.n_draws / CHAINS)
    plan = PopulationPlan(CHAINS, draws, draws // 2, seed=settings.seed)
    with progress(f"Weighing draws of {len(y)} members", "population", plan.steps, "step") as move:
        drawn = sample_population(y, log_prior, before.mean, before.std, plan, move)
    count = len(points)
    result = SavedPopulation(
        tuple(saved.names),
        drawn.mean.numpy(),
        drawn.spread.numpy(),
        before.coordinates.inverse(drawn.further(settings.seed)).numpy(),
        points[torch.arange(count), drawn.members].numpy(),
        points.quantile(torch.tensor(QUANTILES).double(), dim=1).numpy(),
    )
    mean, std = drawn.distribution
    model = normal_model(saved.names, before.ends, mean, WIDER * std)
    about = {
        "data_name": name,
        POPULATION: {"mean": before.mean.tolist(), "std": before.std.tolist()},
    }
    numbers = numbers_of(result, drawn, points)
    facts = {
        "members": count,
        "converged": drawn.converged,
        "noise": drawn.noise,
        "effective_size": float(drawn.worth.min()),
        "coordinates": dict(zip(saved.names, before.words, strict=True)),
        "prior": {
            name: {"mean": float(middle), "std": float(width)}
            for name, middle, width in zip(saved.names, before.mean, before.std, strict=True)
        },
        **numbers,
        "options": settings.recorded(),
    }
    report(result, drawn, before.words, points, numbers["population"], prior_file)
    prior = replace(model, about={**model.about, **about})
    return PopulationDraws(arrays=result, facts=facts, prior=prior)


@dataclass(frozen=True)
class MemberPrior:
    """Prior of a member, before any observation.

    Attributes:
        ends: Bounds ``[D, 2]`` of the parameters, which a transform maps to infinity.
        mean: Mean ``[D]`` of a member in the transformed coordinates.
        std: Standard deviation ``[D]`` of a member in the transformed coordinates.
        prior: Prior of the draws; None for a uniform distribution.
    """

    ends: Tensor
    mean: Tensor
    std: Tensor
    prior: TableFlow | ParameterPrior | None

    @classmethod
    def of(cls, settings: PopulationSettings, saved: SavedPosteriors) -> "MemberPrior":
        """Determine the prior from the options and a file of draws.

        If the draws were made with the prior of an earlier population, it is that population's own
        prior.

        Raises:
            UsageError: Options do not match the draws.
            DataError: A file is missing or broken.
        """
        prior: TableFlow | ParameterPrior | None = None
        known, given = None, prior_in_file(settings.prior)
        if not isinstance(given, str | TrainedNetwork):
            prior = ParameterPrior.of(given, saved.names)
        elif given != UNIFORM:
            prior = prior_of(given, saved.names)
            known = prior.network.about.get(POPULATION)
        if known is not None:
            assert isinstance(prior, TableFlow)
            if settings.bounds is not None:
                raise UsageError(
                    "--bounds must equal those of the earlier hierarchical model: leave --bounds "
                    "out"
                )
            order = [prior.names.index(name) for name in saved.names]
            bounded = prior.coordinates.maps[0]
            try:
                mean, std = (
                    torch.tensor(known[key], dtype=torch.float64)[order] for key in ("mean", "std")
                )
            except (KeyError, TypeError, ValueError, IndexError):
                raise DataError(
                    f"{settings.prior} contains an invalid hierarchical model"
                ) from None
            assert isinstance(bounded, Bounded)
            return cls(bounded.ends[order], mean, std, prior)
        named = {name: (low, high) for name, low, high in settings.bounds or ()}
        if settings.bounds is None and isinstance(prior, ParameterPrior):
            named = prior.bounds
        for name in named:
            if name not in saved.names:
                raise UsageError(f"--bounds names '{name}', but draws are of {listed(saved.names)}")
        pairs = [named.get(name, (-torch.inf, torch.inf)) for name in saved.names]
        ends = torch.tensor(pairs, dtype=torch.float64)
        if saved.prior is not None:
            rows = torch.from_numpy(saved.prior)
        elif isinstance(prior, ParameterPrior):
            rng = np.random.default_rng(settings.seed)
            rows = torch.from_numpy(prior.sample(PRIOR_DRAWS, rng))
        elif prior is not None:
            order = [prior.names.index(name) for name in saved.names]
            generator = seeded_generator("cpu", settings.seed, Stream.PRIOR_DRAWS)
            rows = prior.flow.sample(PRIOR_DRAWS, generator).cpu()[:, order]
        else:  # a flow's prior is about as wide as all posteriors together, or wider
            rows = members_of(saved).flatten(0, 1)
        y, _ = Bounded.between(ends)(rows.double())
        y = y[y.isfinite().all(dim=1)]
        return cls(ends, y.mean(dim=0), y.std(dim=0), prior)

    @property
    def coordinates(self) -> Bounded:
        """Coordinates in which the population is normal."""
        return Bounded.between(self.ends)

    @property
    def words(self) -> list[str]:
        """Description of each transformed coordinate, such as the log of a parameter."""
        words = []
        for low, high in self.ends.tolist():
            if np.isfinite([low, high]).all():
                words.append(f"probit between {low:g} and {high:g}")
            elif np.isfinite([low, high]).any():
                words.append(f"log above {low:g}" if np.isfinite(low) else f"-log below {high:g}")
            else:
                words.append(IDENTITY)
        return words

    def log_prior(self, points: Tensor, names: Sequence[str]) -> Tensor:
        """Return log densities ``[M, N]`` of points ``[M, N, D]``, up to a constant.

        Raises:
            DataError: A point is outside the range of the flow.
        """
        if self.prior is None:
            return torch.zeros(points.shape[:2], dtype=torch.float64)
        if isinstance(self.prior, ParameterPrior):
            density = self.prior.log_prob(points.flatten(0, 1).numpy())
            return torch.from_numpy(density).view(points.shape[:2])
        order = [list(names).index(name) for name in self.prior.names]
        return self.prior.flow.log_prob(points.flatten(0, 1)[:, order]).view(points.shape[:2])


def members_of(saved: SavedPosteriors) -> Tensor:
    """Return evenly thinned draws ``[M, N, D]`` of the posterior of each member."""
    chains, draws, count, dim = saved.points.shape
    every = torch.from_numpy(saved.points).movedim(2, 0).reshape(count, -1, dim)
    most = max(MOST_WEIGHTS // count, FEWEST_DRAWS)
    return every[:, evenly(chains * draws, most)].double()


def moments(values: np.ndarray) -> dict[str, Any]:
    """Return mean, standard deviation and quantiles of draws ``[N]``."""
    quantiles = np.quantile(values, QUANTILES).tolist()
    shown = dict(zip(map(str, QUANTILES), quantiles, strict=True))
    return {"mean": float(values.mean()), "std": float(values.std()), "quantiles": shown}


def numbers_of(result: SavedPopulation, drawn: Population, points: Tensor) -> dict[str, Any]:
    """Return the JSON entries of the population and of each member.

    The ``points`` are draws ``[M, N, D]`` of each member's own posterior.
    """
    names, r_hat = result.names, drawn.r_hat.tolist()
    of_population = {
        name: {
            "r_hat": {"mean": r_hat[place], "spread": r_hat[place + len(names)]},
            **{
                key: moments(getattr(result, key)[..., place].ravel())
                for key in ("mean", "spread", "further")
            },
        }
        for place, name in enumerate(names)
    }
    posteriors = [
        {
            name: {
                **moments(result.members[:, :, member, place].ravel()),
                "alone": {"mean": float(own[:, place].mean()), "std": float(own[:, place].std())},
            }
            for place, name in enumerate(names)
        }
        for member, own in enumerate(points)
    ]
    return {"population": of_population, "posteriors": posteriors}


def report(
    result: SavedPopulation,
    drawn: Population,
    words: Sequence[str],
    points: Tensor,
    of_population: Mapping[str, Any],
    prior: str,
) -> None:
    """Print the population, and why it has not converged.

    The lines also report how much narrower the posteriors of its members are.

    Args:
        result: The draws.
        drawn: The draws in coordinates in which the population is normal.
        words: Description of each coordinate.
        points: Draws of each member's own posterior ``[M, N, D]``.
        of_population: JSON entries of the population.
        prior: Name of the file of a prior that was written for another round.
    """
    alone = points.std(dim=1).numpy()
    narrower = np.median(result.members.std(axis=(0, 1)) / alone, axis=0)
    for place, (name, coordinate) in enumerate(zip(result.names, words, strict=True)):
        mean, spread, further = (of_population[name][key] for key in ("mean", "spread", "further"))
        low, _, high = further["quantiles"].values()
        of = "" if coordinate == IDENTITY else f" (of its {coordinate})"
        logger.info(
            f"{name}: population mean{of} {beside(mean['mean'], mean['std'])} ± "
            f"{rounded(mean['std'], 2)}, population standard deviation {spread['mean']:.3g} ± "
            f"{rounded(spread['std'], 2)}; a new member has {beside(low, high - low)} to "
            f"{beside(high, high - low)} (90 %); posteriors of members are {narrower[place]:.2g} "
            "times as wide as alone"
        )
    count, least, most = len(points), float(drawn.worth.min()), float(drawn.worth.max())
    r_hat = float(drawn.r_hat.max())
    logger.info(
        f"{count} members; largest R-hat {r_hat:.3f}; effective sample size of each "
        f"member's draws under the hierarchical model {least:.0f} to {most:.0f}, which "
        f"gives an error of {drawn.noise:.2f} standard deviations in its parameters"
    )
    why = []
    if drawn.noise > LARGEST_NOISE:
        why.append(
            f"The members have too few draws: the smallest effective sample size is {least:.0f}, "
            f"of member {int(drawn.worth.argmin()) + 1}, and an error above {LARGEST_NOISE:g} "
            "standard deviations is not accepted. Sample the members again with "
            f"--prior={prior} and {float(rounded((drawn.noise / LARGEST_NOISE) ** 2, 2)):g} times "
            "as many --draws, and run population on these draws with the same --prior."
        )
    if not r_hat <= LARGEST_R_HAT:
        why.append(
            f"Chains disagree: R-hat is {r_hat:.3g}, need at most {LARGEST_R_HAT:g}. Give more "
            "--n_draws."
        )
    if why:
        warn(
            "not-converged",
            f"the population has not converged. {' '.join(why)}",
            r_hat=r_hat,
            effective_size=least,
            noise=drawn.noise,
        )
