"""Comparison of models with data (posterior predictive checks), and with each other (evidence)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from dnnlib.warned import warn
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.arrays import evenly
from training.files.posterior_draws import SavedPosteriors
from training.inference.draws import Draws
from training.inference.likelihoods import UserFunction
from training.inference.summary import Summary
from training.inference.trial_likelihoods import TrialLikelihood
from training.measure.posterior.predictive import Predictive, model_probabilities, needed
from training.models.group_sampling import sample_groups, without_points
from training.models.inference import InferenceTask
from training.models.posterior_reports import MOST_SHOWN
from training.models.posterior_sampling import sources_of
from training.models.results import ModelEvidence
from training.models.simulating import run_simulator
from training.names import script
from training.settings.inference import PriorOptions
from training.settings.posterior import CompareSettings, PredictSettings, SampleSettings

LARGEST_ERROR = 0.1
"""Error of a log evidence, in nats, from which a warning is logged."""
ERRORS = (
    "Errors of log evidences include only sampling noise. Errors of the learned "
    "likelihoods come in addition, and grow with the number of trials."
)
"""Statement on errors that are not included."""


def opened(settings: CompareSettings) -> tuple[list[InferenceTask], list[str]]:
    """Open the models to compare, and name them.

    Raises:
        UsageError: The models describe different data.
        DataError: A file is missing or broken.
    """
    tasks = [InferenceTask.open(one) for one in of_each(settings)]
    names = [one.learned.table.data_name for one in tasks if one.learned is not None]
    if len(set(names)) < len(names):
        names = [f"{name} ({place + 1})" for place, name in enumerate(names)]
    require_alike(tasks, names)
    return tasks, names


def compare(
    tasks: Sequence[InferenceTask],
    names: Sequence[str],
    settings: CompareSettings,
    folders: Sequence[Path | None] | None = None,
) -> ModelEvidence:
    """Compute evidences and probabilities of models for the same observations, and log them.

    Args:
        tasks: Tasks, one per model, on their device.
        names: Names of the models.
        settings: Settings.
        folders: Folders that keep finished groups, one per model; None keeps the groups in
            memory.
    """
    places = folders or [None] * len(tasks)
    sampled = [sampled_of(task, place) for task, place in zip(tasks, places, strict=True)]
    value, error = (  # log Z [M, models], nats, and its sampling error
        torch.stack([draws.stats[key] for draws, _, _ in sampled], dim=1)
        for key in ("evidence", "evidence_error")
    )
    shifts = torch.stack([each for _, _, each in sampled], dim=1)
    prior = torch.tensor(settings.weights or [1.0] * len(tasks), dtype=torch.float64)
    shares = prior / prior.sum()
    probability, probability_error = model_probabilities(value, error, prior)
    converged = torch.stack([summary.converged for _, summary, _ in sampled], dim=1)
    observations = [
        {
            "log_evidence": by_name(names, value[row]),
            "error": by_name(names, error[row]),
            "probability": by_name(names, probability[row]),
            "probability_error": by_name(names, probability_error[row]),
            "log_bayes_factor": by_name(names, value[row] - value[row].max()),
            "mean_errors": by_name(names, shifts[row]),
            "converged": dict(zip(names, converged[row].tolist(), strict=True)),
        }
        for row in range(len(value))
    ]
    facts = {
        "models": {
            name: {
                **{key: one.settings.prior.recorded()[key] for key in ("network", "prior")},
                "prior_probability": float(share),
                "network_sha256": one.learned.table.digest if one.learned else None,
                "samplers": sorted(set(draws.sampler)),
            }
            for name, one, share, (draws, _, _) in zip(names, tasks, shares, sampled, strict=True)
        },
        "observations": observations,
        "errors": ERRORS,
        "options": settings.recorded(device_name=str(tasks[0].subject.flow.device)),
    }
    result = ModelEvidence(
        names=names,
        log_evidence=value.numpy(),
        error=error.numpy(),
        probability=probability.numpy(),
        converged=converged.numpy(),
        shifts=shifts.numpy(),
        facts=facts,
    )
    if distributed.is_main():
        report(result)
    return result


def of_each(settings: CompareSettings) -> list[SampleSettings]:
    """Return the settings for sampling the posterior of each model."""
    priors = settings.priors * (len(settings.networks) if len(settings.priors) == 1 else 1)
    own = settings.named("save_dir", "observation", "sampler", "run")
    return [
        SampleSettings(prior=PriorOptions(network=network, prior=prior), **own)
        for network, prior in zip(settings.networks, priors, strict=True)
    ]


def require_alike(task: Sequence[InferenceTask], names: Sequence[str]) -> None:
    """Check that all models describe the same data, in the same units.

    Raises:
        UsageError: The data of two models differ.
    """
    distributions = []
    for one in task:
        assert one.learned is not None
        table = one.learned.table
        distributions.append(dict(zip(table.names, table.coordinates.steps.tolist(), strict=True)))
    for name, distribution in zip(names, distributions, strict=True):
        if distribution.keys() != distributions[0].keys():
            raise UsageError(
                f"{names[0]} models {', '.join(distributions[0])}, and {name} models "
                f"{', '.join(distribution)}: densities of different data cannot be compared"
            )
        apart = [
            column for column in distribution if distribution[column] != distributions[0][column]
        ]
        if apart:
            raise UsageError(
                f"'{apart[0]}' has bins of width {distributions[0][apart[0]]:g} in {names[0]}, but "
                f"of {distribution[apart[0]]:g} in {name}: make both data sets "
                "with more rows"
            )


def sampled_of(task: InferenceTask, folder: Path | None) -> tuple[Draws, Summary, Tensor]:
    """Draw from the posteriors of a model on its device.

    Returns:
        The draws, whose statistics have the evidence; their summary; and the minimum number of
        standard deviations by which errors of the learned likelihood shift posterior means ``[M]``.
    """
    likelihood, settings = task.likelihood(), task.settings
    assert isinstance(likelihood, TrialLikelihood)
    assert isinstance(settings, SampleSettings)
    assert task.learned is not None
    task.learned.warn_of_many(likelihood.trials)
    observed = likelihood.numbers
    files = sources_of(task)
    checkpoint = task.checkpoint(len(observed), [observed], files, folder)
    with checkpoint.report_interruption():
        parts = sample_groups(task.problem(likelihood, observed), task.plan, checkpoint)
    draws, summary = without_points(parts)
    if "evidence" not in draws.stats:
        raise UsageError(
            "this sampler does not estimate the evidence: give "
            "--sampler=auto, or another sampler with weights"
        )
    return draws, summary, task.learned.shifts(likelihood.trials)


def by_name(names: Sequence[str], values: Tensor) -> dict[str, Any]:
    """Return a tensor with one value per model as plain numbers, by the names of models."""
    return dict(zip(names, values.tolist(), strict=True))


def report(comparison: ModelEvidence) -> None:
    """Log the evidence of the first observations, and warn where numbers are not exact."""
    names, value, error = comparison.names, comparison.log_evidence, comparison.error
    chance, converged, shifts = comparison.probability, comparison.converged, comparison.shifts
    for row in range(min(len(value), MOST_SHOWN)):
        each = zip(names, value[row], error[row], chance[row], strict=True)
        verdicts = [
            f"{name} {z:.2f} ± {off:.2g} nats, probability {p:.3g}" for name, z, off, p in each
        ]
        logger.info(f"Observation {row + 1}: {'; '.join(verdicts)}")
    if len(value) > MOST_SHOWN:
        logger.info(f"{len(value) - MOST_SHOWN} more are in the JSON")
    row, model = divmod(int(shifts.argmax()), len(names))
    indication = (
        f" Errors of {names[model]} may shift the posterior means of observation {row + 1} "
        f"by {float(shifts[row, model]):.2g} standard deviations or more."
    )
    logger.info(ERRORS + indication * bool(shifts[row, model] > 0))
    wide = int((error > LARGEST_ERROR).sum())
    if wide:
        warn(
            "evidence-error",
            f"{wide} evidence(s) have sampling errors above {LARGEST_ERROR:g} "
            "nats: give more --draws",
            error=float(error.max()),
        )
    missed = int((~converged).any(axis=1).sum())
    if missed:
        warn(
            "not-converged",
            f"posteriors of {missed} of {len(value)} observations have not "
            "converged, so that their evidence may have larger errors than stated: run "
            f"{script('posterior')} sample for details",
        )


MOST_OBSERVATIONS = 20
FEWEST_SIMULATIONS, MOST_SIMULATIONS = 1000, 20_000


@dataclass(frozen=True, eq=False)
class PredictiveReport:
    """Result of posterior predictive checks.

    Attributes:
        simulated: Simulated data ``[M, S, Q]``, followed by the values of test statistics.
        observed: Observations ``[M, Q]``, followed by the values of test statistics.
        names: Names of the Q numbers.
        tests: Tests of the observations.
    """

    simulated: Tensor
    observed: Tensor
    names: list[str]
    tests: Predictive


def predict(saved: SavedPosteriors, settings: PredictSettings) -> PredictiveReport:
    """Run posterior predictive checks: compare data simulated from draws with the observations.

    Raises:
        UsageError: There is no simulator, or the draws do not contain their observations.
        DataError: The simulator raised an error, or returned invalid data.
    """
    if saved.observed is None:
        raise UsageError(
            f"{settings.draws} does not contain its observations: its likelihood is user-defined"
        )
    functions = [UserFunction.load(text, "function") for text in settings.function or ()]
    observed = torch.from_numpy(saved.observed)
    count, tests = len(observed), observed.shape[1] + len(functions)
    most = min(needed(tests * count, settings.level), MOST_SIMULATIONS)
    wanted = settings.simulations or max(FEWEST_SIMULATIONS, most)
    simulated = simulations(saved, settings, observed.shape[1], wanted)
    names = saved.number_names(observed.shape[1])
    for function in functions:
        names.append(function.name)
        values = function(simulated.flatten(0, 1)).view(count, -1, 1)
        own = function(torch.from_numpy(saved.observed))[:, None]
        simulated, observed = torch.cat([simulated, values], 2), torch.cat([observed, own], 1)
    generator = seeded_generator("cpu", settings.seed, Stream.RESAMPLING)
    result = Predictive.from_simulations(simulated, observed, names, settings.level, generator)
    return PredictiveReport(simulated, observed, names, result)


def simulations(
    saved: SavedPosteriors, settings: PredictSettings, width: int, wanted: int
) -> Tensor:
    """Simulate data ``[M, S, K]`` from the draws of each observation.

    Draws are reused if there are fewer than S.

    Raises:
        UsageError: There is no simulator, and the file has no likelihood to simulate from.
        DataError: The simulator raised an error, or returned invalid data.
    """
    chains, draws, count, dim = saved.points.shape
    every = torch.from_numpy(saved.points).movedim(2, 0).reshape(count, -1, dim)
    places = np.resize(evenly(chains * draws, wanted), wanted)
    points = every[:, places].flatten(0, 1)
    if settings.simulator is None:
        if saved.likelihood is None:
            raise UsageError(
                "Missing option '--simulator': these posteriors have no likelihood that "
                "can simulate data"
            )
        generator = seeded_generator("cpu", settings.seed, Stream.OBSERVATION_NOISE)
        data = saved.likelihood.simulate(points, generator)
    else:
        program = UserFunction.load(settings.simulator, "simulator")
        simulating = settings.simulating
        rows, _ = run_simulator(
            program, points, settings.seed, simulating.workers, simulating.block, width
        )
        data = torch.from_numpy(rows)
    if not data.isfinite().all():
        raise DataError(f"{int((~data.isfinite()).any(dim=1).sum())} simulations are not finite")
    return data.view(count, -1, width)
