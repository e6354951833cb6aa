"""Inflationary flows against isotropic models, of the same network and budget.

PRP and PRR flows, and the models ``edm`` and ``vp`` of Karras et al. 2022 (table 1), in the same
training loop, are compared by

* their held-out loss, where it is comparable: the mean squared error of the denoiser over that of
  the best linear one, at noise which leaves the linear one the same share of the data's variance;
* the distances of their samples from the data (``quality``);
* bits per dimension of held-out images with noise of variance gamma0, the same law for all;
* how many network calls it takes until generated images are within a gray level of the exact ones.
"""

import sys
from collections.abc import Callable, Mapping
from math import log, log2, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.images import CIFAR, DIGITS, GAP, ImagePlan
from experiments.lab import Lab, experiment, markdown
from experiments.quality import INCEPTION, Judge, describe_extraction, points, spread, told
from experiments.trainings import Training, trained
from training.flow.denoisers import RecomputedDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import NoiseSchedule
from training.pictures.drawing import draw
from training.pictures.figure import Figure, Line, Mark, Panel, Points, Rule
from training.pictures.theme import INK, sequential_colors
from training.trained.network import TrainedNetwork

KEPT = {"digits": 10, "cifar10-32x32": 62}
FLOWS = ("PRP", "PRR", "edm", "vp")
LEVELS = tuple(np.linspace(0.1, 0.9, 9).round(1).tolist())
"""Shares of the data's variance that the best linear denoiser leaves, where losses are compared."""
GAMMA0 = 5e-4
RATIOS = (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50)
"""At the axis of losses."""
GRAY = 127.5
"""Gray levels in one unit of data."""
CALLS = {"heun": (2, (4, 8, 16, 32, 64, 128)), "exp_rk5": (6, (1, 2, 4, 8, 16))}
"""Network calls of a step, and the numbers of steps that are tried."""
REFERENCE = ("exp_rk5", 40)
LARGEST = 1.0
"""Gray levels: the root mean square that counts as exact."""
SIZES = {"cpu": (297, 32, 16), "gpu": (5000, 256, 64)}
"""Images whose loss, whose density, and whose integration is measured."""
DENSITY_STEPS, ROWS = 6, 64
WORDS = """Data: {data}. All models have the same network and {durations} training samples; means
± 2 standard deviations over {seeds} trainings. PRP and PRR to {kept} dimensions (gap 1.02) are
compared with isotropic models of Karras et al. 2022, with their own preconditioning. *loss* is
the mean squared error of the denoiser on held-out images relative to the best linear one (1: no
better), averaged over noise levels; PRP, edm and vp have the same noise, PRR another. *energy* and
*Fréchet* are as above, for {generated} images. *bits* are bits per dimension of images with noise
of variance 5e-4; a Gaussian with the data's covariance has {gaussian}. *Heun* and *exp_rk5* are the
network evaluations until generated images are within one gray level (root mean square) of those of
{reference} evaluations. The isotropic models have to learn the linear part of the denoiser, which
PRP and PRR have in closed form. No model is trained to convergence."""


def network(lab: Lab, plan: ImagePlan, name: str, seed: int) -> tuple[str, Path]:
    """Key and network of a flow: those of ours are the ones of ``quality_by_dimension``."""
    if name in ("PRP", "PRR"):
        flow = (plan.dim if name == "PRP" else KEPT[plan.name], GAP, seed)
        return plan.key(*flow), plan.network(lab, *flow)
    key = f"{plan.name}-{name}-seed-{seed}"
    options = (f"--data={plan.data(lab)[0]}", f"--precond={name}", *plan.options, f"--seed={seed}")
    return key, trained(lab, Training(key, "train.py", options))


def levels_of(schedule: NoiseSchedule, variance: Tensor, t_max: float) -> Tensor:
    """Times at which the best linear denoiser leaves ``LEVELS`` of variances ``[D]``; NaN beyond.

    That is ``sum_i xi_i gamma_i / (xi_i + gamma_i)`` over ``sum_i xi_i``.
    """
    ends = torch.tensor([schedule.t_min, t_max], dtype=torch.float64)
    low, high = schedule.reference_log_noise(ends).tolist()
    times = schedule.time_of_log_noise(torch.linspace(low, high, 4001, dtype=torch.float64))
    gamma = schedule.noise_variance(times)
    left = (variance * gamma / (variance + gamma)).sum(dim=1) / variance.sum()
    at = np.interp(LEVELS, left.numpy(), times.numpy(), np.nan, np.nan)
    return torch.from_numpy(at)


