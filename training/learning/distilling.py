"""Distillation: a student learns the flow map of its teacher, from the teacher's paths alone.

The student (``networks.mlp``, between the coefficients of ``NetworkDenoiser.carried``) is to
carry a point of the probability flow from any time t to any other time s in one call, with the
log-determinant of this map. Both are known along a path that was integrated accurately, so that it
learns by plain regression, without noise,

    E |Phi(x_t, t, s) - x_s|^2 / D + (POINT / NATS)^2 E (log det - int_t^s tr dv/dx)^2,

in standardized coordinates. Flow maps are learned from velocities too (Boffi, Albergo and
Vanden-Eijnden 2025, arXiv 2505.18825), where there is no teacher that can be integrated.

Times between which few calls go are those between which a solver makes equal errors. Most pairs of
times are neighbors among these, upward or downward; the others are any two times of a path. The
student starts as the teacher's network, for which one call is a step of Euler's method.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import seed_layers, seeded_generator
from torch_utils.streams import Stream
from training.flow.courses import USES, Course
from training.flow.grids import fit_equal_error_grid
from training.flow.likelihood import DivergenceIntegral, Trace, value_and_divergence
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.flow.solvers.fitted import BY_STUDENT
from training.learning.soap import Soap
from training.model.model import Model
from training.names import LARGEST_EXACT, STUDENT
from training.networks.mlp import FlowMapMLP, ToyMLP

POINT, NATS = 1e-3, 0.05
"""Errors of points in standard deviations, and of log densities, that weigh the same."""
NEIGHBORS = 0.85
"""Share of pairs of times that are those of the calls."""
BETWEEN = 2
"""Further times of a path between two of these, at random."""
BLOCK = 1000
"""Paths with the same times, at most."""
JUDGES = 10
"""Of so many paths one more is held out, to measure the student on."""
PILOTS, PILOT_STEPS = 256, 32
WIDTH = 128
"""Units of a hidden layer, unless the teacher has more."""
RAMP = 0.01
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class Lessons:
    """How a student is to be taught.

    Attributes:
        calls: From the first time to the last.
        paths: Of the teacher to learn from.
        steps: Of the training.
        batch: Pairs of states of a step.
        lr: Peak learning rate.
        seed: Of latents, conditions, and pairs.
        width: Units of a hidden layer, no fewer than the teacher's; None for these, or ``WIDTH``
            if that is more.
    """

    calls: int
    paths: int
    steps: int
    batch: int
    lr: float
    seed: int
    width: int | None = None


@dataclass(frozen=True)
class Paths:
    """Right ways of standardized states, in blocks that have their times in common.

    Attributes:
        times: Downward ``[K, S]``, float64; every ``BETWEEN + 1``-th is one of the calls.
        states: ``[K, S, n, D]``.
        integrals: Of the divergence since the start ``[K, S, n]``, in nats.
        labels: As the network takes them ``[K, n, L]``; None where there are none.
    """

    times: Tensor
    states: Tensor
    integrals: Tensor
    labels: Tensor | None

    @classmethod
    @torch.no_grad()
    def follow(
        cls,
        flow: ProbabilityFlow,
        knots: Tensor,
        count: int,
        labels: Tensor | None,
        generator: torch.Generator,
        on_path: Callable[[int], object],
    ) -> "Paths":
        """At least ``count`` paths of the teacher, from latents to points, by increasing times of
        the calls; each has labels drawn from ``[M, L]``. ``on_path`` is called with the number of
        paths that are done."""
        blocks = []
        size = min(BLOCK, count)
        for _ in range(math.ceil(count / size)):
            latents, given, here = flow.latent.sample(size, generator), torch.zeros(0), flow
            if labels is not None:
                given = labels[torch.randint(len(labels), (size,), generator=generator)]
                here = flow.under({"labels": given})
            places = torch.rand(len(knots) - 1, BETWEEN, generator=generator, dtype=torch.float64)
            places = places.sort(dim=1).values.to(knots)
            between = knots[:-1, None] + knots.diff()[:, None] * places
            times = torch.cat([knots[:-1, None], between], dim=1).flatten()
            times = torch.cat([times, knots[-1:]]).flip(0)
            blocks.append((times, *_follow(here, latents, times), given))
            on_path(size)
        times, states, integrals, given = (
            torch.stack(column) for column in zip(*blocks, strict=True)
        )
        return cls(times, states, integrals, None if labels is None else given)

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """States with their times, the times to carry them to, what comes there, with the integrals
        on the way, and labels, if any: ``[B, D]``, ``[B]``, ``[B]``, ``[B, D + 1]``, ``[B, L]``."""
        blocks, saved = self.times.shape

        def drawn(most: int) -> Tensor:
            return torch.randint(most, (count,), generator=generator)

        block, row = drawn(blocks), drawn(self.states.shape[2])
        start, end = drawn(saved), drawn(saved)
        near = torch.rand(count, generator=generator) < NEIGHBORS
        first = (BETWEEN + 1) * drawn((saved - 1) // (BETWEEN + 1))
        upward = torch.rand(count, generator=generator) < 0.5
        start = torch.where(near, first + upward * (BETWEEN + 1), start)
        end = torch.where(near, first + ~upward * (BETWEEN + 1), end)
        growth = self.integrals[block, end, row] - self.integrals[block, start, row]
        target = torch.cat([self.states[block, end, row], growth[:, None]], dim=1)
        pairs = (self.states[block, start, row], self.times[block, start], self.times[block, end])
        return (*pairs, target, *(() if self.labels is None else (self.labels[block, row],)))


def _follow(flow: ProbabilityFlow, latents: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """States ``[S, N, D]`` along times, and integrals of the divergence ``[S, N]``, by Simpson's
    rule; two steps of ``exp_rk5`` from one time to the next."""
    halves = torch.stack([times[:-1], (times[:-1] + times[1:]) / 2], dim=1).flatten()
    halves = torch.cat([halves, times[-1:]])
    states = flow.simulate(latents, halves, "exp_rk5", save_every=1).states
    states = states / torch.stack([flow.latent_std(t) for t in halves])[:, None]
    traces = torch.stack(
        [value_and_divergence(flow.slope(), x, t)[1] for x, t in zip(states, halves, strict=True)]
    )
    means = (traces[:-2:2] + 4 * traces[1::2] + traces[2::2]) / 6
    integrals = (times.diff()[:, None] * means).cumsum(dim=0)
    return states[::2].float(), torch.cat([torch.zeros_like(means[:1]), integrals]).float()


def distill(model: Model, lessons: Lessons, labels: Tensor | None) -> dict[str, Any]:
    """Gives a model a student, and courses that go by it.

    Args:
        model: The teacher, ready for evaluation.
        lessons: How.
        labels: As the network takes them ``[M, L]``, to draw from; None for a network without.

    Returns:
        What was measured on paths that were held out: see ``measure``.

    Raises:
        UsageError: The network is of images, has too many dimensions for exact traces, or is wider
            than the student is to be.
        DataError: The student diverges.
    """
    began, dim = time.process_time(), model.denoiser.basis.dim
    if model.recipe.network != "mlp" or dim > LARGEST_EXACT:
        raise UsageError(
            f"the network is a {model.recipe.network} in {dim} dimensions: students are of "
            f"perceptrons (mlp) in up to {LARGEST_EXACT}, such as those of toys and tables"
        )
    flow, generator = model.flow, seeded_generator("cpu", lessons.seed, Stream.LATENT)
    student = _new_student(model, lessons)
    knots = _knots(flow, lessons, labels)
    judges = math.ceil(lessons.paths / JUDGES)
    with tqdm(
        total=lessons.paths + judges, desc="paths of the teacher", unit="path", disable=None
    ) as bar:
        paths, held_out = (
            Paths.follow(flow, knots, count, labels, generator, bar.update)
            for count in (lessons.paths, judges)
        )
    _teach(model, student, paths, lessons)
    for name, use in USES.items():
        model.courses[name] = Course(STUDENT, lessons.calls, dim, use.melts)
        model.courses[name].times.copy_(knots)
    measured = measure(model.flow, held_out, lessons.calls)
    for name, use in USES.items():
        way, course = "melted" if use.melts else "generated", model.courses[name]
        course.error, course.nats = measured[way], measured[f"nats_{way}"]
    model.about[STUDENT] = {"calls": lessons.calls, **measured}
    return {**model.about[STUDENT], "seconds": time.process_time() - began}


def _knots(flow: ProbabilityFlow, lessons: Lessons, labels: Tensor | None) -> Tensor:
    """Increasing times between which ``exp_rk5`` makes equal errors."""
    generator = seeded_generator("cpu", lessons.seed, Stream.PILOT)
    latents = flow.latent.sample(PILOTS, generator)
    if labels is not None:
        some = labels[torch.randint(len(labels), (PILOTS,), generator=generator)]
        flow = flow.under({"labels": some})
    times = flow.times(PILOT_STEPS)
    return fit_equal_error_grid(flow, latents, times, SOLVERS["exp_rk5"])(lessons.calls)


def _new_student(model: Model, lessons: Lessons) -> FlowMapMLP:
    """A student that gives what the teacher's network does, if that is one of the same coordinates:
    units that it has beyond the teacher's do not count yet."""
    denoiser, teacher = model.denoiser, model.denoiser.network
    assert isinstance(teacher, ToyMLP)
    sizes = model.recipe.network_arguments
    least = sizes.get("width", WIDTH)
    if lessons.width is not None and lessons.width < least:
        raise UsageError(f"--width is {lessons.width}, but the teacher's is {least}: give no less")
    with torch.random.fork_rng([]):
        seed_layers(torch.device("cpu"), lessons.seed)
        student = FlowMapMLP.of({**sizes, "width": lessons.width or max(WIDTH, least)})
    axes = denoiser.basis.eigenvectors
    alike = denoiser.space == "ES" or torch.equal(axes, torch.eye(len(axes)).to(axes))
    if teacher.members == 1 and alike and denoiser.preconditioning == "ifs":
        known = dict(teacher.named_parameters())
        for name, weight in student.body.named_parameters():
            size = known[name].shape
            weight.data[: size[0]] = 0
            weight.data[tuple(map(slice, size))] = known[name]
    return student


