"""Fits to a trained network: its calibration, integration schedules and base distribution.

Distribution of latents, learned from data that a trained model inflates.

Training points get the noise of the first time, as at time 0 of the flow, and are inflated to the
last time. There, kept dimensions should be standard normal by construction, which is checked.
Compressed dimensions are not, whatever the network, and get a learned distribution
(``flow.latent``), which the network file contains.

Candidates for this distribution differ in what a mixture may depend on; the one with the highest
log density on held-out latents wins. All start as the closed-form Gaussian, which is a candidate
itself.

A fit with an end (``until``) uses as many points, times and steps as its part of the remaining time
allows, by the measured time of a network evaluation, and logs what it leaves out.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from math import cos, inf, log, pi
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.flow.denoisers import BLOCK, NODES, calls_of_fit, fit_calibration
from training.flow.integration_choice import choose_integrations
from training.flow.integrations import Integration, trivial_integrations
from training.flow.latent import LOG_ROOT, ConditionalMixture
from training.flow.pfode import ProbabilityFlow
from training.learning.cost import evaluation_seconds, slowest
from training.names import DEFAULT_STEPS, LARGEST_EXACT, QUESTIONS, TABLE_NETWORK
from training.trained.network import TrainedNetwork

USUAL_GAINS = (0.5, 2.5)
"""Usual range of gains of kept dimensions. A gain far from 1 compensates for a network that has
hardly learned.
"""


@dataclass(frozen=True)
class CalibrationPlan:
    """Plan for the calibration of a trained model.

    Attributes:
        points: Function that returns this rank's part of the clean points of the fit, with their
            conditions.
        count: Largest number of points of the fit over all ranks.
        seed: Random seed of the noise.
        method: A name in ``METHODS`` of the calibration.
    """

    points: Callable[[], Batch]
    count: int
    seed: int
    method: str

    @property
    def calls(self) -> int:
        """Number of network evaluations of the calibration, counted per point."""
        return self.count * calls_of_fit(NODES, self.method)


CALIBRATION_SHARE, LATENT_SHARE = 0.6, 0.5
"""Parts of the remaining time for the calibration, and then for the distribution of latents."""
COARSER, FEWEST_USED = (NODES, 9, 5), 64
"""Numbers of times of a calibration, and smallest number of points of a fit in limited time."""


def affordable(model: TrainedNetwork, rows: int, batch: Batch, seconds: float) -> float:
    """Return the number of network evaluations, counted per point, that fit into a time.

    Args:
        model: The model.
        rows: Number of points per network evaluation.
        batch: Points, whose evaluation is timed.
        seconds: Time in seconds on this rank. The rank with the least time decides for all ranks.
    """
    taken = evaluation_seconds(model, batch.at(slice(0, rows)))
    return 1 / slowest(taken / max(seconds, 1e-6), model.denoiser.basis.mean.device)


def calibration_within(evaluations: float, count: int, method: str) -> tuple[int, int, str]:
    """Return the finest calibration for a number of network evaluations: times, points and method.

    Args:
        evaluations: Number of network evaluations, counted per point.
        count: Number of points that there are.
        method: Method without a limit of time. The method ``gain`` is tried if it is too expensive.

    Returns:
        Number of times, number of points and method; zeros if no calibration fits.
    """
    for each in dict.fromkeys((method, "gain")):
        for nodes in COARSER:
            points = min(count, int(evaluations / calls_of_fit(nodes, each)))
            if points >= min(count, FEWEST_USED):
                return nodes, points, each
    return 0, 0, method


def node_times(model: TrainedNetwork, nodes: int = NODES) -> Tensor:
    """Return the times ``[nodes]`` of a model's calibration, within the range of the training."""
    about = model.about
    return torch.linspace(about["tmin"], about["tmax"], nodes, dtype=torch.float64)


