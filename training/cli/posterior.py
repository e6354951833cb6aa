"""Posteriors, checks of them, and mixtures: the functions behind ``posterior.py``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from training.cli.calibrating import AppliedCalibration
from training.cli.inference import InferenceTask
from training.cli.shared import warn_if_longer
from training.files.observations import read_observations
from training.files.posterior import FORMAT as MIXTURE_FORMAT
from training.files.posterior import overview, save_mixture
from training.files.posterior_draws import FORMAT, AboutDraws, save_netcdf
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian, Likelihood
from training.inference.mixtures import Components
from training.inference.summary import RULE, Summary
from training.inference.target import prior_draws
from training.inference.trial_likelihoods import TrialLikelihood
from training.measure.posterior.calibration import calibrate
from training.measure.posterior.local import calibrate_near
from training.names import FEWEST_RUNS, UNSOUND
from training.runs import posterior_results as results
from training.runs import posteriors
from training.runs.mixtures import MixturePlan, recover
from training.runs.posterior_checks import Check, LearnedCheck, LearnedRuns
from training.runs.simulation_settings import recorded_eps
from training.settings.posterior import (
    POINTS,
    RUNS,
    CheckSettings,
    MixtureOptions,
    MixtureSettings,
    SampleSettings,
)
from training.subjects import Subject, TableFlow
from training.subjects.subject import required

PRIOR_DRAWS = 2000
"""Number of prior draws in the file of draws, to compare posteriors with; none for images, where
they would take too long.
"""


def sample(settings: SampleSettings) -> int:
    """Draw from the posterior of each observation, write the results and print them.

    Returns:
        The exit code of ``draw``.
    """
    began = perf_counter()
    return draw(settings, InferenceTask.open(settings), began, {})


def draw(
    settings: SampleSettings, task: InferenceTask, began: float, more: Mapping[str, Any]
) -> int:
    """Draw from the posterior of each observation, write the results and print them.

    ``more`` contains entries of both files that replace the default ones.
    """
    seen = Observed.of(task, settings)
    held_out = AppliedCalibration.of(task, settings, seen.numbers)
    if held_out is not None and held_out.refuses(settings.refuse):
        return UNSOUND
    draws_file, numbers_file = task.files("posterior", ".nc")
    with distributed.process_group(settings.run.device_name) as device:
        task = task.on(device, [draws_file, numbers_file])
        subject, plan, fine, count = task.subject, task.plan, task.fine, len(seen.numbers)
        files = sources_of(task, settings)
        if isinstance(seen.likelihood, TrialLikelihood) and task.learned is not None:
            task.learned.warn_of_many(seen.likelihood.trials)
        groups, options = task.groups(numbers_file, count, [seen.numbers, seen.labels], files)
        nats = surprise_of(subject, seen.labels)
        with groups.report_interruption():
            prior = seen.sample(task, groups)
        if not distributed.is_main():
            groups.remove()
            return 0
        draws, summary = posteriors.without_points(groups)
        if nats is not None and subject.surprise is not None:
            summary = summary.with_reason("unlike", nats > subject.surprise.limit)
        run = {**about_of(task, options, draws), **more}
        about = AboutDraws(
            names=subject.names,
            run=run,
            observed=seen.saved(subject),
            likelihood=seen.likelihood,
            prior=prior,
            truth=seen.truth,
            worth=draws.stats.get("effective_size"),
            recalibrated=None if held_out is None else held_out.truths.recalibrated,
        )
        parts = posteriors.with_latents(groups, fine)
        save_netcdf(draws_file, parts, (plan.chains, plan.draws, count), about)
        blur = blur_of(task, seen, summary)
        errors = errors_of(task, settings, summary)
        numbers = overview(draws, summary, subject.names, nats, seen.truth, blur, errors)
        if seen.labels is not None and subject.condition_names:
            distribution = subject.surprise
            numbers["surprise"] = (
                None if distribution is None or nats is None else distribution.summary(nats)
            )
        held = None if held_out is None else held_out.posteriors(groups, numbers)
        results.write_numbers(numbers_file, FORMAT, began, {**run, "rule": RULE, **numbers})
        groups.remove()
        names = subject.names if subject.is_readable else []
        sharpened = settings.learned and task.sharpened(fine).sharpened
        results.report_draws(numbers, summary, names, blur, task.within, errors, sharpened)
        if held is not None and subject.is_readable:
            held.report()
        results.report_files(numbers_file, draws_file, began)
        why = (
            "the pilot run that chooses the number of particles is not included, and "
            "can take longer"
        )
        minutes = settings.sampler.minutes
        warn_if_longer("the draws", perf_counter() - began, minutes, why)
        return UNSOUND if settings.strict and not summary.converged.all() else 0


@dataclass(frozen=True, eq=False)
class Observed:
    """M observations whose posteriors are to be drawn.

    Attributes:
        numbers: Observations or conditions ``[M, K]``.
        labels: Conditions of a conditional network for each observation ``[M, L]``; None for none.
        likelihood: Likelihood of the observations; None if the flow was trained on the posterior
            itself.
        truth: True points ``[M, D]``; None if they are unknown.
    """

    numbers: Tensor
    labels: Tensor | None
    likelihood: Likelihood | None
    truth: Tensor | None

    @classmethod
    def of(cls, task: InferenceTask, settings: SampleSettings) -> "Observed":
        """Read the observations of a command.

        Raises:
            UsageError: Options contradict each other or the network, or the number of true points
                is not M.
            DataError: A file is broken.
        """
        likelihood = None if settings.learned else task.likelihood()
        numbers, labels = observations(task, settings, likelihood)
        truth = None if settings.truth is None else task.subject.points(settings.truth)
        if truth is not None and len(truth) != len(numbers):
            count = len(numbers)
            raise UsageError(f"--truth has {len(truth)} rows, but there are {count} observations")
        return cls(numbers, labels, likelihood, truth)

    def saved(self, subject: Subject) -> Tensor | None:
        """Return the observations for the file of draws; None for trials, whose counts differ."""
        own = self.likelihood is not None and self.likelihood.own
        return None if subject.of_sets or own else self.numbers

    def sample(self, task: InferenceTask, groups: posteriors.Groups) -> Tensor | None:
        """Draw from the posteriors into files of groups.

        Returns:
            Draws of the prior ``[N, D]``, to compare the posteriors with; None for images or
            without a likelihood.
        """
        if self.likelihood is None:
            assert self.labels is not None
            learned = task.amortized(task.fine, self.labels.to(task.subject.flow.device))
            posteriors.into_parts(groups, learned.sample, learned.chains * learned.draws)
            return None
        problem = task.problem(self.likelihood, self.numbers, self.labels)
        target = problem.target
        if isinstance(target.likelihood, Gaussian):
            moments = target.prior.moments(target.labels)
            far = target.likelihood.deviations(*moments, target.observed)
            results.warn_of_far(far, task.observed_names(target.likelihood))
        posteriors.sample_groups(problem, task.plan, groups)
        if not (task.subject.is_readable and distributed.is_main()):
            return None
        return prior_draws(target, PRIOR_DRAWS, task.plan.seed)


def sources_of(task: InferenceTask, settings: SampleSettings) -> list[str | Path | None]:
    """Return the options' values that may be files on which draws depend."""
    correct = settings.correct or ""
    files = [*settings.likelihood.files, correct, correct.rpartition(":")[0]]
    if correct:
        files.append(settings.prior.prior)
    if task.learned is not None:
        files += [task.learned.file.path, settings.observation]
    return files


