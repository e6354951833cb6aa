"""Members of a population: what ``posterior.py population`` runs."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from training.files.arrays import evenly
from training.files.population import FORMAT, QUANTILES, SavedPopulation
from training.files.posterior_draws import SavedPosteriors, load_netcdf
from training.inference.population import (
    FEWEST_WORTH,
    Population,
    PopulationPlan,
    Unbounded,
    sample_population,
)
from training.names import TABLE, UNIFORM
from training.options.posterior import PopulationSettings
from training.runs.posterior_results import report_files, write_numbers
from training.subjects import NetworkFile, TableFlow

NOT_CONVERGED = 3
"""Exit code of ``--strict``."""
MOST_WEIGHTS, FEWEST_DRAWS = 2**16, 1000
"""Draws of all members that are weighed in each step, unless that leaves one too few."""


@first_rank_only
def population(settings: PopulationSettings) -> int:
    """Infers a population from a file of draws."""
    began, saved = perf_counter(), load_netcdf(settings.draws, 2**31, every_draw=True)
    stem = f"{settings.draws.stem}_population"
    files = [settings.save_dir / f"{stem}{suffix}" for suffix in (".npz", ".json")]
    require_new(files, settings.overwrite)
    coordinates = unbounded(settings, saved.names)
    points = members_of(saved)
    y, log_det = coordinates.of(points)
    if not y.isfinite().all():
        column = saved.names[int((~y.isfinite()).flatten(0, 1).any(dim=0).int().argmax())]
        raise DataError(f"{settings.draws}: draws of '{column}' are beyond its --bounds")
    log_prior = log_prior_of(settings.prior, saved.names, points) - log_det
    plan = PopulationPlan(settings.chains, settings.steps, settings.steps // 2, seed=settings.seed)
    center, scale = before_any(saved, coordinates, y)
    drawn = sample_population(y, log_prior, center, scale, plan)
    count = len(points)
    members = points[torch.arange(count), drawn.members]
    levels = torch.tensor(QUANTILES).double()
    result = SavedPopulation(
        tuple(saved.names),
        drawn.mean.numpy(),
        drawn.spread.numpy(),
        coordinates.back(drawn.further(settings.seed)).numpy(),
        members.numpy(),
        points.quantile(levels, dim=1).numpy(),
    )
    require_folder(settings.save_dir)
    result.save(files[0])
    content = {
        "members": count,
        "converged": drawn.converged,
        "worth": float(drawn.worth.min()),
        "coordinates": dict(zip(saved.names, words_of(coordinates), strict=True)),
        "prior": {
            name: {"mean": float(middle), "std": float(std)}
            for name, middle, std in zip(saved.names, center, scale, strict=True)
        },
        **numbers_of(result, drawn, points),
        "options": settings.recorded(),
    }
    write_numbers(files[1], FORMAT, began, content)
    report(result, drawn, coordinates, points)
    report_files(files[1], files[0], began)
    return NOT_CONVERGED if settings.strict and not drawn.converged else 0


def members_of(saved: SavedPosteriors) -> Tensor:
    """Draws ``[M, N, D]`` of each posterior, evenly spaced."""
    chains, draws, count, dim = saved.points.shape
    every = torch.from_numpy(saved.points).movedim(2, 0).reshape(count, -1, dim)
    most = max(MOST_WEIGHTS // count, FEWEST_DRAWS)
    return every[:, evenly(chains * draws, most)].double()


def before_any(saved: SavedPosteriors, coordinates: Unbounded, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[D]`` of a member under the prior; of flows that have learned
    posteriors, whose files have no draws of it, of all draws ``[M, N, D]`` together."""
    if saved.prior is not None:
        y, _ = coordinates.of(torch.from_numpy(saved.prior).double())
    rows = y.reshape(-1, y.shape[-1])
    rows = rows[rows.isfinite().all(dim=1)]
    return rows.mean(dim=0), rows.std(dim=0)


