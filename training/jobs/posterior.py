"""Posteriors, checks of them, and mixtures: what ``posterior.py`` runs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from training.files.mixture import FORMAT as MIXTURE_FORMAT
from training.files.mixture import save_mixture
from training.files.observations import read_observations
from training.files.posterior import overview
from training.files.posterior_draws import FORMAT, save_netcdf
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian, Likelihood
from training.inference.prior import Prior
from training.inference.summary import RULE, Summary
from training.inference.target import prior_draws
from training.inference.user_likelihood import UserLikelihood
from training.measure.posterior.calibration import calibrate
from training.names import FEWEST_RUNS
from training.settings.latents import recorded_eps
from training.settings.mixture import MixtureSettings
from training.settings.posterior import (
    CheckSettings,
    CommonSettings,
    InferenceSettings,
    SampleSettings,
)
from training.simulation.groups import Groups, fingerprint, group_size
from training.simulation.latents import LatentChoice
from training.simulation.learned_checks import LearnedCheck
from training.simulation.mixtures import recover
from training.simulation.posterior_checks import Check
from training.simulation.posterior_reports import (
    report_draws,
    report_mixture,
    warn_of_far,
    warn_of_unlike,
)
from training.simulation.posterior_results import (
    NearObservations,
    report_files,
    write_check,
    write_numbers,
)
from training.simulation.posterior_subjects import PosteriorSubject
from training.simulation.posteriors import latents_of, sample_groups, sample_learned, sampled

NOT_CONVERGED = NOT_CALIBRATED = 3
"""Exit code of ``--strict``."""
PRIOR_DRAWS = 2000
"""In the file of draws, to compare posteriors with; none of images, where they would take long."""


def sample(settings: SampleSettings) -> int:
    """Draw from the posterior of each observation."""
    began = perf_counter()
    subject, latent = settings.opened()
    likelihood = None if settings.learned else settings.likelihood.chosen(subject)
    observed, labels = observations(settings, subject, likelihood)
    truth = settings.truths(subject, len(observed))
    draws_file, numbers_file = files_of(settings, subject, "posterior", ".nc")
    with process_group(settings.run.device_name) as device:
        subject = ready(settings, subject, latent, device, [draws_file, numbers_file])
        files = [*settings.likelihood.files, (settings.correct or "").rpartition(":")[0]]
        seen = [observed, labels]
        groups, options = prepared(
            settings, subject, latent, numbers_file, len(observed), seen, files
        )
        plan, fine = settings.plan(subject), settings.fine(subject)
        shown, nats = None, surprise_of(subject, labels)
        with groups.told_when_cut_short():
            if likelihood is None:
                sample_given(settings, subject, labels, fine, groups)
            else:
                shown = sample_observed(settings, subject, likelihood, observed, labels, groups)
        if not distributed.is_main():
            groups.remove()
            return 0
        parts = [(draws.without_draws(), summary) for draws, summary in sampled(groups)]
        summary = Summary.joined([part for _, part in parts])
        said = Draws.joined([draws for draws, _ in parts])
        about = {
            "options": options,
            "points": drawn_of(settings.sharpened(subject, fine) if likelihood is None else fine),
            "samplers": list(said.sampler),
            **subject.about,
        }
        save_netcdf(
            draws_file,
            ((draws, latents_of(draws, fine)) for draws, _ in sampled(groups)),
            (plan.chains, plan.draws, len(observed), subject.dim),
            list(subject.names),
            None if isinstance(likelihood, UserLikelihood) else observed,
            about,
            likelihood,
            shown,
            truth,
            said.stats.get("effective_size"),
        )
        blur = blur_of(subject, fine, likelihood, summary, labels)
        found = overview(said, summary, subject.names, nats, truth, blur)
        if labels is not None and subject.condition_names:
            found["surprise"] = told_surprise(subject, nats)
        write_numbers(numbers_file, FORMAT, began, {**about, "rule": RULE, **found})
        groups.remove()
        shown_names = [] if subject.images else list(subject.names)
        report_draws(found, summary, shown_names, blur)
        report_files(numbers_file, draws_file, began)
        missed = int((~summary.converged).sum())
        return NOT_CONVERGED if missed and settings.strict else 0


def check(settings: CheckSettings) -> int:
    """Tests whether the sampler (--truth=flow) or the model (--truth=data) is calibrated."""
    began = perf_counter()
    subject, latent = settings.opened()
    settings.require_for(subject)
    wanted, settings = settings.runs, settings.for_data(subject)
    if settings.runs < wanted:
        logger.info(
            f"{settings.data_root} has {settings.runs} truths to find again: all of them are used"
        )
    run = check_learned if settings.learned else check_observed
    passed = run(settings, subject, latent, began)
    return 0 if passed or not settings.strict else NOT_CALIBRATED


def mixture(settings: MixtureSettings) -> None:
    """Infer the weights of a Gaussian mixture over latents from noisy data."""
    began = perf_counter()
    subject, latent = settings.opened()
    likelihood, plan = settings.likelihood.chosen(subject), settings.plan(subject)
    observed = settings.mixture.observation
    given = None
    if observed is not None:
        given = observed_numbers(observed, likelihood, subject)
    draws_file, numbers_file = files_of(settings, subject, "mixture", ".npz")
    with process_group(settings.run.device_name) as device:
        subject = ready(settings, subject, latent, device, [draws_file, numbers_file])
        fine = settings.prior.fine(subject)
        rows = settings.prior.rows(subject)
        result = recover(fine, likelihood.to(device), rows, plan, given)
        if not distributed.is_main():
            return
        numbers = result.summary()
        calibrated = None
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
            eps=recorded_eps(settings.prior.eps, latent), device_name=str(device)
        )
        content = {
            "components": {"mean": mean.tolist(), "std": std.tolist()},
            "points": drawn_of(fine),
            "calibration": None if calibrated is None else calibrated.summary(),
            **numbers,
            "options": options,
            "network_sha256": subject.digest,
        }
        write_numbers(numbers_file, MIXTURE_FORMAT, began, content)
        report_mixture(numbers)
        if calibrated is not None:
            logger.info(calibrated.verdict)
        report_files(numbers_file, draws_file, began)


def drawn_of(prior: Prior) -> str:
    """What the points of a prior are, as results say it."""
    if prior.sharpened:
        return "without the noise of the first time, to first order"
    return "clean" if prior.deblurred else "with the noise of the first time"


def ready(
    settings: InferenceSettings,
    subject: PosteriorSubject,
    latent: LatentChoice,
    device: torch.device,
    files: list[Path],
) -> PosteriorSubject:
    """The subject with its flow and law on the device, when all ranks know that they may write."""
    require_new(files, settings.run.overwrite)
    require_folder(settings.save_dir)
    distributed.barrier()  # no rank writes before all have looked
    return replace(subject, flow=latent.on(subject.flow).to(device))


def files_of(
    settings: InferenceSettings, subject: PosteriorSubject, name: str, suffix: str
) -> tuple[Path, Path]:
    """The file of arrays, with this suffix, and that of numbers."""
    stem = f"{subject.stem}_{name}"
    return settings.save_dir / f"{stem}{suffix}", settings.save_dir / f"{stem}.json"


def prepared(
    settings: CommonSettings,
    subject: PosteriorSubject,
    latent: LatentChoice,
    numbers_file: Path,
    count: int,
    seen: Sequence[Tensor | None],
    files: Sequence[str | Path | None],
) -> tuple[Groups, dict[str, Any]]:
    """Where the groups of a run are kept, and its options as they are recorded.

    Args:
        settings: Of the command.
        subject: The prior.
        latent: Its law of latents.
        numbers_file: The JSON file; groups are kept beside it.
        count: Of posteriors.
        seen: What was observed, or is to be found again.
        files: Files that draws depend on.
    """
    plan, fine = settings.plan(subject), settings.fine(subject)
    options = settings.recorded(
        eps=recorded_eps(settings.prior.eps, latent),
        pool=plan.pool,
        draws=plan.draws,
        n_iters=len(fine.times) - 1,
        device_name=str(fine.flow.device),
    )
    told = fingerprint(options, subject.digest, seen, files)
    groups = Groups(numbers_file.with_suffix(".part"), told, count, group_size(fine, plan))
    return groups, options


def sample_observed(
    settings: SampleSettings,
    subject: PosteriorSubject,
    likelihood: Likelihood,
    observed: Tensor,
    labels: Tensor | None,
    groups: Groups,
) -> Tensor | None:
    """Draws of posteriors by a likelihood; returns draws of the prior, to compare them with."""
    problem = settings.problem(subject, likelihood, observed, labels)
    plan = settings.plan(subject)
    target = problem.target
    if isinstance(target.likelihood, Gaussian):
        moments = target.prior.moments(target.labels)
        far = target.likelihood.deviations(*moments, target.observed)
        warn_of_far(far, seen_names(target.likelihood, subject))
    sample_groups(problem, plan, groups)
    if subject.images or not distributed.is_main():
        return None
    return prior_draws(target, PRIOR_DRAWS, plan.seed)


def blur_of(
    subject: PosteriorSubject,
    prior: Prior,
    likelihood: Likelihood | None,
    summary: Summary,
    labels: Tensor | None,
) -> Tensor | None:
    """What points at the means of posteriors have of the noise of the first time ``[M, D]``; None
    where draws are clean or sharpened, and of images."""
    if prior.deblurred or likelihood is None or subject.images:
        return None
    device = prior.flow.device
    given = None if labels is None else {"labels": labels.to(device)}
    return prior.blur(summary.mean.to(device), given).cpu()


def sample_given(
    settings: SampleSettings,
    subject: PosteriorSubject,
    labels: Tensor | None,
    prior: Prior,
    groups: Groups,
) -> None:
    """Draws of a flow that is given what was observed."""
    assert labels is not None
    labels = labels.to(prior.flow.device)
    sample_learned(settings.amortized(subject, prior, labels), groups)


def surprise_of(subject: PosteriorSubject, conditions: Tensor | None) -> Tensor | None:
    """How unlike the simulations each observation is ``[M]``, in nats, of which it warns; None if
    there are no conditions, or it is not known."""
    if conditions is None or not subject.condition_names:
        return None
    assert subject.table is not None
    straight = subject.table.coordinates.straight(conditions.to(subject.flow.device))
    return warn_of_unlike(subject.surprise, straight)


def told_surprise(subject: PosteriorSubject, nats: Tensor | None) -> dict[str, float] | None:
    """What results say of all observations' surprise."""
    law = subject.surprise
    return None if law is None or nats is None else law.summary(nats)