def about_of(task: InferenceTask, options: dict[str, Any], draws: Draws) -> dict[str, Any]:
    """Return the entries, for the results files, about how draws were made."""
    prior = task.sharpened(task.fine) if task.settings.learned else task.fine
    return {
        "options": options,
        "points": prior.kind,
        "solvers": task.solvers,
        "samplers": list(draws.sampler),
        **task.subject.about,
    }


def check(settings: CheckSettings) -> int:
    """Check posteriors by simulation-based calibration.

    Returns:
        The exit code: ``UNSOUND`` with ``--strict`` if a test fails, else 0.
    """
    began = perf_counter()
    task = InferenceTask.open(settings)
    require_checkable(settings, task.subject)
    wanted, settings = settings.runs, with_available_runs(settings, task)
    if settings.runs < wanted:
        logger.info(f"{settings.data_root} has {settings.runs} test cases: all of them are used")
    run = check_learned if settings.learned else check_observed
    passed = run(settings, replace(task, settings=settings), began)
    return 0 if passed or not settings.strict else UNSOUND


def mixture(settings: MixtureSettings) -> None:
    """Infer the weights of a mixture over latents from noisy observations.

    With many runs whose true weights are drawn, the calibration of their posteriors is tested too.
    """
    began = perf_counter()
    task = InferenceTask.open(settings)
    if task.subject.label_dim:
        raise UsageError("mixture does not support conditional networks")
    likelihood, plan = task.likelihood(), mixture_plan(settings.mixture, task.subject.dim)
    source = settings.mixture.observation
    given = None if source is None else task.observed(source, likelihood)
    if source is not None and task.questions(source, likelihood) is not None:
        raise UsageError("mixture supports only numbers: leave category columns out")
    draws_file, numbers_file = task.files("mixture", ".npz")
    with distributed.process_group(settings.run.device_name) as device:
        task = task.on(device, [draws_file, numbers_file])
        fine = task.fine
        result = recover(fine, likelihood.to(device), task.rows, plan, given)
        if not distributed.is_main():
            return
        numbers, calibrated = result.summary(), None
        if result.truth is not None and plan.weights is None and plan.runs >= FEWEST_RUNS:
            values = result.values(plan.concentration, plan.seed)
            calibrated = calibrate(values, settings.mixture.level)
        mean, std = plan.components.mean, plan.components.std
        save_mixture(
            draws_file,
            result.draws,
            result.truth,
            result.observed,
            result.log_evidence,
            (mean, std),
        )
        options = settings.recorded(
            eps=recorded_eps(settings.prior.eps, task.latent), device_name=str(device)
        )
        content = {
            "components": {"mean": mean.tolist(), "std": std.tolist()},
            "points": fine.kind,
            "solvers": fine.solvers,
            "calibration": None if calibrated is None else calibrated.summary(),
            **numbers,
            "options": options,
            "network_sha256": task.subject.digest,
        }
        results.write_numbers(numbers_file, MIXTURE_FORMAT, began, content)
        results.report_mixture(numbers)
        if calibrated is not None:
            logger.info(calibrated.verdict)
        results.report_files(numbers_file, draws_file, began)


