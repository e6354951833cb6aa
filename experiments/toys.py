"""Toys: participation ratios, flows to a Gaussian and back, coverage, mixtures, and residuals.

Networks are trained on 0.25 million samples, without a correction after training. PRP keeps all
dimensions, PRR all but one.
"""

from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.images import GAP, judge_of
from experiments.images import network as image_network
from experiments.lab import energy, generator, trained
from torch_utils.streams import Stream
from training import InflationSchedule, Model, ProbabilityFlow, Toy
from training.data.images.dataset import normalize_pixels
from training.flow.denoisers import Denoiser, MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.solvers import as_solver
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior, integrations_of
from training.paper.containment import unit_sphere
from training.paper.coverage import Spheres
from training.paper.mesh_coverage import CoverageExperiment
from training.paper.mixtures import Components, MixturePlan, Recovered, recover
from training.paper.residuals import (
    ResidualProbe,
    correlate,
    correlation_time,
    mean_autocorrelation,
    scatter_of,
)
from training.settings.simulations import BOUNDARY_POINTS

OPTIONS: dict[str, Any] = {"duration": 0.25, "calibrate": False}
SCHEDULES = ("PRP", "PRR")
KEPT = {"circles": 1, "moons": 1, "s_curve": 2, "swirl": 2, "digits": 10, "patches": 77}
"""Dimensions that PRR keeps in the table of participation ratios, by data set."""
POINTS, PAIRS, TIMES = 2000, 3, 101
TEST_POINTS, RADII, STEPS = 20_000, (0.5, 3.5, 7), 12
WEIGHTS, NOISE, RUNS, ROWS = (0.5, 0.25, 0.25), 0.1, 40, 2048
LEVELS = (0.5, 0.8, 0.9, 0.95)
SHARES = (0.1, 0.5, 1.0)
"""Lags of the table of correlations, as fractions of T."""
IMAGES = "digits"
"""Images whose residuals are taken, too, of a flow that keeps 10 dimensions."""


def network(toy: str, schedule: str, seed: int) -> Model:
    """Return the network of a toy."""
    kept = Toy(toy).dim - (schedule == "PRR")
    train = Toy(toy).train
    return trained(
        f"{toy}-{schedule}-{seed}", lambda: train(dims_to_keep=kept, seed=seed, **OPTIONS)
    )


def participation(name: str) -> dict[str, float]:
    """Return participation ratios of the data and of states at the last time, in closed form.

    The state at time t has the variance ``v_i = xi_i + gamma_i(t)`` along eigen-axis i, and the
    ratio ``(sum v)^2 / sum v^2``. *within* is the fraction of the time after which the ratio of PRR
    stays within 5 % of its last value.
    """
    images = name in ("digits", "patches")
    basis = judge_of(name).basis if images else EigenBasis.from_moments(*Toy(name).moments())
    found: dict[str, float] = {"dim": basis.dim, "kept": KEPT[name]}
    found["data"] = basis.participation_ratio
    for schedule, kept in (("PRP", basis.dim), ("PRR", KEPT[name])):
        inflation = InflationSchedule.to_dimension(kept, basis.dim, top_variance=basis.top_variance)
        times = torch.linspace(0, inflation.default_t_max(), TIMES, dtype=torch.float64)
        variance = basis.eigenvalues + inflation.noise_variance(times)
        ratios = variance.sum(dim=1).square() / variance.square().sum(dim=1)
        found[schedule] = float(ratios[-1])
    far = torch.where((ratios / ratios[-1] - 1).abs() > 0.05)[0]
    return {**found, "within": (int(far[-1]) + 1) / (TIMES - 1) if len(far) else 0.0}


def gallery(toy: str, schedule: str, seed: int) -> dict[str, float]:
    """Return energy distances of generated points and latents, and the error of a round trip.

    *gaussian* is the distance of a Gaussian with the moments of the data.
    """
    flow, data = network(toy, schedule, seed).flow, Toy(toy)
    fresh = [data.sample(POINTS, generator(seed, place)) for place in range(PAIRS)]
    made = [flow.sample(POINTS, generator(seed, 10 + place)) for place in range(PAIRS)]
    first, covariance = data.moments()
    normal = torch.randn(POINTS, data.dim, generator=generator(seed, 20), dtype=torch.float64)
    alike = first + normal @ torch.linalg.cholesky(covariance).T
    latents = flow.encode(fresh[0])
    error = flow.decode(latents) - fresh[0]
    return {
        "end": flow.end_time,
        "generated": mean(energy(*pair) for pair in zip(made, fresh, strict=True)),
        "gaussian": energy(alike, fresh[0]),
        "latents": energy(flow.latent.whiten(latents), normal),
        "roundtrip": float(error.square().mean().sqrt()),
    }