def check_observed(
    settings: CheckSettings, subject: PosteriorSubject, latent: LatentChoice, began: float
) -> bool:
    """Checks posteriors by a likelihood; returns whether no test fails."""
    likelihood, plan = settings.likelihood.chosen(subject), settings.plan(subject)
    # A likelihood that cannot be drawn from is refused here, before anything is sampled.
    nothing = torch.zeros(1, subject.dim, dtype=torch.float64)
    seen = likelihood.simulate(nothing, torch.Generator())
    data = None
    if settings.truth == "data":
        data = subject.truths(settings.data_root, settings.runs, plan.seed)
    files = files_of(settings, subject, "posterior_check", ".npz")
    with process_group(settings.run.device_name) as device:
        subject = ready(settings, subject, latent, device, list(files))
        told = settings.likelihood.files
        groups, options = prepared(settings, subject, latent, files[1], settings.runs, [data], told)
        problem = settings.problem(subject, likelihood, seen)
        with groups.told_when_cut_short():
            values = Check(problem, plan, list(subject.names), data).run(groups)
        question = "sampler" if data is None else "model"
        content = {"question": question, "options": options, "network_sha256": subject.digest}
        return write_check(values, settings.level, groups, files, began, content)


def check_learned(
    settings: CheckSettings, subject: PosteriorSubject, latent: LatentChoice, began: float
) -> bool:
    """Checks posteriors that a conditional flow has learned, also near observations; likewise."""
    observed = subject.labels(settings.condition) if settings.condition else None
    runs = settings.learned_runs(subject, observed)
    files = files_of(settings, subject, "posterior_check", ".npz")
    with process_group(settings.run.device_name) as device:
        subject = ready(settings, subject, latent, device, list(files))
        nats = surprise_of(subject, observed)
        groups, options = prepared(settings, subject, latent, files[1], len(runs), runs.tensors, [])
        fine = settings.fine(subject)
        amortized = settings.amortized(subject, fine, runs.conditions.to(device))
        with groups.told_when_cut_short():
            values = LearnedCheck(amortized, runs, subject.names).run(groups)
        content = {"question": "model", "options": options, "network_sha256": subject.digest}
        near = None
        if runs.neighbors is not None:
            near = NearObservations.of(values, runs.neighbors, settings.level, nats)
        drawn = values.at(slice(runs.count))
        return write_check(drawn, settings.level, groups, files, began, content, near)