@torch.no_grad()
def losses(flow: ProbabilityFlow, times: Tensor, clean: Tensor) -> list[float]:
    """Errors of the denoiser over those of the best linear one, of points ``[n, D]`` at times."""
    basis, schedule = flow.basis, flow.schedule
    draw = torch.Generator().manual_seed(0)
    ratios = []
    for t in times.to(flow.device):
        gamma = schedule.noise_variance(t)
        noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64).to(flow.device)
        noisy = clean + gamma.sqrt() * noise
        linear = basis.eigenvalues / (basis.eigenvalues + gamma) * noisy
        parts = torch.split(noisy, ROWS)
        denoised = torch.cat([flow.denoiser(part, t) for part in parts])
        errors = [(each - clean).square().mean() for each in (denoised, linear)]
        ratios.append(float(errors[0] / errors[1]))
    return ratios


def noisy_images(basis: EigenBasis, clean: Tensor) -> Tensor:
    """Points ``[n, D]`` of eigenspace with noise of variance gamma0, in data space."""
    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64).to(clean)
    return basis.from_eigen(clean + GAMMA0**0.5 * noise)


def bits(flow: ProbabilityFlow, noisy: Tensor) -> float:
    """Bits per dimension of points ``[n, D]`` under the law that is blurred by gamma0."""
    schedule = flow.schedule
    end = torch.tensor(flow.end_time, dtype=torch.float64)
    high = float(schedule.reference_log_noise(end))
    grid = torch.linspace(log(GAMMA0), high, DENSITY_STEPS + 1, dtype=torch.float64)
    times = schedule.time_of_log_noise(grid)
    times[-1] = end
    flow = flow.with_denoiser(RecomputedDenoiser(flow.denoiser))
    nats = flow.log_prob(noisy, times.to(flow.device), trace=Trace("hutchinson")).mean()
    return per_dimension(float(nats), flow.basis.dim)


def per_dimension(nats: float, dim: int) -> float:
    """Bits per dimension, in the unit of gray levels, of a log density in that of data."""
    return -nats / dim / log(2) + log2(GRAY)


def gaussian_bits(basis: EigenBasis, noisy: Tensor) -> float:
    """The same of the Gaussian with the data's covariance."""
    variance = basis.eigenvalues + GAMMA0
    square = basis.to_eigen(noisy).square() / variance
    nats = -(square + variance.log() + log(2 * pi)).sum(dim=1).mean() / 2
    return per_dimension(float(nats), basis.dim)


def solver_errors(flow: ProbabilityFlow, count: int) -> dict[str, list[float]]:
    """Gray levels by which generated images are off, root mean square, by solver and steps."""
    latents = flow.latent.sample(count, torch.Generator().manual_seed(0))

    def made(solver: str, steps: int) -> Tensor:
        return flow.decode(latents, flow.times(steps), solver)

    exact = made(*REFERENCE)
    return {
        solver: [
            float(GRAY * (made(solver, steps) - exact).square().mean().sqrt()) for steps in tried
        ]
        for solver, (_, tried) in CALLS.items()
    }


def calls_needed(solver: str, errors: list[float]) -> float:
    """Network calls until the error is small and stays so; infinite if it never is."""
    per_step, tried = CALLS[solver]
    enough = np.array(errors) <= LARGEST
    if not enough[-1]:
        return float("inf")
    wrong = np.flatnonzero(~enough)
    return per_step * tried[int(wrong[-1]) + 1 if len(wrong) else 0]