def coverage(toy: str, schedule: str, seed: int) -> dict[str, Any]:
    """Return changes of coverage, and the coverage error of fresh data, in percentage points.

    Test points and spheres of the latent Gaussian are carried to the data and back.
    """
    flow, data = network(toy, schedule, seed).flow, Toy(toy)
    spheres = Spheres.between(*RADII, unit_sphere(data.dim, BOUNDARY_POINTS[data.dim]))
    found = CoverageExperiment(
        flow,
        flow.times(STEPS),
        as_solver("exp_rk5"),
        flow.latent,
        spheres,
        None,
        TEST_POINTS,
        seed,
        lambda draw: data.sample(TEST_POINTS, draw),
    ).run()
    exact, fractions = spheres.content(), found.fractions
    off = 100 * (fractions.columns["fresh"] - exact)
    worst = int(np.abs(off).argmax())
    return {
        "change": 100 * fractions.largest_change.max(),
        "moved": 100 * fractions.changed.max(),
        "fresh": off[worst],
        "radius": spheres.radii[worst],
        "chance": 200 * np.sqrt(exact[worst] * (1 - exact[worst]) / TEST_POINTS),
    }


def mixture(toy: str, schedule: str, seed: int) -> dict[str, Any]:
    """Return posteriors of the weights of a mixture over latents, and how calibrated they are.

    Three components of width 0.5 lie on a circle in whitened latents. Their weights follow from 200
    points with noise, once for the paper's weights, and in runs with weights from their prior.
    *off*: root mean square error of posterior means in posterior standard deviations.
    """
    flow = network(toy, schedule, seed).flow
    dim = flow.basis.dim
    prior = Prior(flow, *flow.integration("points"), integrations=integrations_of(flow))
    likelihood = Gaussian(torch.tensor(NOISE).double(), torch.arange(dim))

    def recovered(weights: Tensor | None, runs: int) -> Recovered:
        components = Components.spread(len(WEIGHTS), dim)
        plan = MixturePlan(components, 1.0, weights, 200, runs, 4, 1000, 200, 2**14, seed)
        return recover(prior, likelihood, ROWS, plan, None)

    one, many = recovered(torch.tensor(WEIGHTS).double(), 1), recovered(None, RUNS)
    assert many.truth is not None
    draws = many.draws.flatten(1, 2)
    center, std = draws.mean(dim=1), draws.std(dim=1)
    inside = []
    for level in LEVELS:
        ends = torch.tensor([(1 - level) / 2, (1 + level) / 2]).double()
        low, high = draws.quantile(ends, dim=1)
        inside.append(((low <= many.truth) & (many.truth <= high)).double().mean())
    return {
        "mean": one.draws.mean(dim=(0, 1, 2)),
        "std": one.draws.flatten(0, 2).std(dim=0),
        "off": ((center - many.truth) / std).square().mean().sqrt(),
        "inside": torch.stack(inside),
        "exact": (center - many.mean).abs().max(),
    }


def residuals(name: str, schedule: str, seed: int) -> dict[str, Any]:
    """Return correlations of residuals with those of the first time, by the kind of noise.

    Noise is fresh at each time, as in the paper, or that of the flow's own paths. For toys, the
    network's error ``D - exact D`` is taken, too.
    """
    exact: Denoiser | None = None
    if name == IMAGES:
        judge, count, steps, solver = judge_of(name), 400, 24, "heun"
        flow = image_network(name, KEPT[name], GAP, seed).flow
        points = normalize_pixels(judge.pixels[:count]).flatten(1).double()
    else:
        toy, flow, count, steps, solver = (
            Toy(name),
            network(name, schedule, seed).flow,
            4000,
            71,
            "exp_rk5",
        )
        points = toy.sample(count, generator(seed, 30))
        exact = MixtureDenoiser(*toy.mixture, basis=flow.basis, schedule=flow.schedule)
    return {"chance": scatter_of(count)} | {
        noise: lags(flow, flow.to_eigen(points), steps, solver, noise, exact, seed)
        for noise in ("fresh", "path")
    }


def lags(
    flow: ProbabilityFlow,
    clean: Tensor,
    count: int,
    solver: str,
    noise: str,
    exact: Denoiser | None,
    seed: int,
) -> dict[str, Any]:
    """Return mean correlations of each quantity at ``SHARES`` of the time, and its time."""
    times, kept = flow.times(count - 1), dict[str, list[Tensor]]()
    probe = ResidualProbe(flow, times, exact)

    def take(index: int, quantities: dict[str, Tensor]) -> None:
        for name, values in quantities.items():
            kept.setdefault(name, []).append(values)

    with torch.no_grad():
        if noise == "path":
            probe.path(clean, as_solver(solver), take)
        else:
            probe.independent(clean, range(len(clean)), seed, Stream.RESIDUAL_NOISE, take)
    elapsed, found = times - times[0], dict[str, Any]()
    for name in ("net_residuals", "exact_residuals")[: 1 + (exact is not None)]:
        first = kept[name][0]
        diagonals = torch.stack([correlate([(first, each)], name).diagonal for each in kept[name]])
        curve = mean_autocorrelation(diagonals, torch.ones_like(diagonals, dtype=torch.bool))
        at = [float(share * elapsed[-1]) for share in SHARES]
        values = np.interp(at, elapsed.numpy(), curve.numpy())
        lasting = correlation_time(elapsed, curve, scatter_of(len(clean)))
        found[name] = {"at": values, "time": lasting.integral / float(elapsed[-1])}
    return found