def observations(
    settings: SampleSettings, subject: PosteriorSubject, likelihood: Likelihood | None
) -> tuple[Tensor, Tensor | None]:
    """What was observed ``[M, K]``, and what a conditional network is given with each."""
    labels = subject.labels(settings.condition)
    if likelihood is None:
        assert labels is not None
        return labels.double(), labels
    if settings.observation is None:
        observed = torch.zeros(1, 0, dtype=torch.float64)
    else:
        observed = observed_numbers(settings.observation, likelihood, subject)
    if labels is not None and len(labels) != len(observed):
        kind = "rows of conditions" if subject.condition_names else "classes"
        raise UsageError(
            f"{settings.condition} has {len(labels)} {kind} for {len(observed)} observations"
        )
    return observed, labels


def seen_names(likelihood: Gaussian, subject: PosteriorSubject) -> list[str]:
    """What a sentence calls the numbers that a likelihood sees; none of what a linear map makes."""
    if likelihood.operator is not None:
        return []
    names, places = subject.words, likelihood.coordinates
    return names if places is None else [names[place] for place in places.tolist()]


def observed_numbers(source: Path, likelihood: Likelihood, subject: PosteriorSubject) -> Tensor:
    """What a likelihood takes of a file's observations ``[M, K]``.

    What is seen of points has their names; what a linear map makes of them has none, and is taken
    in its order.

    Raises:
        UsageError: There are other than the K numbers of a linear map.
        DataError: The file is broken, or has other columns.
    """
    assert isinstance(likelihood, Gaussian)
    if likelihood.operator is None:
        return subject.points(source, likelihood.coordinates)
    observed = read_observations(source, subject.image_shape)
    if observed.shape[1] != len(likelihood.operator):
        raise UsageError(
            f"{source} has {observed.shape[1]} numbers in each observation, but "
            f"{len(likelihood.operator)} are observed"
        )
    return observed