def measured(judge: Judge, lab: Lab, key: str, path: Path) -> dict[str, Any]:
    """All measures of one training."""
    flow, (of_loss, of_density, of_solver) = TrainedNetwork.load(path).flow, SIZES[lab.scale]
    times = levels_of(flow.schedule, flow.basis.eigenvalues, flow.end_time)
    flow = flow.to("cuda" if torch.cuda.is_available() else "cpu")
    clean = flow.basis.to_eigen(points(judge.others[:of_loss]).to(flow.device))
    some = noisy_images(flow.basis, clean[:of_density])
    return {
        "losses": losses(flow, times, clean),
        "bits": bits(flow, some),
        "gaussian_bits": gaussian_bits(flow.basis, some),
        "solver_errors": solver_errors(flow, of_solver),
        **judge.sampled(lab, key, path),
    }


def picture(found: Mapping[str, list[Mapping[str, Any]]]) -> Canvas:
    """Losses by noise, and errors of two solvers by network calls."""
    colors = sequential_colors(len(found))[:, None]
    losses = [mean_over(runs, lambda run: run["losses"]) for runs in found.values()]
    marks: list[Mark] = [Rule(1, width=0.9, dashed=True)]
    for name, color, loss in zip(found, colors, losses, strict=True):
        marks.append(Line(LEVELS, loss, color, name))
    low, high = float(np.nanmin(losses)) / 1.05, float(np.nanmax(losses)) * 1.05
    panels = [
        Panel(
            marks,
            "Held-out loss",
            "error of the denoiser over that of the best linear one",
            "share of the variance that the linear one leaves",
            y_log=True,
            y_ticks={ratio: f"{ratio:g}" for ratio in RATIOS if low <= ratio <= high},
        )
    ]
    for solver, (per_step, tried) in CALLS.items():
        calls = [per_step * steps for steps in tried]
        marks = [Rule(LARGEST, color=INK, width=0.9, dashed=True)]
        for runs, color in zip(found.values(), colors, strict=True):
            errors = mean_over(runs, lambda run, s=solver: run["solver_errors"][s])  # type: ignore[misc]
            marks += [Line(calls, errors, color), Points(calls, errors, color, size=3)]
        panels.append(
            Panel(
                marks,
                f"Error of {solver}",
                "gray levels, root mean square",
                "network calls",
                x_log=True,
                y_log=True,
                x_ticks={number: str(number) for number in calls},
            )
        )
    return draw(
        Figure(
            "Inflationary flows and isotropic models",
            "the same network and budget; lines: means over trainings",
            panels,
            3,
            (2.9, 2.3),
        )
    )


def mean_over(
    runs: list[Mapping[str, Any]], values: Callable[[Mapping[str, Any]], list[float]]
) -> np.ndarray:
    return np.asarray(np.mean([values(run) for run in runs], axis=0))


def row(name: str, runs: list[Mapping[str, Any]]) -> list[str]:
    """Of the table."""
    cells = [told([float(np.nanmean(run["losses"])) for run in runs])]
    cells += [told([run[measure] for run in runs]) for measure in ("energy", "frechet", "bits")]
    for solver, (per_step, tried) in CALLS.items():
        needed = [calls_needed(solver, run["solver_errors"][solver]) for run in runs]
        middle, most = float(np.median(needed)), per_step * tried[-1]
        cells.append(f"{middle:.0f}" if middle <= most else f"> {most}")
    return [name, *cells]


def main(lab: Lab, inception: Path | None) -> None:
    plan = DIGITS if lab.scale == "cpu" else CIFAR
    judge = Judge.of(lab, plan, inception)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name in FLOWS:
        for seed in range(plan.seeds):
            key, path = network(lab, plan, name, seed)
            one = lab.part(key, lambda k=key, p=path: measured(judge, lab, k, p))  # type: ignore[misc]
            found.setdefault(name, []).append(one)
    head = ["flow", "loss", "energy", "Fréchet", "bits", "Heun", "exp_rk5"]
    table = markdown(head, [row(name, runs) for name, runs in found.items()])
    words = WORDS.format(
        **describe_extraction([plan]),
        data=plan.name,
        kept=KEPT[plan.name],
        gaussian=f"{spread([run['gaussian_bits'] for run in found['PRP']])[0]:.3f}",
        reference=6 * REFERENCE[1],
    )
    lab.finish({"levels": LEVELS, "flows": found}, table, picture(found), words)


if __name__ == "__main__":
    experiment(main, "against_isotropic", __doc__, INCEPTION)()