def _teach(model: Model, student: FlowMapMLP, paths: Paths, lessons: Lessons) -> None:
    """Trains a student in its place. Raises DataError if it diverges."""
    denoiser = model.denoiser
    denoiser.student = student
    optimizer = Soap(student.parameters(), lessons.lr)
    generator = seeded_generator("cpu", lessons.seed, Stream.DATA)
    scale = torch.ones(denoiser.basis.dim + 1)
    scale[-1] = POINT / NATS * math.sqrt(denoiser.basis.dim)
    for step in tqdm(range(lessons.steps), desc="student", unit="step", disable=None):
        done = (step + 1) / lessons.steps
        rate = lessons.lr * min(1, done / RAMP) * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = rate
        x, t, to, target, *labels = paths.pairs(lessons.batch, generator)
        given = {"labels": labels[0]} if labels else {}
        off = scale * (denoiser.carried(x, t, to, **given) - target)
        loss = off.square().sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    if not all(weight.isfinite().all() for weight in student.parameters()):
        raise DataError("the student diverged: give a smaller --lr")
    student.eval().requires_grad_(False)


@torch.no_grad()
def measure(flow: ProbabilityFlow, paths: Paths, calls: int) -> dict[str, float]:
    """Root mean square errors of a student along its calls, beside its teacher's paths.

    Returns:
        ``generated``, ``melted`` and ``round_trip`` in standard deviations, the last of melted
        points that were generated back; ``nats_generated`` and ``nats_melted`` of log densities.
    """
    knots = paths.times[0, :: BETWEEN + 1]
    assert len(knots) == calls + 1
    off: dict[str, list[Tensor]] = {}
    for block, states in enumerate(paths.states.double()):
        here = flow if paths.labels is None else flow.under({"labels": paths.labels[block]})
        right = paths.integrals[block, -1].double()
        made, growth = carry(here, states[0], knots)
        melted, shrinkage = carry(here, states[-1], knots.flip(0))
        back, _ = carry(here, melted, knots)
        # Latents count as if they were standard normal.
        latents = (melted.square() - states[0].square()).sum(dim=1) / 2
        block_off = {
            "generated": made - states[-1],
            "melted": melted - states[0],
            "round_trip": back - states[-1],
            "nats_generated": growth - right,
            "nats_melted": shrinkage + right - latents,
        }
        for name, values in block_off.items():
            off.setdefault(name, []).append(values.flatten())
    return {name: float(torch.cat(parts).square().mean().sqrt()) for name, parts in off.items()}


def carry(
    flow: ProbabilityFlow, x_hat: Tensor, times: Tensor, own: bool = False
) -> tuple[Tensor, Tensor]:
    """Where a student carries standardized states ``[N, D]`` along times, and log-determinants
    ``[N]``: what it says of these, or those of its own map."""
    rows, dim = slice(0, len(x_hat)), x_hat.shape[1]
    integral = DivergenceIntegral(BY_STUDENT, Trace("exact" if own else "auto"), rows, dim)
    end = flow.simulate(x_hat * flow.latent_std(times[0]), times, integral.solver).end
    return end / flow.latent_std(times[-1]), integral.value
