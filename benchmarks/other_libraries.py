"""Flows in other libraries: sbi trains one and tests another, Pyro and BlackJAX sample under them.

    pip install sbi pyro-ppl blackjax
    python benchmarks/other_libraries.py sbi|pyro|blackjax

In an environment of its own, since none of these is a dependency. The simulator adds noise of 0.2
to two parameters between -1 and 1; the prior of the others is a flow of circles. Reference values
are closed forms, or ``posterior.py``'s draws.
"""

import time
from importlib import import_module

import click
import numpy as np
import torch
from torch import Tensor

from inflationary_flows import FlowDistribution, SbiPosterior, Simulations, Toy, sbi_estimator

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
        draws = posterior.sample((1000,), x=torch.tensor([0.1, 0.2]))
        print(
            f"{name}: SBC p = {sbc['ks_pvals'].tolist()}, TARP area {float(area):.3f}, p = "
            f"{float(p_value):.2f}; mean {draws.mean(dim=0).tolist()} (0.1, 0.2), std "
            f"{draws.std(dim=0).tolist()} ({NOISE})"
        )


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
