"""A CSV of 20,000 x 10 rows to samples and densities, by four commands: time, memory, and truth.

The columns are independent but for one that is the sum of two others plus noise of 1e-4, so that
the mean log density is known:

    python benchmarks/table_story.py --folder=out/table_story
"""

import argparse
import csv
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import log
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import gamma, lognorm, norm

ROWS = 20_000
THIN = 1e-4
PARTS = ("alpha", "beta")
NAMES = (*PARTS, "count", "price", "sum", "const", "difference", "unit", "e", "f")


def make_rows(seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    a, b, c = draw.gamma(2, 3, ROWS), draw.normal(size=ROWS), draw.integers(0, 9, ROWS)
    price, thin = np.round(draw.lognormal(size=ROWS), 2), THIN * draw.normal(size=ROWS)
    rest = [draw.uniform(size=ROWS), draw.normal(size=ROWS), draw.normal(size=ROWS)]
    return np.stack([a, b, c, price, a + b + thin, np.full(ROWS, 3.0), a - b, *rest], axis=1)


def true_log_density() -> float:
    """Mean, in nats, of the eight columns that have a density; steps stand for intervals."""
    continuous = gamma.entropy(2, scale=3) + 3 * norm.entropy() + norm.entropy(scale=THIN)
    return -float(continuous + log(9) + lognorm.entropy(1))


def read(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return dict(zip(names, np.array(rows, dtype=float).T, strict=True))


@contextmanager
def peak_memory(process: psutil.Process, found: dict[str, float]) -> Iterator[None]:
    """The largest resident memory of a process while the block runs, in GiB."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            try:
                found["peak"] = max(found.get("peak", 0.0), process.memory_info().rss / 2**30)
            except psutil.NoSuchProcess:
                return

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    done.set()
    thread.join()


def run(name: str, *arguments: str) -> tuple[float, float]:
    """Runs a script. Returns seconds and GiB."""
    found: dict[str, float] = {}
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, name, *arguments])
    with process, peak_memory(psutil.Process(process.pid), found):
        code = process.wait()
    if code:
        raise SystemExit(f"{name} ended with code {code}")
    return time.perf_counter() - began, found.get("peak", 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="Where everything goes.")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    source, data = folder / "rows.csv", folder / "rows.npz"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        writer.writerows([[f"{value:.10g}" for value in row] for row in make_rows()])
    costs = [run("dataset_tool.py", f"--source={source}", f"--dest={data}")]
    place = (f"--outdir={folder / 'run'}", "--nosubdir")
    costs.append(run("train.py", f"--data={data}", *place))
    network = max((folder / "run").glob("network-snapshot-*.pkl"))
    where = (f"--network={network}", f"--save_dir={folder / 'results'}")
    samples, densities = folder / "samples.csv", folder / "densities.csv"
    costs.append(run("pfODE_int.py", *where, "--sim_type=gen", f"--bs={ROWS}", f"--csv={samples}"))
    melt = ("--sim_type=melt", f"--data_root={data}", "--log_prob", f"--csv={densities}")
    costs.append(run("pfODE_int.py", *where, *melt))
    drawn, held_out = read(samples), read(densities)["log_prob"]
    thickness = (drawn["sum"] - drawn[PARTS[0]] - drawn[PARTS[1]]).std()
    scripts = ("dataset_tool.py", "train.py", "pfODE_int.py gen", "pfODE_int.py melt")
    print("| command | seconds | peak memory, GiB |\n| --- | ---: | ---: |")
    for name, (seconds, memory) in zip(scripts, costs, strict=True):
        print(f"| `{name}` | {seconds:.1f} | {memory:.2f} |")
    total, most = sum(seconds for seconds, _ in costs), max(memory for _, memory in costs)
    print(f"| all | {total:.1f} | {most:.2f} |")
    error = held_out.std() / len(held_out) ** 0.5
    print(f"\nHeld-out rows: {held_out.mean():.3f} +- {error:.3f} nats, truth", end=" ")
    print(f"{true_log_density():.3f}")
    print(f"Thickness of the sum in samples over that of the data: {thickness / THIN:.3f}")


if __name__ == "__main__":
    main()
