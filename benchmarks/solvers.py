"""Error against denoiser calls of every solver: melt, generation and round trip.

    python benchmarks/solvers.py [--network=network-snapshot-....pkl ...] [--plot=solvers.png]

On circles with their exact denoiser, PRP up to T = 7.01 and PRR to 1 dimension up to T = 6, and on
the trained networks of toys and tables that are given; of a table, data are what its flow
generates. ``--solver`` and ``--steps`` choose rows, and ``--coupling`` adds some. Errors are root
mean squares of the scaled variable, at the latent end of a melt of data and at the data end of a
generation, against a converged solution, and after a melt and back. Where steps are too long for an
implicit solver, there is no row.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click
import torch
from matplotlib.figure import Figure as Canvas
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from dnnlib.errors import DataError
from torch_utils.seeds import seeded_generator
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.integration_choice import fit_equal_error_grid
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import CASH_KARP, SOLVERS, Solver, get_solver, reversible, without_gap
from training.pictures.drawing import draw
from training.pictures.figure import Figure, Line, Mark, Panel, Points
from training.pictures.theme import sequential_colors
from training.trained.network import TrainedNetwork

SAMPLES, TABLE_SAMPLES = 1000, 64
REFERENCE_STEPS = 300  # of exp_rk5, 1800 calls
DATA_STREAM, LATENT_STREAM, PILOT_STREAM = range(3)
STEPS = {
    "euler": (25, 50, 100, 200, 701),
    "heun": (12, 25, 50, 100),
    "rk4": (7, 12, 25, 32, 50),
    "exp_ab2": (25, 50, 100, 200),
    "exp_rk5": (3, 5, 8, 12, 16, 21, 33),
    "rev_euler": (10, 20, 50, 100),
    "rev_rk5": (3, 5, 10, 20, 50),
}
ADAPTED = ("rk4", "exp_rk5")
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


class System(NamedTuple):
    """A flow up to a time, and data ``[N, D]`` that it melts."""

    title: str
    data: Tensor
    flow: ProbabilityFlow
    end: float


class Result(NamedTuple):
    """One integration each way."""

    solver: str
    times: str
    calls: float
    latent_error: float
    data_error: float
    roundtrip_error: float


def exact_circles(kept: int, end: float) -> System:
    toy = Toy("circles")
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(kept, 2, top_variance=basis.top_variance)
    denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    flow = ProbabilityFlow(denoiser, schedule, basis)
    return System(f"circles, {schedule.name}, exact denoiser", points_of(toy), flow, end)


def trained(path: Path) -> System:
    model = TrainedNetwork.load(path)
    name, flow = model.about["data_name"], model.flow
    if "columns" in model.about:
        data = flow.sample(TABLE_SAMPLES, seeded_generator("cpu", 0, DATA_STREAM))
    else:
        data = points_of(Toy(name, model.about["augment_to"]))
    title = f"{name}, {model.denoiser.schedule.name}, network"
    return System(title, data, flow, model.about["tmax"])


def points_of(toy: Toy) -> Tensor:
    return toy.sample(SAMPLES, seeded_generator("cpu", 0, DATA_STREAM))


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def coupled(coupling: float) -> Solver:
    """``rev_rk5`` with another lambda."""
    pairs = reversible(CASH_KARP, coupling)
    return replace(SOLVERS["rev_rk5"], method=without_gap(pairs), pairs=pairs)


def results(
    system: System, chosen: Sequence[str], numbers: Sequence[int], couplings: Sequence[float]
) -> Iterator[Result]:
    """Rows of the chosen solvers; of those of given steps, with these numbers or all of theirs."""
    _, data, flow, end = system
    distribution = flow.latent_law(torch.tensor(end, dtype=torch.float64))
    latent = distribution.sample(len(data), seeded_generator("cpu", 0, LATENT_STREAM))
    pilots = distribution.sample(64, seeded_generator("cpu", 0, PILOT_STREAM))
    fine = flow.schedule.times(REFERENCE_STEPS, end)
    right_latent = flow.melt(data, fine, SOLVERS["exp_rk5"]).end
    right_data = flow.generate(latent, fine, SOLVERS["exp_rk5"]).end
    start = flow.schedule.scale(fine[0]) * flow.to_eigen(data)

    def measured(solver: Solver, times: Tensor, name: str, kind: str) -> Iterator[Result]:
        try:
            melt = flow.melt(data, times, solver)
            generated = flow.generate(latent, times, solver)
            back = flow.generate(melt.end, times, solver, gap=melt.gap)
        except DataError:
            return
        yield Result(
            name,
            kind,
            (melt.calls + generated.calls) / 2,
            rms(melt.end - right_latent),
            rms(generated.end - right_data),
            rms(back.end - start),
        )

    for name in chosen:
        if name == "dopri5":
            continue
        solver, own = SOLVERS[name], numbers or STEPS[name]
        for steps in own:
            yield from measured(solver, flow.schedule.times(steps, end), name, f"{steps} even")
        if name in ADAPTED and not numbers:
            grid = fit_equal_error_grid(flow, pilots, fine, solver)
            for steps in own:
                yield from measured(solver, grid(steps), name, f"{steps} adapted")
    for coupling in couplings:
        for steps in numbers or STEPS["rev_rk5"]:
            times, kind = flow.schedule.times(steps, end), f"{steps} even"
            yield from measured(coupled(coupling), times, f"rev_rk5, lambda {coupling:g}", kind)
    for tolerance in TOLERANCES if "dopri5" in chosen else ():
        solver = get_solver("dopri5", tolerance, tolerance)
        yield from measured(solver, fine[[0, -1]], "dopri5", f"tolerance {tolerance:g}")


def picture(found: dict[str, list[Result]]) -> Canvas:
    """A panel a system: the latent error against calls, a line a solver."""
    names = [*STEPS, "dopri5"]
    colors = dict(zip(names, sequential_colors(len(names))[:, None], strict=True))
    every = [result for rows in found.values() for result in rows]
    least = max(min(result.latent_error for result in every) / 2, 1e-12)
    panels = []
    for title, rows in found.items():
        marks: list[Mark] = []
        for name, kind in product(names, ("even", "adapted", "tolerance")):
            line = [row for row in rows if row.solver == name and kind in row.times]
            calls, errors = [row.calls for row in line], [row.latent_error for row in line]
            adapted = kind == "adapted"
            label = name * bool(line and not adapted)
            marks.append(Line(calls, errors, colors[name], label, 1.3, adapted))
            if not adapted:
                marks.append(Points(calls, errors, colors[name], size=3))
        axes = ("denoiser calls", "", (6, 1300), (least, 0.3))
        panels.append(Panel(marks, title, "", *axes, x_log=True, y_log=True))
    return draw(
        Figure(
            "What a call buys",
            "error of the latent after a melt, root mean square · dashed: times adapted to the "
            "error",
            panels,
            len(panels),
            (3.1, 2.7),
            shared=True,
        )
    )


@click.command(help=__doc__)
@click.option(
    "--network", type=click.Path(path_type=Path), multiple=True, help="Of a toy or table."
)
@click.option("--solver", "chosen", type=click.Choice([*STEPS, "dopri5"]), multiple=True)
@click.option(
    "--steps", type=click.IntRange(1), multiple=True, help="Instead of each solver's own."
)
@click.option(
    "--coupling", type=click.FloatRange(0, 1, min_open=True), multiple=True, help="Of rev_rk5, too."
)
@click.option("--exact/--no-exact", default=True, help="Circles with their exact denoiser.")
@click.option("--plot", type=click.Path(path_type=Path), help="Where to draw the latent errors.")
def main(
    network: tuple[Path, ...],
    chosen: tuple[str, ...],
    steps: tuple[int, ...],
    coupling: tuple[float, ...],
    exact: bool,
    plot: Path | None,
) -> None:
    circles = [exact_circles(2, 7.01), exact_circles(1, 6.0)] if exact else []
    systems = [*circles, *map(trained, network)]
    found: dict[str, list[Result]] = {}
    for system in systems:
        print(f"\n{system.title}, T = {system.end:g}, {len(system.data)} points\n")
        print("| solver | steps | calls | melt | generation | round trip |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        rows = found[system.title] = []
        for row in results(system, chosen or (*STEPS, "dopri5"), steps, coupling):
            errors = " | ".join(f"{error:.1e}" for error in row[3:])
            print(f"| {row.solver} | {row.times} | {row.calls:.0f} | {errors} |", flush=True)
            rows.append(row)
    if plot:
        picture(found).savefig(plot)


if __name__ == "__main__":
    main()