def calibrate(model: TrainedNetwork, plan: CalibrationPlan, until: float | None = None) -> None:
    """Fit the calibration of a model that is ready for evaluation, and store it in the model.

    Args:
        model: The model.
        plan: Plan of the calibration.
        until: Time by the monotonic clock that limits points and times; None for no limit. If there
            is too little time, the model stays without a calibration.

    Raises:
        DataError: The network returns values that are not finite.
    """
    start, denoiser, about = time.monotonic(), model.denoiser, model.about
    device, batch = denoiser.basis.mean.device, plan.points()
    # The default precision of simulations, whatever the training used.
    denoiser.precision = "fp32"
    most = plan.count // distributed.world_size()
    times, rows, method = NODES, len(batch.points), plan.method
    if until is not None:
        evaluations = affordable(model, BLOCK, batch, CALIBRATION_SHARE * (until - start))
        times, rows, method = calibration_within(evaluations, most, method)
        if not times:
            logger.warning("Warning: too little time to calibrate the network: give more --minutes")
            return
        if (times, rows, method) != (NODES, most, plan.method):
            logger.info(f"Calibrating with {rows} points at {times} times, to end in time")
    batch = batch.at(slice(0, rows))
    points = denoiser.basis.to_eigen(batch.points.to(device))
    conditions = batch.conditions(device)
    nodes = times * (1 if method == "gain" else 2)
    logger.info(f"Calibrating on {len(points)} points per rank; the network is saved already")
    with distributed.progress_bar(total=nodes, desc="calibration", unit="node") as bar:
        try:
            calibration = fit_calibration(
                denoiser,
                points,
                node_times(model, times),
                plan.seed,
                method,
                conditions=conditions,
                on_node=bar.update,
            )
        except ValueError as error:
            raise DataError(
                f"the network cannot be calibrated and is saved without a calibration: {error}"
            ) from error
    denoiser.calibration = calibration
    count = int(distributed.sum_over_ranks(torch.tensor([len(points)], device=device)))
    kept = slice(about["dims_to_keep"])
    gains = calibration.gains[:, kept]
    shown = f"gains {float(gains.min()):.3f} to {float(gains.max()):.3f}"
    if method != "gain":
        shown += f", largest slope {float(calibration.slopes[:, kept].abs().max()):.3f}"
    logger.info(
        f"Calibrated on {count} points at {times} times in {time.monotonic() - start:.1f} "
        f"s: {shown} in kept dimensions"
    )
    unusual = float(gains.min()) < USUAL_GAINS[0] or float(gains.max()) > USUAL_GAINS[1]
    if unusual and distributed.is_main():
        logger.warning(
            f"Warning: trained networks usually have gains from {USUAL_GAINS[0]:g} to "
            f"{USUAL_GAINS[1]:g}: train longer, or compare with samples made with "
            "--no-calibration"
        )


LOOKS = 40
"""Number of evaluations on held-out latents. Fits continue to their end, where the learning rate is
low, whatever the scores: the end contributes most of the remaining gain.
"""
STEPS_PER_ROW, FEWEST_STEPS = 200, 100
"""Limits on the number of steps of a fit to few latents: steps per row over the batch size, and
smallest number.
"""
LONGEST_GRADIENT = 5.0
LEAST_GAIN = 1e-3
"""Gain in nats on held-out latents that justifies the complexity of a learned distribution."""
LEAST_ERRORS = 3
"""Number of standard errors of a significant gain. The gain is the best of several candidates and
of many evaluations; with a few dozen latents, two standard errors would mislead.
"""


@dataclass(frozen=True)
class Candidate:
    """Candidate form of the latent distribution, with the settings of its fit.

    Attributes:
        name: Name in reports.
        sizes: Arguments of the mixture, except for the dimensions.
        steps: Largest number of training steps.
        batch: Number of latents per step.
        rate: First learning rate, which falls to zero along a cosine.
        decay: Weight decay.
        principal: Whether compressed latents are rotated to their principal axes.
        patience: Number of evaluations without improvement after which the fit ends; None for no
            limit.
    """

    name: str
    sizes: Mapping[str, Any]
    steps: int
    batch: int
    rate: float
    decay: float = 0.0
    principal: bool = False
    patience: int | None = None


