"""Sampling of the posteriors of observations: what is observed, the draws, and facts about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils import distributed
from torch_utils.results import provenance, save_json
from training.files.posterior import overview
from training.files.posterior_draws import (
    DRAWS,
    AboutDraws,
    SavedPosteriors,
    chains_first,
    netcdf_bytes,
    save_netcdf,
)
from training.inference.draws import AMORTIZED
from training.inference.likelihoods import Gaussian, Likelihood
from training.inference.prior import Prior
from training.inference.summary import RULE, Summary
from training.inference.target import prior_draws
from training.inference.trial_likelihoods import TrialLikelihood
from training.models import posterior_reports as results
from training.models.calibration import AppliedCalibration
from training.models.checkpoint import Checkpoint, Parts
from training.models.group_sampling import (
    PosteriorPart,
    draw_groups,
    sample_groups,
    with_latents,
    without_points,
)
from training.models.inference import InferenceTask
from training.names import UNSOUND
from training.settings.posterior import SampleSettings
from training.subjects import Subject

PRIOR_DRAWS = 2000
"""Number of prior draws in the file of draws, to compare posteriors with; none for images, where
they would take too long.
"""
MOST_BLURRED = 2**8
"""Maximum number of observations whose noise is computed at once."""


class RejectedObservation(DataError):
    """An observation is out of distribution, and was rejected."""

    exit_code = UNSOUND


@dataclass(frozen=True, eq=False)
class Observed:
    """M observations whose posteriors are to be drawn.

    Attributes:
        numbers: Observations or conditions ``[M, K]``.
        labels: Conditions of a conditional network for each observation ``[M, L]``; None for none.
        likelihood: Likelihood of the observations; None if the flow was trained on the posterior
            itself.
        truth: True points ``[M, D]``; None if they are unknown.
        calibration: Calibration of the network applied to the observations; None for none.
    """

    numbers: Tensor
    labels: Tensor | None
    likelihood: Likelihood | None
    truth: Tensor | None
    calibration: AppliedCalibration | None = None

    @classmethod
    def of(cls, task: InferenceTask) -> "Observed":
        """Read the observations of a task.

        Raises:
            UsageError: Settings contradict each other or the network, or the number of true points
                is not M.
            DataError: A file is broken.
            RejectedObservation: An observation is out of distribution, and is to be rejected.
        """
        settings = sample_settings(task)
        likelihood = None if settings.learned else task.likelihood()
        numbers, labels = observations(task, likelihood)
        truth = None if settings.truth is None else task.subject.points(settings.truth)
        if truth is not None and len(truth) != len(numbers):
            count = len(numbers)
            raise UsageError(f"--truth has {len(truth)} rows, but there are {count} observations")
        calibration = AppliedCalibration.of(task, settings, numbers)
        if calibration is not None and calibration.observations.refuses(settings.refuse):
            raise RejectedObservation("an observation was rejected as out of distribution")
        return cls(numbers, labels, likelihood, truth, calibration)

    def saved(self, subject: Subject) -> Tensor | None:
        """Return the observations for the file of draws; None for trials, whose counts differ."""
        own = self.likelihood is not None and self.likelihood.own
        return None if subject.of_sets or own else self.numbers

    def sample(
        self, task: InferenceTask, checkpoint: Checkpoint
    ) -> tuple[Parts[PosteriorPart], Tensor | None]:
        """Draw from the posteriors.

        Returns:
            The draws, and draws of the prior ``[N, D]``, to compare the posteriors with; None for
            images or without a likelihood.
        """
        if self.likelihood is None:
            assert self.labels is not None
            learned = task.amortized(task.fine, self.labels.to(task.subject.flow.device))
            return draw_groups(checkpoint, learned.sample, learned.draws), None
        problem = task.problem(self.likelihood, self.numbers, self.labels)
        target = problem.target
        if isinstance(target.likelihood, Gaussian):
            moments = target.prior.moments(target.labels)
            far = target.likelihood.deviations(*moments, target.observed)
            results.warn_of_far(far, task.observed_names(target.likelihood))
        parts = sample_groups(problem, task.plan, checkpoint)
        if not (task.subject.is_readable and distributed.is_main()):
            return parts, None
        return parts, prior_draws(target, PRIOR_DRAWS, task.plan.seed)


@dataclass(frozen=True, eq=False)
class SampledPosteriors:
    """Draws from the posteriors of M observations, and everything known about them.

    Attributes:
        parts: Draws of all groups.
        prior: Prior with which points were computed.
        shape: Numbers of chains, draws per chain, and observations, ``(C, S, M)``.
        about: Contents of the file of draws besides the draws.
        facts: Plain values about the draws, as in the JSON of ``posterior.py sample``.
        summary: Moments and diagnostics of the posteriors.
    """

    parts: Parts[PosteriorPart]
    prior: Prior
    shape: tuple[int, int, int]
    about: AboutDraws
    facts: Mapping[str, Any]
    summary: Summary

    def arrays(self) -> SavedPosteriors:
        """Return the draws as they would be loaded from their file."""
        about = self.about
        draws = [draws for draws, _ in self.parts]
        points = torch.cat([each.points for each in draws])
        known = all(each.log_density is None and AMORTIZED not in each.sampler for each in draws)
        log_likelihood = torch.cat([each.log_likelihood for each in draws]) if known else None
        own = about.likelihood
        shape = about.run.get("image_shape")
        return SavedPosteriors(
            Path("the draws"),
            list(about.names),
            chains_first(points),
            None if log_likelihood is None else chains_first(log_likelihood),
            1,
            len(points),
            [name for each in draws for name in each.sampler],
            None if about.observed is None else about.observed.cpu().numpy(),
            own if about.observed is not None and isinstance(own, Gaussian) else None,
            None if about.prior is None else about.prior.cpu().numpy(),
            about.run.get("toy"),
            None if shape is None else tuple(shape),
            None if about.truth is None else about.truth.cpu().numpy(),
            about.run.get("conditions") or [],
            about.run.get("range"),
        )

    def content(self) -> bytes:
        """Return the content of the netCDF file."""
        return netcdf_bytes(with_latents(self.parts, self.prior), self.shape, self.about)

    def save(self, path: Path) -> None:
        """Write the draws as netCDF, and the facts beside them as JSON, each atomically."""
        save_netcdf(path, with_latents(self.parts, self.prior), self.shape, self.about)
        save_json(path.with_suffix(".json"), dict(self.facts))


def sample(
    task: InferenceTask,
    seen: Observed,
    folder: Path | None = None,
    more: Mapping[str, Any] | None = None,
) -> SampledPosteriors | None:
    """Draw from the posterior of each observation, and log summaries and warnings.

    Args:
        task: Inference task, on its device.
        seen: Observations.
        folder: Folder that keeps finished groups, so that an interrupted run can resume
            and ranks can share the groups; None keeps them in memory.
        more: Further facts, which replace those of the same names.

    Returns:
        The draws; None on all ranks but the first.
    """
    began, settings = perf_counter(), sample_settings(task)
    subject, plan, fine, count = task.subject, task.plan, task.fine, len(seen.numbers)
    if isinstance(seen.likelihood, TrialLikelihood) and task.learned is not None:
        task.learned.warn_of_many(seen.likelihood.trials)
    checkpoint = task.checkpoint(count, [seen.numbers, seen.labels], sources_of(task), folder)
    nats = surprise_of(subject, seen.labels)
    with checkpoint.report_interruption():
        parts, prior = seen.sample(task, checkpoint)
    if not distributed.is_main():
        return None
    draws, summary = without_points(parts)
    shape = (plan.chains, plan.draws, count)
    if draws.independent:
        parts = parts.each(lambda part: (part[0].in_one_chain(), part[1]))
        shape = (1, task.total, count)
    if nats is not None and subject.surprise is not None:
        summary = summary.with_reason("unlike", nats > subject.surprise.limit)
    sharp = task.sharpened(fine) if settings.learned else fine
    run = {
        "options": task.recorded,
        "points": sharp.kind,
        "solvers": task.solvers,
        "samplers": list(draws.sampler),
        **subject.about,
        **(more or {}),
    }
    calibration = seen.calibration
    about = AboutDraws(
        names=subject.names,
        run=run,
        observed=seen.saved(subject),
        likelihood=seen.likelihood,
        prior=prior,
        truth=seen.truth,
        worth=draws.stats.get("effective_size"),
        recalibrated=None if calibration is None else calibration.truths.recalibrated,
    )
    blur = blur_of(task, seen, summary)
    errors = errors_of(task, summary)
    numbers = overview(draws, summary, subject.names, nats, seen.truth, blur, errors)
    if seen.labels is not None and subject.condition_names:
        distribution = subject.surprise
        numbers["surprise"] = (
            None if distribution is None or nats is None else distribution.summary(nats)
        )
    held = None if calibration is None else calibration.posteriors(parts, numbers)
    names = subject.names if subject.is_readable else []
    results.report_draws(
        numbers, summary, names, blur, task.within, errors, settings.learned and sharp.sharpened
    )
    if held is not None and subject.is_readable:
        held.report()
    seconds = perf_counter() - began
    facts = {
        "format": DRAWS.format,
        **run,
        "rule": RULE,
        **numbers,
        "seconds": seconds,
        **provenance(),
    }
    return SampledPosteriors(parts, fine, shape, about, facts, summary)


def sample_settings(task: InferenceTask) -> SampleSettings:
    """Return the settings of a task that samples posteriors."""
    assert isinstance(task.settings, SampleSettings)
    return task.settings


def observations(
    task: InferenceTask, likelihood: Likelihood | None
) -> tuple[Tensor, Tensor | None]:
    """Return the observations ``[M, K]``, and the conditions of a conditional network for each."""
    settings = sample_settings(task)
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


def sources_of(task: InferenceTask) -> list[object]:
    """Return the values of settings that may be files on which draws depend."""
    settings = sample_settings(task)
    correct = settings.correct or ""
    files: list[object] = [*settings.likelihood.files, correct]
    if isinstance(correct, str):
        files.append(correct.rpartition(":")[0])
    if correct:
        files.append(settings.prior.prior)
    files.append(str(settings.prior.prior).rpartition(":")[0])
    if task.learned is not None:
        files += [task.learned.network.path, settings.observation]
    return files


def blur_of(task: InferenceTask, seen: Observed, summary: Summary) -> Tensor | None:
    """Return standard deviations ``[M, D]`` of the noise of the first time at posterior means.

    The result is None for images, and if draws are clean or corrected by weights.

    Draws without a likelihood are rounded to the bins of discrete columns, which removes the noise
    there.
    """
    prior, subject = task.fine, task.subject
    corrected = sample_settings(task).correct is not None
    if corrected or not subject.is_readable:
        return None
    device, parts = prior.flow.device, []
    for block in torch.split(torch.arange(len(summary.mean)), MOST_BLURRED):
        given = None if seen.labels is None else {"labels": seen.labels[block].to(device)}
        parts.append(prior.blur(summary.mean[block].to(device), given).cpu())
    blur, coordinates = torch.cat(parts), prior.flow.coordinates
    if seen.likelihood is None and coordinates is not None:
        blur = torch.where(coordinates.steps.cpu() > 0, 0.0, blur)
    return blur


def errors_of(task: InferenceTask, summary: Summary) -> Tensor | None:
    """Return the scale of standardized errors ``[M, D]`` of posteriors.

    See ``training.flow.widths``. The result is None if the scale is unknown for these draws.
    """
    settings, network = sample_settings(task), task.subject.network
    widths = None if network is None else network.widths
    corrected = settings.correct or task.region
    if widths is None or corrected or not settings.learned:
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
