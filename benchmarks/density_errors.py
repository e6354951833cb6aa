"""What log densities of single rows are off by, and what they cost, for tables of 3 to 61 columns.

    OMP_NUM_THREADS=1 python benchmarks/density_errors.py --folder=out/density_errors

Each table becomes a flow by ``dataset_tool.py`` and a short ``train.py``. Errors are the largest
over held-out rows, dithered once where columns are discrete, in nats: against exact traces in four
times as many steps. ``of the steps`` is that of the default, whose traces are exact; ``probes`` are
the roots of mean squares of what so many random directions in their place are off by, and of what
they say that they are. Milliseconds are of one row.

Of tables with discrete columns a second table tells densities of cells: the root mean square of
what the density at a random point of the cell is off by, the largest error that is told, the points
that this took on average, and milliseconds.
"""

import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.files.table import load_table
from training.flow.bin_averages import cell_log_prob, has_cells
from training.flow.likelihood import Density, Trace
from training.flow.pfode import ProbabilityFlow
from training.names import DEFAULT_SOLVER, DEFAULT_STEPS
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
TABLES = ("toy:s_curve", "diabetes", "wine", "breast_cancer", "digits")
ROWS, CELLS = 64, 16


def source_of(name: str, folder: Path) -> str:
    """What ``dataset_tool.py`` is given: digits are to be a table, not images."""
    if name != "digits":
        return name
    path = folder / "digits.npy"
    np.save(path, load_digits().data)
    return str(path)


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, script, *arguments], cwd=ROOT, check=True, capture_output=True)


def trained(name: str, folder: Path, duration: float) -> tuple[ProbabilityFlow, Tensor]:
    """The flow of a table, and held-out rows ``[n, D]``."""
    data, out = folder / f"{name.removeprefix('toy:')}.npz", folder / name.removeprefix("toy:")
    if not list(out.glob("network-snapshot-*.pkl")):
        run("dataset_tool.py", f"--source={source_of(name, folder)}", f"--dest={data}")
        run("train.py", f"--data={data}", f"--outdir={out}", "--nosubdir", f"--duration={duration}")
    flow = TrainedNetwork.load(max(out.glob("network-snapshot-*.pkl"))).flow
    table = load_table(data)
    rows = table.points[table.held_out][:ROWS]
    assert flow.coordinates is not None
    return flow, flow.coordinates.dequantized(rows, torch.Generator().manual_seed(0))


def timed(
    flow: ProbabilityFlow, rows: Tensor, steps: int, trace: Trace | None
) -> tuple[Density, float]:
    """Densities, and the milliseconds that a row took."""
    began = time.perf_counter()
    found = flow.log_prob_with_error(rows, flow.times(steps), trace=trace)
    return found, (time.perf_counter() - began) * 1e3 / len(rows)


def cell_line(name: str, flow: ProbabilityFlow, rows: Tensor) -> str:
    """Of the cells of a few rows."""
    began = time.perf_counter()
    density, points = cell_log_prob(flow, rows[:CELLS], flow.times(), DEFAULT_SOLVER)
    taken = (time.perf_counter() - began) * 1e3 / len(rows[:CELLS])
    off = flow.log_prob(rows[:CELLS]) - density.log_prob
    assert flow.coordinates is not None
    discrete = int((flow.coordinates.steps > 0).sum())
    return (
        f"| {name} | {discrete} of {flow.basis.dim} | {rms(off):.2f} | {density.error.max():.2f} "
        f"| {points:.0f} | {taken:.0f} |"
    )


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--duration", default=0.3, show_default=True, help="Of a training, in MIMG.")
def main(folder: Path, duration: float) -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print("| table | columns | of the steps | 2 probes | said | 8 probes | said | ms | 8 probes |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    of_cells = []
    for name in TABLES:
        flow, rows = trained(name, folder, duration)
        right, _ = timed(flow, rows, 4 * DEFAULT_STEPS, Trace("exact"))
        default, taken = timed(flow, rows, DEFAULT_STEPS, None)
        cells = [f"{(default.log_prob - right.log_prob).abs().max():.1e}"]
        for probes in (2, 8):
            found, of_probes = timed(flow, rows, DEFAULT_STEPS, Trace("hutchinson", probes))
            cells += [f"{rms(found.log_prob - right.log_prob):.2f}", f"{rms(found.error):.2f}"]
        cells += [f"{taken:.2f}", f"{of_probes:.2f}"]
        print(f"| {name} | {flow.basis.dim} | {' | '.join(cells)} |", flush=True)
        if has_cells(flow):
            of_cells.append(cell_line(name, flow, rows))
    print("\n| table | discrete | a point | error | points | ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(of_cells))


if __name__ == "__main__":
    main()