CHAINED = Candidate("chained mixtures", {"components": 12}, 4000, 512, 2e-3, decay=0.3)
FREE = Candidate("mixtures", {"chained": False, "components": 5, "waves": 0}, 2000, 128, 2e-3, 0.1)
TURNED = replace(FREE, name="mixtures along principal axes", principal=True)
GENTLE = replace(FREE, name="mixtures in small steps", rate=1e-4)
"""Candidate for few or nearly normal latents: large steps would overshoot the possible gain before
the first evaluation.
"""
MOST_CHAINED = 8
"""Largest number of compressed dimensions that are chained: draws of each wait for those before
it.
"""


def candidates_for(compressed: int) -> Sequence[Candidate]:
    """Return the candidate distributions for a number of compressed dimensions."""
    return (CHAINED,) if compressed <= MOST_CHAINED else (FREE, GENTLE, TURNED)


@dataclass(frozen=True)
class Latents:
    """Standardized latents, split into training and validation, float64.

    Attributes:
        train: Training latents ``[N, D]``.
        held_out: Validation latents ``[N, D]``.
    """

    train: Tensor
    held_out: Tensor

    @classmethod
    def split(cls, latents: Tensor, seed: int, share: float = 0.2) -> "Latents":
        """Split latents ``[N, D]`` at random into training and validation latents.

        Args:
            latents: Standardized latents.
            seed: Random seed of the split.
            share: Fraction of the latents for validation.
        """
        generator = seeded_generator("cpu", seed, Stream.SPLIT)
        order = torch.randperm(len(latents), generator=generator)
        count = max(1, round(share * len(latents)))
        return cls(latents[order[count:]], latents[order[:count]])


@dataclass(frozen=True)
class FittedLatents:
    """A fitted distribution of latents, with its validation score.

    Attributes:
        mixture: Distribution of the compressed dimensions.
        name: Name of the candidate.
        nats: Mean log density of held-out latents minus their mean log density under the Gaussian,
            in nats.
        error: Standard error of ``nats``; infinite for one point.
    """

    mixture: ConditionalMixture
    name: str
    nats: float
    error: float

    @property
    def is_better(self) -> bool:
        """Whether the distribution is significantly better than the Gaussian."""
        return self.nats > max(LEAST_GAIN, LEAST_ERRORS * self.error)


