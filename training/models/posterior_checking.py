"""Checks of posteriors by simulation-based calibration: true values, runs, and the report."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from training.inference.likelihoods import Likelihood
from training.measure.posterior.calibration import calibrate
from training.models.check_runs import Check, LearnedCheck, LearnedRuns
from training.models.inference import InferenceTask
from training.models.posterior_reports import CheckReport
from training.names import FEWEST_RUNS
from training.settings.posterior import CheckSettings
from training.subjects import Subject, TableFlow
from training.subjects.subject import required


@dataclass(frozen=True, eq=False)
class LikelihoodCases:
    """True values and observations for a check of posteriors with a likelihood.

    Attributes:
        likelihood: Likelihood.
        observed: Observations ``[R, K]``; a single one if observations are simulated.
        data: True points ``[R, D]``; None if they are drawn from the prior.
        labels: Conditions of the network for each run ``[R, L]``; None for none.
    """

    likelihood: Likelihood
    observed: Tensor
    data: Tensor | None
    labels: Tensor | None


def check_settings(task: InferenceTask) -> CheckSettings:
    """Return the settings of a task that checks posteriors."""
    assert isinstance(task.settings, CheckSettings)
    return task.settings


def opened(settings: CheckSettings) -> InferenceTask:
    """Open the task of a check, with at most as many runs as the data set has rows.

    Raises:
        UsageError: Settings do not fit the network, or the data set has too few rows.
        DataError: A file is missing or broken.
    """
    task = InferenceTask.open(settings)
    require_checkable(settings, task.subject)
    possible = with_available_runs(settings, task)
    if possible.runs < settings.runs:
        logger.info(f"{settings.data_root} has {possible.runs} test cases: all of them are used")
    return replace(task, settings=possible)


def cases_of(task: InferenceTask) -> LikelihoodCases | LearnedRuns:
    """Return the true values and observations of a check.

    Raises:
        UsageError: The likelihood cannot simulate observations.
        DataError: The data set is broken, or has too few rows.
    """
    settings, subject = check_settings(task), task.subject
    seed = settings.sampler.seed
    if settings.learned:
        assert isinstance(subject, TableFlow)
        data_root = required(settings.data_root)
        return LearnedRuns.draw(subject, data_root, settings.runs, seed)
    labels = subject.truth_labels(settings.data_root, settings.runs, seed)
    if task.learned is not None:
        source = required(settings.data_root)
        data, trials = task.learned.simulations(source, settings.runs, seed, subject.names)
        likelihood = task.learned.likelihood(trials, subject.names)
        return LikelihoodCases(likelihood, likelihood.numbers, data, labels)
    user = task.likelihood()
    nothing = torch.zeros(1, subject.dim, dtype=torch.float64)
    observed = user.simulate(nothing, torch.Generator())
    if settings.truth == "flow":
        return LikelihoodCases(user, observed, None, labels)
    data = subject.truths(settings.data_root, settings.runs, seed)
    return LikelihoodCases(user, observed, data, labels)


def check(
    task: InferenceTask,
    cases: LikelihoodCases | LearnedRuns,
    folder: Path | None = None,
) -> CheckReport:
    """Test whether posteriors are calibrated.

    Args:
        task: Inference task, on its device.
        cases: True values and observations.
        folder: See ``posterior_sampling.sample``.
    """
    if isinstance(cases, LearnedRuns):
        return _check_conditional(task, cases, folder)
    return _check_with_likelihood(task, cases, folder)


def _content(task: InferenceTask, question: str) -> dict[str, Any]:
    """Return plain values about the subject and the settings of a check."""
    known = {"options": task.recorded, "network_sha256": task.subject.digest}
    return {"question": question, "solvers": task.solvers, **known}


def _check_with_likelihood(
    task: InferenceTask, cases: LikelihoodCases, folder: Path | None
) -> CheckReport:
    settings, subject = check_settings(task), task.subject
    sources = settings.likelihood.files
    checkpoint = task.checkpoint(settings.runs, [cases.data, cases.labels], sources, folder)
    problem, simulates = task.problem(cases.likelihood, cases.observed), task.learned is None
    with checkpoint.report_interruption():
        functions = subject.quantities(settings.data_root, settings.runs, settings.sampler.seed)
        # Conditions belong to the rows as they are, without the noise of draws.
        values = Check(
            problem,
            task.plan,
            subject.names,
            cases.data,
            simulates,
            simulates,
            functions,
            cases.labels,
        ).run(checkpoint)
    content = _content(task, "sampler" if cases.data is None else "model")
    tests = calibrate(values, settings.level)
    return CheckReport(values, tests, content, checkpoint.fingerprint)


def _check_conditional(task: InferenceTask, runs: LearnedRuns, folder: Path | None) -> CheckReport:
    settings, subject = check_settings(task), task.subject
    checkpoint = task.checkpoint(len(runs), runs.tensors, [], folder)
    amortized = task.amortized(task.fine, runs.conditions.to(subject.flow.device))
    with checkpoint.report_interruption():
        values = LearnedCheck(amortized, runs, subject.names).run(checkpoint)
    tests = calibrate(values, settings.level)
    content = _content(task, "model")
    return CheckReport(values, tests, content, checkpoint.fingerprint, task.within)


def require_checkable(settings: CheckSettings, subject: Subject) -> None:
    """Check that the options fit a check of this network or toy.

    Raises:
        UsageError: An option does not fit.
    """
    if settings.of_trials and settings.truth == "flow":
        raise UsageError(
            "a learned likelihood is checked on simulations of your own program: give "
            "--truth=data --data_root=SIMULATIONS"
        )
    if not subject.condition_names:
        if not settings.of_trials:
            settings.likelihood.require()
        return
    if not settings.learned:
        raise UsageError(
            f"a conditional network is checked without a likelihood: leave "
            f"--{min(settings.likelihood.typed)} out"
        )
    settings.require_alone()
    if settings.truth == "flow":
        raise UsageError(
            "draws of a conditional flow are calibrated with respect to itself, so "
            "--truth=flow tests nothing: give --truth=data --data_root=SIMULATIONS"
        )


def with_available_runs(settings: CheckSettings, task: InferenceTask) -> CheckSettings:
    """Return settings with at most as many runs as the data set has rows.

    A number of runs that the user gave is not changed.

    Raises:
        UsageError: There is no data set, or it has too few rows for any check.
        DataError: The data set is broken.
    """
    if settings.truth != "data" or "runs" in settings.given:
        return settings
    if task.learned is None:
        there = task.subject.testable(settings.data_root)
    else:
        there = task.learned.testable(required(settings.data_root))
    if there is None or there >= settings.runs:
        return settings
    if there < FEWEST_RUNS:
        raise UsageError(
            f"{settings.data_root} has {there} test cases: need at least {FEWEST_RUNS}"
        )
    return replace(settings, runs=there)
