"""Flows in other libraries: sbi trains one and tests another, Pyro and BlackJAX sample under them.

    pip install sbi pyro-ppl blackjax
    python benchmarks/other_libraries.py sbi|pyro|gradients|blackjax

In an environment of its own, since none of these is a dependency. The simulator adds noise of 0.2
to two parameters between -1 and 1; the prior of the others is a flow of circles. Reference values
are closed forms, or ``posterior.py``'s draws.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from inflationary_flows import FlowDistribution, SbiPosterior, Simulations, Toy, sbi_estimator
from training.models.densities import PosteriorDensity
from training.models.posterior import Posterior

NOISE = 0.2
SEEN = {"x1": 0.9, "x2": 0.3}


def simulate(theta: Tensor) -> Tensor:
    return theta + NOISE * torch.randn_like(theta)


@click.group(help=__doc__)
def main() -> None:
    torch.manual_seed(0)


@main.command()
def sbi() -> None:
    """NPE trains a flow; SBC and TARP test it, and one of ours."""
    diagnostics = import_module("sbi.diagnostics")
    prior = import_module("sbi.utils").BoxUniform(-torch.ones(2), torch.ones(2))
    theta = prior.sample((2000,))
    data = simulate(theta)
    began = time.perf_counter()
    trainer = import_module("sbi.inference").NPE(prior, density_estimator=sbi_estimator())
    trained = trainer.append_simulations(theta, data).train()
    posteriors = {"sbi's NPE of our flow": trainer.build_posterior(trained)}
    print(f"sbi trained it in {time.perf_counter() - began:.0f} s")
    bounds = {"theta1": (-1.0, 1.0), "theta2": (-1.0, 1.0)}
    posteriors["our own training"] = SbiPosterior(Simulations(theta, data, bounds).train())
    truths = prior.sample((300,))
    seen = simulate(truths)
    for name, posterior in posteriors.items():
        ranks, averaged = diagnostics.run_sbc(truths, seen, posterior, num_posterior_samples=200)
        sbc = diagnostics.check_sbc(ranks, truths, averaged, num_posterior_samples=200)
        coverage = diagnostics.run_tarp(truths, seen, posterior, num_posterior_samples=200)
        area, p_value = diagnostics.check_tarp(*coverage)
        one = torch.tensor([0.1, 0.2])
        draws = posterior.sample((1000,), x=one)
        print(
            f"{name}: SBC p = {sbc['ks_pvals'].tolist()}, TARP area {float(area):.3f}, p = "
            f"{float(p_value):.2f}; mean {draws.mean(dim=0).tolist()} (0.1, 0.2), std "
            f"{draws.std(dim=0).tolist()} ({NOISE})"
        )
    in_sbi(posteriors["our own training"], prior)


def in_sbi(posterior: SbiPosterior, prior: Any) -> None:
    """Our posterior in sbi's further diagnostics, samplers and plots."""
    diagnostics, samplers = (
        import_module(f"sbi.{name}") for name in ("diagnostics", "inference.posteriors")
    )
    one = torch.tensor([[0.9, 0.2]])
    posterior.set_default_x(one)
    theta = prior.sample((500,))
    data = simulate(theta)
    draws = posterior.sample_batched((1,), data)[0]
    local = diagnostics.LC2ST(theta, data, draws)
    local.train_under_null_hypothesis()
    local.train_on_observed_data()
    drawn = posterior.sample((1000,))
    print(f"L-C2ST at {one[0].tolist()}: p = {local.p_value(drawn, one):.2f}")
    print(f"sample: mean {drawn.mean(dim=0).tolist()}, std {drawn.std(dim=0).tolist()}")
    print(f"map: {posterior.map()[0].tolist()}")
    transform = import_module("sbi.utils").mcmc_transform(prior)
    for name, options in (
        ("ImportanceSamplingPosterior", {}),
        ("MCMCPosterior", {"num_chains": 20, "warmup_steps": 20, "thin": 1}),
    ):
        given = {"theta_transform": transform, "proposal": prior, **options}
        other = getattr(samplers, name)(posterior.log_prob, **given).set_default_x(one)
        rows = other.sample((300,), show_progress_bars=False)
        print(f"{name}: mean {rows.mean(dim=0).tolist()}, std {rows.std(dim=0).tolist()}")
    figure, _ = import_module("sbi.analysis").pairplot(drawn)
    print(f"pairplot: {len(figure.axes)} panels")


@main.command()
def pyro() -> None:
    """A program whose prior is a flow, by importance sampling."""
    library = import_module("pyro")
    mixin = import_module("pyro.distributions.torch_distribution").TorchDistributionMixin
    model = Toy("circles").train(seed=0)
    flow = type("PyroFlow", (FlowDistribution, mixin), {})(model.flow)

    def program(y: Tensor) -> Tensor:
        x = library.sample("x", flow)
        return library.sample("y", library.distributions.Normal(x[..., 0], NOISE), obs=y)

    library.set_rng_seed(0)
    weighted = library.infer.Importance(program, num_samples=1000).run(torch.tensor(SEEN["x1"]))
    mean = library.infer.EmpiricalMarginal(weighted, "x").mean
    expected = model.posterior(noise_std=NOISE).sample({"x1": SEEN["x1"]}).points.mean(axis=(0, 1))
    print(f"Pyro, 1000 draws: mean {mean.tolist()}; posterior.py: {expected.tolist()}")