def fit(
    latents: Latents,
    kept: int,
    candidate: Candidate,
    seed: int,
    on_look: Callable[[], object] | None = None,
    until: float = inf,
) -> FittedLatents:
    """Fit a candidate distribution to standardized latents.

    Args:
        latents: Standardized latents.
        kept: Number of kept dimensions, which come first; the fit models the other dimensions given
            the kept dimensions.
        candidate: Form of the distribution, and settings of the fit.
        seed: Random seed.
        on_look: Called up to ``LOOKS`` times, for a progress bar.
        until: Time by the monotonic clock at which the fit ends early.
    """
    torch.manual_seed(seed)
    count, dim = latents.train.shape
    mixture = ConditionalMixture(kept, dim - kept, **candidate.sizes).float()
    if candidate.principal:
        compressed = latents.train[:, kept:]
        centered = compressed - compressed.mean(dim=0)
        variance, axes = torch.linalg.eigh(centered.T @ centered / len(centered))
        least = 1e-3 * variance.max()
        mixture.offset.copy_(compressed.mean(dim=0))
        mixture.axes.copy_((axes * variance.clamp_min(least).rsqrt()).T)
    train, held_out = (
        (rows[:, :kept].float(), rows[:, kept:].float())
        for rows in (latents.train, latents.held_out)
    )
    optimizer = torch.optim.AdamW(
        mixture.parameters(), lr=candidate.rate, weight_decay=candidate.decay
    )
    steps = min(candidate.steps, max(FEWEST_STEPS, STEPS_PER_ROW * count // candidate.batch))
    batch, every = min(candidate.batch, count), max(1, steps // LOOKS)
    generator = seeded_generator("cpu", seed, Stream.DATA)
    best, weights, best_step = _score(mixture, *held_out), deepcopy(mixture.state_dict()), 0
    patience = LOOKS if candidate.patience is None else candidate.patience
    for step in range(steps):
        if time.monotonic() > until:
            break
        optimizer.param_groups[0]["lr"] = candidate.rate * (1 + cos(pi * step / steps)) / 2
        rows = torch.randint(count, (batch,), generator=generator)
        loss = -mixture.log_prob(train[0][rows], train[1][rows]).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(mixture.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        if (step + 1) % every:
            continue
        if on_look:
            on_look()
        score = _score(mixture, *held_out)
        if score > best:
            best, weights, best_step = score, deepcopy(mixture.state_dict()), step
        elif step - best_step >= patience * every:
            break
    mixture.load_state_dict(weights)
    mixture = mixture.double().eval().requires_grad_(False)
    kept_rows, compressed = latents.held_out[:, :kept], latents.held_out[:, kept:]
    normal = -(compressed.square() / 2 + LOG_ROOT).sum(dim=1)
    gain = mixture.log_prob(kept_rows, compressed) - normal
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else inf
    return FittedLatents(mixture, candidate.name, float(gain.mean()), error)


@torch.no_grad()
def _score(mixture: ConditionalMixture, kept: Tensor, compressed: Tensor) -> float:
    return float(mixture.log_prob(kept, compressed).mean())


MELT_STEPS, MELT_SOLVER = 24, "exp_ab2"
"""Integration of the inflation; its error is far below what a mixture can resolve."""
CHECK_STEPS, CHECK_PATIENCE = 1000, 8
"""Steps and patience of the check of kept latents. These are normal as a rule, and then no
evaluation improves on the first.
"""
NETWORK_ROWS = 2048
"""Number of points per evaluation of a network for toys or tables."""
FEWEST, MOST, MOST_CHECKED = 300, 100_000, 10_000
SEEN_PER_POINT = 50
"""Number of training samples per inflated point, so that inflation costs a tenth of the
training.
"""
TOLERATED = 0.01
"""Difference in nats between kept latents and a standard normal distribution that is tolerated
without a warning.
"""


@dataclass(frozen=True)
class LatentPlan:
    """Plan for learning the distribution of latents.

    Attributes:
        points: Function that returns a given number of points, or fewer if there are no more, the
            same on all ranks, with their conditions, in the space of the basis.
        held_out: Function like ``points`` that returns held-out points; None to hold out a part of
            the points.
        count: Number of points to inflate.
        seed: Random seed of the noise and of the fit.
        rows: Number of points per network evaluation.
        learned: Whether to learn a distribution of compressed latents besides the Gaussian.
        checked: Whether to test and learn latents at all. With conditions, latents are normal on
            average over the conditions only; ``posterior.py check`` tests each condition.
    """

    points: Callable[[int], Batch]
    held_out: Callable[[int], Batch] | None
    count: int
    seed: int
    rows: int
    learned: bool = True
    checked: bool = True


def points_to_inflate(samples: float) -> int:
    """Return the number of points to inflate after a training on ``samples`` samples."""
    return int(min(max(samples / SEEN_PER_POINT, FEWEST), MOST))


def learn_latents(model: TrainedNetwork, plan: LatentPlan, until: float | None = None) -> None:
    """Learn the distribution of compressed latents, store it in the model, and report it.

    The model must be ready for evaluation, and already calibrated if a calibration is planned.

    Args:
        model: The model.
        plan: Plan with the points to inflate.
        until: Time by the monotonic clock that limits points and steps; None for no limit. If there
            is too little time, the distribution of latents stays Gaussian.
    """
    if not plan.checked:
        return
    start, count = time.monotonic(), _points_of(model, plan)
    end = inf
    if until is not None:
        seconds = LATENT_SHARE * (until - start)
        end = start + seconds
        batch = plan.points(plan.rows)
        evaluations = affordable(model, len(batch.points), batch, 0.5 * seconds)
        fitting = int(evaluations * count / calls_to_learn(model, plan))
        if fitting < min(count, FEWEST_USED):
            logger.warning("Warning: too little time to test the latents: give more --minutes")
            return
        if fitting < count:
            logger.info(f"Testing latents on {fitting} points instead of {count}, to end in time")
        count = min(count, fitting)
    kept = int(model.about["dims_to_keep"])
    compressed = model.denoiser.basis.dim - kept
    candidates = candidates_for(compressed) if compressed and plan.learned else ()
    model.denoiser.precision = "fp32"
    # An evaluation is padded to its number of rows, which would be expensive for few points.
    flow = model.flow.in_blocks(min(plan.rows, count))
    total = MELT_STEPS + LOOKS * (len(candidates) + 1)
    with distributed.progress_bar(total=total, desc="latent distribution", unit="part") as bar:
        latents = encoded_latents(flow, plan, count, bar.update)
        if distributed.is_main():
            _report_kept(model, check_kept(latents, kept, plan.seed, bar.update, end))
            bar.update(MELT_STEPS + LOOKS - bar.n)  # the check may have ended early
            fits = [fit(latents, kept, each, plan.seed, bar.update, end) for each in candidates]
    if distributed.is_main() and candidates:
        best = max(fits, key=lambda fitted: fitted.nats)
        model.learned = best.mixture.to(flow.device) if best.is_better else None
        distribution = (
            best.name if model.learned else ("the closed-form Gaussian is as good and is kept")
        )
        logger.info(
            f"Distribution of {compressed} compressed latents, fitted to "
            f"{len(latents.train)} encoded points in {time.monotonic() - start:.1f} s: "
            f"{distribution}, log density {best.nats:+.4f} ± {best.error:.4f} nats per point on "
            "the validation set"
        )
    distributed.barrier()


def calls_to_learn(model: TrainedNetwork, plan: LatentPlan) -> float:
    """Return the number of network evaluations for inflating the points of a plan.

    Evaluations are counted per point, and include held-out points.
    """
    return plan.checked * MELT_STEPS * _points_of(model, plan) * (1.25 if plan.held_out else 1.0)


def _points_of(model: TrainedNetwork, plan: LatentPlan) -> int:
    """Return the number of points to inflate."""
    fits = plan.learned and model.denoiser.basis.dim > int(model.about["dims_to_keep"])
    return plan.count if fits else min(plan.count, MOST_CHECKED)


def encoded_latents(
    flow: ProbabilityFlow, plan: LatentPlan, count: int, on_part: Callable[[float], object]
) -> Latents:
    """Inflate points and held-out points to standardized latents, the same on all ranks.

    Args:
        flow: The flow.
        plan: Plan with the points.
        count: Number of points.
        on_part: Called with the fraction of the work done since the last call.
    """
    sources = [plan.points(count)]
    if plan.held_out:
        sources.append(plan.held_out(max(1, count // 4)))
    share = 1 / len(sources)
    melted = [
        standardized_latents(flow, batch, plan.seed, index, partial(on_part, share))
        for index, batch in enumerate(sources)
    ]
    return Latents(*melted) if plan.held_out else Latents.split(melted[0], plan.seed)


@torch.no_grad()
def standardized_latents(
    flow: ProbabilityFlow,
    batch: Batch,
    seed: int,
    index: int = 0,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Add the noise of the first time to points, and inflate them to standardized latents.

    Args:
        flow: The flow.
        batch: Points in the space of the basis, the same on all ranks.
        seed: Random seed of the noise.
        index: Index of the noise draw, which also seeds the noise.
        on_step: Called after each step.

    Returns:
        Latents ``[N, D]`` divided by the standard deviations of their closed form, on all ranks.
    """
    count, times = len(batch.points), flow.times(MELT_STEPS)
    mine = distributed.shard(count)
    generator = seeded_generator("cpu", seed, Stream.MELTED_NOISE, index)
    noise = flow.schedule.sample_noise(count, times[0], generator)[mine].to(flow.device)
    share = batch.at(mine)
    points = flow.basis.to_eigen(share.points.to(flow.device).double()) + noise
    flow = flow.under(share.conditions(flow.device))
    start = flow.schedule.scale(times[0]) * points
    end = flow.simulate(start, times, MELT_SOLVER, on_step=on_step).end
    return distributed.gather_rows(end / flow.latent_std(times[-1]), count).cpu()


def check_kept(
    latents: Latents,
    kept: int,
    seed: int,
    on_look: Callable[[], object] | None = None,
    until: float = inf,
) -> FittedLatents:
    """Fit a distribution to kept latents, to test whether kept latents are standard normal.

    The gain in log density on held-out latents, in nats, estimates the divergence from the standard
    normal distribution.

    Args:
        latents: Standardized latents.
        kept: Number of kept dimensions, which come first.
        seed: Random seed.
        on_look: Called repeatedly during the fit, for a progress bar.
        until: Time by the monotonic clock at which the fit ends early.
    """
    rows = Latents(latents.train[:, :kept], latents.held_out[:, :kept])
    free = replace(candidates_for(kept)[-1], steps=CHECK_STEPS, patience=CHECK_PATIENCE)
    return fit(rows, 0, free, seed, on_look, until)


def in_words(kept: int, most: float) -> str:
    """Return a sentence about kept latents that show no departure from the normal distribution.

    Args:
        kept: Number of kept dimensions.
        most: Upper bound (two standard errors) on the gain of another distribution, in nats per
            point.
    """
    if most < TOLERATED:
        return (
            f"The kept latents ({kept}) are normal, as samples assume, within {most:.2g} "
            "nats per point"
        )
    return f"The kept latents ({kept}) show no deviation from a normal distribution"


def _report_kept(model: TrainedNetwork, fitted: FittedLatents) -> None:
    kept = int(model.about["dims_to_keep"])
    lost = max(fitted.nats, 0.0)
    if lost - 2 * fitted.error < TOLERATED:
        logger.info(in_words(kept, lost + 2 * fitted.error))
        return
    gain = f"a better distribution gains {lost:.4f} ± {fitted.error:.4f} nats per point"
    logger.warning(
        f"Warning: the kept latents ({kept}) are not normal, as samples assume: {gain}, "
        f"where up to {TOLERATED:g} is good. Set T = {enough_time(model, lost):.4g} "
        f"instead of {model.about['tmax']:.4g}, or train longer"
    )


def enough_time(model: TrainedNetwork, lost: float) -> float:
    """Return the end time at which kept latents would be nearly normal, within ``TOLERATED`` nats.

    The divergence from normal decreases at least with the cube of the data's fraction of the
    variance (theory, section 8).

    Args:
        model: The model.
        lost: Divergence of kept latents from normal at the model's last time, in nats.
    """
    schedule, xi = model.denoiser.schedule, model.denoiser.basis.eigenvalues[0]
    end = torch.tensor(model.about["tmax"], dtype=torch.float64, device=xi.device)
    gamma = schedule.noise_variance(end)[0]
    wanted = xi / (xi + gamma) * (TOLERATED / lost) ** (1 / 3)
    needed = log(float(xi * (1 - wanted) / wanted))
    return float(schedule.time_of_log_noise(torch.tensor(needed, dtype=torch.float64)))


NUMBERS, FEWEST_POINTS, MOST_POINTS = 2048, 16, 512
"""Limits on the points that solvers are tried on, drawn from data and again from latents: number of
coordinates in all, and smallest and largest number of points.
"""
CHOICE_CALLS, FEW_CALLS = 220, 1200
"""Network evaluations for choosing schedules, per coordinate of a point: 197 to 276 on tables of 4
and 17 columns; and per point for convolutional networks, 1,110 on digits of 16 x 16 pixels.
"""
SHARE = 10
"""At most one in this many of the points inflated for the distribution of latents is used; longer
trainings inflate more.
"""
STEPS, FEW_STEPS = 32, 8
"""Number of steps of the reference integration; the smaller one for convolutional networks and
where exact traces are not available.
"""


def find_integrations(model: TrainedNetwork, plan: LatentPlan, until: float | None = None) -> None:
    """Find the cheapest accurate integration schedules, store them in the model, and report them.

    The errors of schedules are measured on the model's own points. The model must be ready for
    evaluation, and already calibrated if a calibration is planned.

    Args:
        model: The model.
        plan: Plan with the points to integrate.
        until: Time by the monotonic clock at which trials end; None for no limit. Without an
            accurate schedule by then, integrations have the default number of steps.
    """
    start, dim = time.monotonic(), model.denoiser.basis.dim
    if model.denoiser.is_trivial:
        model.integrations = trivial_integrations(model.about["tmin"], model.about["tmax"], dim)
        logger.info("The network output is zero: integrations use one evaluation")
    elif distributed.is_main():
        # Convolutional networks take a hundred times as long as perceptrons.
        cheap = _is_cheap(model)
        most = _trajectories(model, plan) if cheap else 0
        batch = plan.points(max(most, FEWEST_POINTS))
        steps = STEPS if cheap else FEW_STEPS

        def require_time(needed: float = 0.0) -> None:
            if until is not None and time.monotonic() + needed > until:
                raise DataError("there is too little time for trials, so give more --minutes")

        def on_trial() -> None:
            bar.update()
            require_time()

        try:
            if until is not None:
                rows = batch.at(slice(0, FEWEST_POINTS))
                require_time(evaluation_seconds(model, rows) * calls_to_choose(model, plan))
            with tqdm(desc="steps", unit="trial", disable=None) as bar:
                model.integrations = _chosen(model, batch, plan, steps, on_trial, cheap)
        except DataError as error:
            logger.warning(f"Warning: integrations use {DEFAULT_STEPS} steps: {error}")
        taken = ", ".join(f"{name} {each.calls}" for name, each in model.integrations.items())
        logger.info(
            f"Network evaluations per integration: {taken or 'the default'} (chosen in "
            f"{time.monotonic() - start:.1f} s)"
        )
    distributed.barrier()


def _is_cheap(model: TrainedNetwork) -> bool:
    """Return whether a network is a perceptron, with few enough dimensions for exact densities."""
    perceptrons = (TABLE_NETWORK, QUESTIONS)
    return model.denoiser.basis.dim <= LARGEST_EXACT and model.architecture.network in perceptrons


def _trajectories(model: TrainedNetwork, plan: LatentPlan) -> int:
    """Return the number of points whose trajectories are compared, for a cheap network."""
    return min(NUMBERS // model.denoiser.basis.dim, MOST_POINTS, plan.count // SHARE)


def calls_to_choose(model: TrainedNetwork, plan: LatentPlan) -> float:
    """Return the approximate number of network evaluations for ``find_integrations``.

    Most are for traces of densities, in proportion to the dimension; convolutional networks have no
    traces.
    """
    if not _is_cheap(model):
        return FEW_CALLS * FEWEST_POINTS
    return CHOICE_CALLS * _trajectories(model, plan) * model.denoiser.basis.dim


def _chosen(
    model: TrainedNetwork,
    batch: Batch,
    plan: LatentPlan,
    steps: int,
    on_trial: Callable[[], object],
    densities: bool,
) -> dict[str, Integration]:
    model.denoiser.precision = "fp32"
    count = len(batch.points)
    flow = model.flow.in_blocks(min(plan.rows, 2 * count))
    given = {name: rows.repeat(2, 1) for name, rows in batch.conditions(flow.device).items()}

    def under(rows: slice) -> ProbabilityFlow:
        return flow.under({name: values[rows] for name, values in given.items()})

    generator = seeded_generator("cpu", plan.seed, Stream.TRIED)
    first = flow.times()[0]
    noise = flow.schedule.sample_noise(count, first, generator).to(flow.device)
    noisy = flow.basis.to_eigen(batch.points.to(flow.device).double()) + noise
    latents = flow.latent.sample(count, generator)
    return choose_integrations(under, noisy, latents, steps, on_trial, densities)
