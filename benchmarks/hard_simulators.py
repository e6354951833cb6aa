"""Parameters and data that are no bell curves: what a conditional flow makes of them by default.

Simulators of one parameter, whose posteriors are known:

    plain    y = theta + noise, all normal, to compare with
    switch   theta is 0 or 1, y = theta + noise
    decades  theta is positive over six decades, y = log10 theta + noise
    skewed   y = exp(3 (theta + noise)) is positive over many decades
    far      y = theta + noise, but one simulation in 300 has a y some thousand times as large

    OMP_NUM_THREADS=1 python benchmarks/hard_simulators.py --folder=out/hard_simulators

For each it makes simulations, trains, draws posteriors of observations and says how far these are
from the exact ones: means and standard deviations of theta (of its logarithm, of decades) in
exact standard deviations, the median over observations; draws that no theta can be; and which of
two observations, such as no simulation had and such as many had, are called unlike the simulations.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import click
import h5netcdf
import numpy as np

NOISE = 0.3
DRAWS = 1000
ROOT = Path(__file__).parent.parent


class Simulator(NamedTuple):
    """Parameters of uniform random numbers, and data of these.

    Attributes:
        theta: Parameters ``[N]`` of a generator and N.
        data: Of these and noise ``[N]``, with a generator.
        seen: Observations ``[M]``, typical ones.
        exact: Mean and standard deviation of the posterior of each, ``[2, M]``.
        possible: Whether draws can be parameters.
        scale: What means and deviations are of.
        unlike: An observation that no simulation is like.
    """

    theta: Callable[[np.random.Generator, int], np.ndarray]
    data: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    seen: np.ndarray
    exact: np.ndarray
    possible: Callable[[np.ndarray], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray]
    unlike: float


def noisy(draw: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    return theta + NOISE * draw.normal(size=len(theta))


def mostly_near(draw: np.random.Generator, theta: np.ndarray) -> np.ndarray:
    far = draw.uniform(size=len(theta)) < 1 / 300
    return np.where(far, 3000 * np.abs(draw.normal(size=len(theta))), noisy(draw, theta))


def gaussian(seen: np.ndarray) -> np.ndarray:
    shrunk = 1 / (1 + NOISE**2)
    return np.stack([shrunk * seen, np.full(len(seen), NOISE * shrunk**0.5)])


def simulators() -> dict[str, Simulator]:
    middle = np.linspace(-1.5, 1.5, 21)
    one = 1 / (1 + np.exp(-middle / 6 / NOISE**2))
    anything = np.isfinite
    plain = Simulator(
        lambda draw, count: draw.normal(size=count),
        mostly_near,
        middle,
        gaussian(middle),
        anything,
        lambda theta: theta,
        -8.0,
    )
    return {
        "plain": plain._replace(data=noisy, unlike=6.0),
        "switch": plain._replace(
            theta=lambda draw, count: draw.integers(0, 2, count).astype(float),
            data=noisy,
            seen=middle / 6 + 0.5,
            exact=np.stack([one, np.sqrt(one * (1 - one))]),
            possible=lambda theta: (theta == 0) | (theta == 1),
        ),
        "decades": plain._replace(
            theta=lambda draw, count: 10 ** draw.uniform(-3, 3, count),
            data=lambda draw, theta: noisy(draw, np.log10(theta)),
            exact=np.stack([middle, np.full(len(middle), NOISE)]),
            possible=lambda theta: theta > 0,
            scale=lambda theta: np.log10(np.maximum(theta, 1e-6)),
        ),
        "skewed": plain._replace(
            data=lambda draw, theta: np.exp(3 * noisy(draw, theta)),
            seen=np.exp(3 * middle),
            unlike=np.exp(-30.0),
        ),
        "far": plain,
    }


def run(script: str, *options: object) -> str:
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise click.ClickException(done.stderr + done.stdout)
    return done.stdout


def write(path: Path, **columns: np.ndarray) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(columns)
        csv.writer(file).writerows(zip(*columns.values(), strict=True))
    return path


def measured(folder: Path, name: str, one: Simulator, count: int, options: list[str]) -> list[str]:
    """A row of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    theta = one.theta(draw, count)
    rows = write(folder / f"{name}.csv", theta=theta, y=one.data(draw, theta))
    seen = write(folder / "seen.csv", y=np.append(one.seen, one.unlike))
    data = folder / f"{name}.npz"
    run("dataset_tool.py", f"--source={rows}", f"--dest={data}", "--conditions=y", "--overwrite")
    began = perf_counter()
    out = folder / f"run-{perf_counter()}"
    run("train.py", f"--data={data}", "--cond", f"--outdir={out}", "--nosubdir", *options)
    seconds = perf_counter() - began
    network = max(out.glob("network-snapshot-*.pkl"))
    run(
        *("posterior.py", "sample", f"--network={network}", f"--condition={seen}"),
        *(f"--save_dir={out}", f"--draws={DRAWS}", "--no-log_prob"),
    )
    (told,), (drawn,) = out.glob("*_posterior.json"), out.glob("*.nc")
    surprise = [each["surprise"] for each in json.loads(told.read_text())["posteriors"]]
    limit = json.loads(told.read_text())["surprise"]["limit"]
    with h5netcdf.File(drawn) as file:
        draws = np.asarray(file["posterior"]["x"][...])[..., 0].reshape(-1, len(one.seen) + 1)
    draws = draws[:, :-1]
    mean, std = one.exact
    found = one.scale(draws)
    off = np.median(np.abs(found.mean(axis=0) - mean) / std)
    wide = np.median(np.abs(found.std(axis=0) / std - 1))
    impossible = 1 - one.possible(draws).mean()
    typical, unlike = np.array(surprise[:-1]) > limit, surprise[-1] > limit
    return [
        *(name, f"{off:.3f}", f"{wide:.3f}", f"{impossible:.1%}"),
        *(f"{typical.sum()} of {len(typical)}", "yes" if unlike else "no", f"{seconds:.0f}"),
    ]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), required=True)
@click.option("--count", type=int, default=2000, help="Simulations.")
@click.option("--only", multiple=True, help="Names of simulators.")
@click.option("--option", multiple=True, help="Of train.py.")
def main(folder: Path, count: int, only: tuple[str, ...], option: tuple[str, ...]) -> None:
    head = ("simulator", "mean off", "std off", "impossible", "typical unlike", "unlike", "s")
    click.echo("| " + " | ".join(head) + " |\n| --- |" + " ---: |" * (len(head) - 1))
    for name, one in simulators().items():
        if not only or name in only:
            click.echo(f"| {' | '.join(measured(folder, name, one, count, list(option)))} |")


if __name__ == "__main__":
    main()
