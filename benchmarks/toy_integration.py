"""Accuracy and cost of integration on circles: errors against calls, and the time of a call.

    python benchmarks/toy_integration.py [--network=network-snapshot-....pkl]

Errors are root mean squares of the scaled variable: of the latent against a converged solution, and
of the state after a melt and back. The time of a simulation is set against as many bare calls of
the network on the same batch, in turns, and medians are quoted.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser, NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS, Solver
from training.model import Model

SAMPLES = 2000
REFERENCE_STEPS = 2000
T_MAX = 7.01  # as published for circles


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def accuracy(flow: ProbabilityFlow, data: Tensor, t_max: float, title: str) -> None:
    def melt(solver: Solver, steps: int) -> Tensor:
        return flow.melt(data, flow.schedule.times(steps, t_max), solver).end

    reference = melt(SOLVERS["rk4"], REFERENCE_STEPS)
    start = flow.schedule.scale(flow.schedule.times(1, t_max)[0]) * flow.basis.to_eigen(data)
    print(f"\n{title}, T = {t_max:g}, {len(data)} points\n")
    print(
        "| solver | calls each way | latent error | roundtrip error |\n| --- | ---: | ---: | ---: |"
    )
    for name, calls in (("euler", 701), ("heun", 50), ("heun", 100), ("rk4", 100), ("rk4", 200)):
        solver = SOLVERS[name]
        steps = calls // solver.calls_per_step
        latent = melt(solver, steps)
        back = flow.generate(latent, flow.schedule.times(steps, t_max), solver).end
        errors = f"{rms(latent - reference):.1e} | {rms(back - start):.1e}"
        print(f"| {name} | {steps * solver.calls_per_step} | {errors} |", flush=True)


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


@torch.inference_mode()
def overhead(flow: ProbabilityFlow, data: Tensor, t_max: float, repeats: int = 15) -> None:
    """Prints the ratio of a simulation's time to that of its network calls alone."""
    denoiser = flow.denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    solver, steps = SOLVERS["rk4"], 25
    times = flow.schedule.times(steps, t_max)
    calls = steps * solver.calls_per_step
    z = flow.basis.to_eigen(data).float()
    c_noise = denoiser.noise_condition(times[steps // 2]).float()

    def bare() -> None:
        for _ in range(calls):
            denoiser.network(z, c_noise)

    def simulate() -> None:
        flow.melt(data, times, solver)

    bare()
    simulate()
    pairs = [(seconds(simulate), seconds(bare)) for _ in range(repeats)]
    ratio = statistics.median(simulated / called for simulated, called in pairs)
    simulated, called = (
        statistics.median(column) * 1e3 / calls for column in zip(*pairs, strict=True)
    )
    print(
        f"\nA simulation of {len(data)} points takes {simulated:.2f} ms a call, the bare network "
        f"{called:.2f} ms: {ratio:.3f} times as long (medians of {repeats} pairs)."
    )


@click.command(help=__doc__)
@click.option("--network", type=click.Path(exists=True, path_type=Path), help="Of circles, PRP.")
def main(network: Path | None) -> None:
    toy = Toy("circles")
    data = toy.sample(SAMPLES, torch.Generator().manual_seed(0))
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
    denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    accuracy(ProbabilityFlow(denoiser, schedule, basis), data, T_MAX, "Exact denoiser")
    if network:
        model = Model.load(network)
        accuracy(model.flow, data, T_MAX, "Trained network")
        overhead(model.flow, data, T_MAX)


if __name__ == "__main__":
    main()