def unbounded(settings: PopulationSettings, names: Sequence[str]) -> Unbounded:
    """The coordinates of the options. Raises UsageError if a parameter is not there."""
    ends = {name: (low, high) for name, low, high in settings.bounds or ()}
    for name in ends:
        if name not in names:
            raise UsageError(f"--bounds names '{name}', but draws are of {', '.join(names)}")
    pairs = [ends.get(name, (-torch.inf, torch.inf)) for name in names]
    low, high = torch.tensor(pairs, dtype=torch.float64).T
    return Unbounded(low, high)


def words_of(coordinates: Unbounded) -> list[str]:
    """What each coordinate is."""
    words = []
    for low, high in zip(coordinates.low.tolist(), coordinates.high.tolist(), strict=True):
        if np.isfinite([low, high]).all():
            words.append(f"logit between {low:g} and {high:g}")
        elif np.isfinite([low, high]).any():
            words.append(f"log above {low:g}" if np.isfinite(low) else f"-log below {high:g}")
        else:
            words.append("itself")
    return words


def log_prior_of(prior: str, names: Sequence[str], points: Tensor) -> Tensor:
    """Log densities ``[M, N]`` of points ``[M, N, D]``.

    Raises:
        UsageError: The network is of other parameters.
        DataError: Its file is missing or broken, or a point has no place in it.
    """
    if prior == UNIFORM:
        return torch.zeros(points.shape[:2], dtype=torch.float64)
    file = NetworkFile.open(prior)
    if file.kind != TABLE:
        raise UsageError(f"--prior={prior} is of no table: give a flow of the parameters")
    flow = TableFlow.of(file, {}).require_unconditional()
    if sorted(flow.names) != sorted(names):
        raise UsageError(
            f"--prior={prior} is a flow of {', '.join(flow.names)}, but draws are of "
            f"{', '.join(names)}"
        )
    order = [list(names).index(name) for name in flow.names]
    return flow.flow.log_prob(points.flatten(0, 1)[:, order]).view(points.shape[:2])


def moments(values: np.ndarray) -> dict[str, Any]:
    """Of draws ``[N]``."""
    quantiles = np.quantile(values, QUANTILES).tolist()
    shown = dict(zip(map(str, QUANTILES), quantiles, strict=True))
    return {"mean": float(values.mean()), "std": float(values.std()), "quantiles": shown}


def numbers_of(result: SavedPopulation, drawn: Population, points: Tensor) -> dict[str, Any]:
    """What the JSON has of the population and of each member, beside draws ``[M, N, D]`` of each
    alone."""
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
    result: SavedPopulation, drawn: Population, coordinates: Unbounded, points: Tensor
) -> None:
    """Tells of the population, and how much narrower posteriors of its members are."""
    alone = points.std(dim=1).numpy()
    narrower = np.median(result.members.std(axis=(0, 1)) / alone, axis=0)
    for place, (name, words) in enumerate(zip(result.names, words_of(coordinates), strict=True)):
        mean, spread, further = (
            moments(getattr(result, key)[..., place].ravel())
            for key in ("mean", "spread", "further")
        )
        low, _, high = further["quantiles"].values()
        of = "" if words == "itself" else f" of its {words}"
        logger.info(
            f"{name}: mean{of} {mean['mean']:.4g} ± {mean['std']:.2g}, spread {spread['mean']:.3g} "
            f"± {spread['std']:.2g}; a further member has {low:.4g} to {high:.4g} (90 %); members "
            f"are {narrower[place]:.2g} times as wide as alone"
        )
    logger.info(
        f"{points.shape[0]} members; largest R-hat {float(drawn.r_hat.max()):.3f}; draws of each "
        f"alone are worth at least {float(drawn.worth.min()):.0f} in the population"
    )
    if not drawn.converged:
        why = "chains do not agree: give more --steps"
        if float(drawn.worth.min()) < FEWEST_WORTH:
            why = (
                "draws of a member are worth too few: sample it with more --draws, or by a prior "
                "that is nearer to the population"
            )
        logger.warning(f"Warning: the population has not converged: {why}")