MOST_BLURRED = 2**12
"""Maximum number of observations whose noise is computed at once."""


def blur_of(task: InferenceTask, seen: Observed, summary: Summary) -> Tensor | None:
    """Return standard deviations ``[M, D]`` of the noise of the first time at posterior means.

    The result is None for images, and if draws are clean or corrected by weights.

    Draws without a likelihood are rounded to the bins of discrete columns, which removes the noise
    there.
    """
    prior, subject, settings = task.fine, task.subject, task.settings
    corrected = isinstance(settings, SampleSettings) and settings.correct is not None
    if prior.deblurred or corrected or not subject.is_readable:
        return None
    device, parts = prior.flow.device, []
    for block in torch.split(torch.arange(len(summary.mean)), MOST_BLURRED):
        given = None if seen.labels is None else {"labels": seen.labels[block].to(device)}
        parts.append(prior.blur(summary.mean[block].to(device), given).cpu())
    blur, coordinates = torch.cat(parts), prior.flow.coordinates
    if seen.likelihood is None and coordinates is not None:
        blur = torch.where(coordinates.steps.cpu() > 0, 0.0, blur)
    return blur


def errors_of(task: InferenceTask, settings: SampleSettings, summary: Summary) -> Tensor | None:
    """Return the scale of standardized errors ``[M, D]`` of posteriors.

    See ``training.flow.widths``. The result is None if the scale is unknown for these draws.
    """
    file = task.subject.file
    widths = None if file is None else file.model.widths
    usual = settings.sharpen and not (settings.correct or settings.prior.deblur or task.region)
    if widths is None or not (settings.learned and usual):
        return None
    return widths(summary.mean, summary.std)