@main.command()
def gradients() -> None:
    """Densities of posteriors: gradients, their cost, HMC by Pyro, and draws near bounds."""
    theta = 2 * torch.rand(4000, 2, dtype=torch.float64) - 1
    bounds = {"theta1": (-1.0, 1.0), "theta2": (-1.0, 1.0)}
    posterior = Simulations(theta, simulate(theta), bounds).train(seed=0).posterior()
    seen = torch.tensor([[1 - NOISE / 10, 0.3]], dtype=torch.float64)
    points = torch.from_numpy(posterior.sample(seen, chains=1, draws=1000).points[0])
    density, inner = posterior.density(seen), points[:50] * 0.95
    leaf, row = inner.clone().requires_grad_(), seen.clone().requires_grad_()
    both = posterior.density(row).log_prob(leaf)
    of_points, of_seen = torch.autograd.grad(both.sum(), (leaf, row))
    for axis in torch.eye(2, dtype=torch.float64):

        def of_moved_points(steps: float, axis: Tensor = axis) -> Tensor:
            return density.log_prob(inner + steps * axis)

        def of_moved_observation(steps: float, axis: Tensor = axis) -> Tensor:
            return posterior.density(seen + steps * axis).log_prob(inner).sum()

        off = (of_points @ axis - differences(of_moved_points)).abs().max()
        print(
            f"points: largest error {off / of_points.abs().max():.1e} of the largest gradient; "
            f"observation: gradient {float(of_seen[0] @ axis):.3f}, by differences "
            f"{float(differences(of_moved_observation)):.3f}"
        )
    for rows in (points[:1], points):
        cost_of_gradients(density, rows)
    by_nuts(density, inner[0])
    print(f"sample: mean {points.mean(dim=0).tolist()}, std {points.std(dim=0).tolist()}")
    near_bounds(posterior, density, seen)


def differences(function: Callable[[float], Tensor], step: float = 2e-3) -> Tensor:
    """Derivative at 0 by differences of fourth order."""
    near, far = (function(k * step) - function(-k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)


def cost_of_gradients(density: PosteriorDensity, points: Tensor) -> None:
    spent = []
    for _ in range(6):
        began = time.perf_counter()
        density.log_prob(points)
        middle, leaf = time.perf_counter(), points.clone().requires_grad_()
        torch.autograd.grad(density.log_prob(leaf).sum(), leaf)
        spent.append((middle - began, time.perf_counter() - middle))
    plain, sloped = np.median(spent[1:], axis=0)
    print(f"{len(points)} points: log_prob {plain:.3f} s, gradient {sloped / plain:.1f} times that")


def by_nuts(density: PosteriorDensity, start: Tensor) -> None:
    library = import_module("pyro.infer")

    def potential(parameters: dict[str, Tensor]) -> Tensor:  # unbounded coordinates of the square
        point = parameters["theta"].tanh()
        return -density.log_prob(point) - (1 - point.square()).log().sum()

    began, first = time.perf_counter(), {"theta": torch.atanh(start)}
    kernel = library.NUTS(potential_fn=potential)
    chain = library.MCMC(kernel, 400, warmup_steps=200, initial_params=first, disable_progbar=True)
    chain.run()
    drawn = chain.get_samples()["theta"].tanh()
    print(
        f"NUTS by Pyro, 400 draws: mean {drawn.mean(dim=0).tolist()}, std "
        f"{drawn.std(dim=0).tolist()}, {time.perf_counter() - began:.0f} s"
    )


def near_bounds(posterior: Posterior, density: PosteriorDensity, seen: Tensor) -> None:
    """Total variation between histograms of draws and the density, in 40 bins."""
    edges = np.linspace(-1, 1, 41)
    middles = torch.from_numpy(edges[:-1, None] + (np.arange(20) + 0.5) / 20 * 0.05).flatten()
    many = posterior.sample(seen, chains=1, draws=200_000).points[0]
    for name in ("theta1", "theta2"):
        marginal = density.marginal([name]).log_prob(middles[:, None]).exp().view(40, 20).mean(1)
        found = np.histogram(many[:, int(name[-1]) - 1], edges)[0] / len(many)
        apart = np.abs(found - marginal.numpy() * 0.05).sum() / 2
        print(f"{name}: total variation between 200,000 draws and the density {apart:.4f}")


@main.command()
def blackjax() -> None:
    """NUTS in the latents of a flow."""
    jax, library = import_module("jax"), import_module("blackjax")
    model = Toy("circles").train(seed=0)
    posterior = model.posterior(noise_std=NOISE)
    density = posterior.latent_density(SEEN)
    began, start, key = time.perf_counter(), jax.numpy.zeros(2), jax.random.key(0)
    adaptation = library.window_adaptation(library.nuts, density.to_jax())
    (state, settings), _ = adaptation.run(key, start, num_steps=100)
    step = jax.jit(library.nuts(density.to_jax(), **settings).step)

    def walk(state: object, key: object) -> tuple[object, object]:
        state, _ = step(key, state)
        return state, state.position  # type: ignore[attr-defined]

    _, latents = jax.lax.scan(walk, state, jax.random.split(key, 300))
    points = density.points(np.asarray(latents))
    seconds, began = time.perf_counter() - began, time.perf_counter()
    own = posterior.sample(SEEN).points[0]
    for name, rows, spent in (
        ("NUTS, 300 draws", points, seconds),
        ("posterior.py", own, time.perf_counter() - began),
    ):
        print(f"{name}: mean {rows.mean(axis=0)}, std {rows.std(axis=0)}, {spent:.0f} s")


if __name__ == "__main__":
    main()