def surprise_of(subject: Subject, conditions: Tensor | None) -> Tensor | None:
    """Return the distance of each observation from the training simulations ``[M]``, in nats.

    A warning reports out-of-distribution observations. The distance is None if there are no
    conditions, or it is unknown.
    """
    if conditions is None or not subject.condition_names:
        return None
    return results.warn_of_outliers(
        subject.surprise, subject.straight(conditions.to(subject.flow.device))
    )


def checked_of(task: InferenceTask, question: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON entries of a check about its subject and settings."""
    known = {"options": options, "network_sha256": task.subject.digest}
    return {"question": question, "solvers": task.solvers, **known}


def check_observed(settings: CheckSettings, task: InferenceTask, began: float) -> bool:
    """Check posteriors with a likelihood, and return whether no test failed."""
    plan, subject = task.plan, task.subject
    likelihood, observed, data = cases_to_check(settings, task)
    drawn = (settings.data_root, settings.runs, settings.sampler.seed)
    labels = subject.truth_labels(*drawn)
    files = task.files("posterior_check", ".npz")
    with distributed.process_group(settings.run.device_name) as device:
        task = task.on(device, list(files))
        sources = settings.likelihood.files
        groups, options = task.groups(files[1], settings.runs, [data, labels], sources)
        problem, simulates = task.problem(likelihood, observed), task.learned is None
        with groups.report_interruption():
            functions = subject.quantities(*drawn)
            # Conditions belong to the rows as they are, without the noise of draws.
            check = Check(
                problem, plan, subject.names, data, simulates, simulates, functions, labels
            )
            values = check.run(groups)
        content = checked_of(task, "sampler" if data is None else "model", options)
        return results.write_check(values, settings.level, groups, files, began, content)


def cases_to_check(
    settings: CheckSettings, task: InferenceTask
) -> tuple[Likelihood, Tensor, Tensor | None]:
    """Return the likelihood of a check, the observations, and true points ``[R, D]``.

    True points are None if they are drawn from the prior. Simulated observations are represented by
    a single one.

    Raises:
        UsageError: The likelihood cannot simulate observations.
        DataError: The data set is broken, or has too few rows.
    """
    subject, seed = task.subject, settings.sampler.seed
    if task.learned is not None:
        source = required(settings.data_root)
        data, trials = task.learned.simulations(source, settings.runs, seed, subject.names)
        likelihood = task.learned.likelihood(trials, subject.names)
        return likelihood, likelihood.numbers, data
    user = task.likelihood()
    nothing = torch.zeros(1, subject.dim, dtype=torch.float64)
    observed = user.simulate(nothing, torch.Generator())
    if settings.truth == "flow":
        return user, observed, None
    return user, observed, subject.truths(settings.data_root, settings.runs, seed)


def check_learned(settings: CheckSettings, task: InferenceTask, began: float) -> bool:
    """Check posteriors of a conditional flow, also near observations.

    Returns:
        Whether no test failed.
    """
    subject = task.subject
    observed = subject.labels(settings.condition) if settings.condition else None
    assert isinstance(subject, TableFlow)
    runs = LearnedRuns.draw(
        subject,
        required(settings.data_root),
        settings.runs,
        settings.sampler.seed,
        observed,
        settings.neighbors,
    )
    files = task.files("posterior_check", ".npz")
    with distributed.process_group(settings.run.device_name) as device:
        task = task.on(device, list(files))
        nats = surprise_of(task.subject, observed)
        groups, options = task.groups(files[1], len(runs), runs.tensors, [])
        amortized = task.amortized(task.fine, runs.conditions.to(device))
        with groups.report_interruption():
            values = LearnedCheck(amortized, runs, subject.names).run(groups)
        content, near = checked_of(task, "model", options), None
        if runs.neighbors is not None:
            nearest, distances = runs.neighbors
            near = results.NearObservations(
                calibrate_near(values, nearest, settings.level), distances, nats
            )
        drawn = values.at(slice(runs.count))
        beside = (content, near, task.within)
        return results.write_check(drawn, settings.level, groups, files, began, *beside)


def observations(
    task: InferenceTask, settings: SampleSettings, likelihood: Likelihood | None
) -> tuple[Tensor, Tensor | None]:
    """Return the observations ``[M, K]``, and the conditions of a conditional network for each."""
    labels = task.subject.labels(settings.condition)
    if likelihood is None:
        assert labels is not None
        return labels.double(), labels
    if isinstance(likelihood, TrialLikelihood):
        observed = likelihood.numbers
    elif settings.observation is None:
        observed = torch.zeros(1, 0, dtype=torch.float64)
    else:
        observed = task.observed(settings.observation, likelihood)
        if labels is None:
            labels = task.questions(settings.observation, likelihood)
    if labels is not None and len(labels) != len(observed):
        kind = "rows of conditions" if task.subject.condition_names else "classes"
        raise UsageError(
            f"{settings.condition} has {len(labels)} {kind} for {len(observed)} observations"
        )
    return observed, labels


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
        if settings.condition is not None:
            raise UsageError("--condition is for conditional networks: leave --condition out")
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


def mixture_plan(options: MixtureOptions, dim: int) -> MixturePlan:
    """Return the settings for inferring the weights of a mixture of points with D dimensions.

    Raises:
        UsageError: Options contradict each other.
        DataError: The file of means is broken.
    """
    components = components_of(options, dim)
    weights = true_weights(options, components.count)
    return options.into(
        MixturePlan,
        components=components,
        weights=None if weights is None else components.mean.new_tensor(weights),
        points=options.points or POINTS,
        runs=options.runs or RUNS,
    )


def components_of(options: MixtureOptions, dim: int) -> Components:
    """Return the components; see ``mixture_plan``."""
    if options.means is None:
        spread = Components.spread(options.components or 3, dim)
        mean, std = spread.mean, spread.std
    else:
        mean = read_observations(options.means)
        std = mean.new_full((len(mean),), 0.5)
    if mean.shape[1] != dim:
        raise UsageError(f"{options.means} has {mean.shape[1]} columns for {dim} dimensions")
    if options.component_std is not None:
        std = mean.new_tensor(numbers_of("component_std", options.component_std))
        std = std.expand(len(mean)) if len(std) == 1 else std
    return Components(mean, std)


def true_weights(options: MixtureOptions, count: int) -> list[float] | None:
    """Return the true weights of K components; None to draw them.

    Raises:
        UsageError: The numbers are not valid weights.
    """
    if options.weights is None:
        return None
    weights = numbers_of("weights", options.weights)
    if len(weights) != count or not min(weights) >= 0 or abs(sum(weights) - 1) > 1e-6:
        raise UsageError(
            f"--weights is '{options.weights}': give {count} numbers that sum to 1, one "
            "per component"
        )
    return [weight / sum(weights) for weight in weights]


def numbers_of(name: str, text: str) -> list[float]:
    """Parse numbers separated by commas.

    Raises:
        UsageError: A number is invalid.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--{name} is '{text}': give one number, or several separated by commas"
        ) from None
