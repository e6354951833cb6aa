"""CPU seconds and peak memory of many simulations, and of the posteriors of many observations.

    OMP_NUM_THREADS=1 python benchmarks/many_simulations.py --rows=10000,100000,1000000

Simulations are 10 parameters and 50 numbers of a linear model with Gaussian noise. They are written
to a file, ``dataset_tool.py`` makes a data set of it, and ``train.py`` trains the posterior with a
fixed number of samples. The first of these networks then draws from the posteriors of many
observations in one call. Each step is a process of its own, which includes the start of Python.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pyarrow
from pyarrow import csv, parquet

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS, NUMBERS, BLOCK = 10, 50, 20_000
NAMES = [f"theta{at}" for at in range(1, PARAMETERS + 1)]
DATA = [f"y{at}" for at in range(1, NUMBERS + 1)]
LOADED = "import sys, numpy; from training import Model; model = Model.load(sys.argv[1]);"
SEEN = "seen = numpy.load(sys.argv[2])[:int(sys.argv[3]), -50:];"
CALLS = {
    "Model.sample": "model.sample(int(sys.argv[4]), given=seen)",
    "Posterior.sample": "model.posterior().sample(seen, chains=1, draws=int(sys.argv[4]))",
}


def blocks(rows: int) -> Iterator[np.ndarray]:
    """Yield simulations ``[n, 60]`` in blocks."""
    weights = np.random.default_rng(0).normal(size=(PARAMETERS, NUMBERS)) / PARAMETERS**0.5
    random = np.random.default_rng(1)
    for start in range(0, rows, BLOCK):
        size = min(BLOCK, rows - start)
        theta = random.normal(size=(size, PARAMETERS))
        noise = random.normal(size=(size, NUMBERS))
        yield np.concatenate([theta, theta @ weights + noise], axis=1)


def write(path: Path, rows: int) -> None:
    """Write simulations to an ``.npy``, ``.parquet`` or ``.csv`` file, block by block."""
    if path.suffix == ".npy":
        with path.open("wb") as file:
            header = {"descr": "<f8", "fortran_order": False, "shape": (rows, PARAMETERS + NUMBERS)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks(rows):
                file.write(block.tobytes())
        return
    schema = pyarrow.schema([(name, pyarrow.float64()) for name in NAMES + DATA])
    writer = csv.CSVWriter if path.suffix == ".csv" else parquet.ParquetWriter
    with writer(path, schema) as opened:
        for block in blocks(rows):
            opened.write_table(pyarrow.table([*block.T.copy()], schema=schema))


def run(step: str, *command: object) -> None:
    """Run a Python process, and print a line with its CPU seconds and peak memory."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{step} failed"
    seconds, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9
    print(f"| {step} | {seconds:.1f} | {memory:.2f} |", flush=True)


@click.command()
@click.option("--rows", default="10000,100000,1000000", show_default=True)
@click.option("--observations", default=1000, show_default=True)
@click.option("--draws", default=1000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/many_simulations")
def main(rows: str, observations: int, draws: int, folder: Path) -> None:
    """Print a line for each step and number of rows."""
    shutil.rmtree(folder, ignore_errors=True)
    folder = folder.resolve()
    folder.mkdir(parents=True)
    counts = [*map(int, rows.split(","))]
    print("| step | CPU s | peak memory, GB |")
    print("| --- | ---: | ---: |")
    for count in counts:
        dest = folder / f"{count}.npz"
        for suffix in (".csv", ".parquet", ".npy"):
            source = folder / f"{count}{suffix}"
            write(source, count)
            names = [f"x{at}" for at in range(11, 61)] if suffix == ".npy" else DATA
            made = (f"--source={source}", f"--dest={dest}", f"--conditions={','.join(names)}")
            run(
                f"dataset_tool.py, {count:,} rows, {suffix}",
                "dataset_tool.py",
                *made,
                "--overwrite",
            )
        place = (f"--outdir={folder / str(count)}", "--nosubdir")
        run(
            f"train.py, {count:,} rows",
            "train.py",
            f"--data={dest}",
            "--cond=1",
            *place,
            "--duration=0.3",
        )
    (network, *_) = sorted((folder / str(counts[0])).glob("network-snapshot-*.pkl"), reverse=True)
    source, words = folder / f"{counts[0]}.npy", f"{observations:,} x {draws:,} draws"
    given = (network, source, observations, draws)
    for name, call in CALLS.items():
        run(f"{name}, {words}", "-c", LOADED + SEEN + call, *given)
    seen, header = folder / "seen.csv", ",".join(f"x{at}" for at in range(11, 61))
    numbers = np.load(source, mmap_mode="r")[:observations, PARAMETERS:]
    np.savetxt(seen, numbers, delimiter=",", header=header, comments="")
    options = (f"--network={network}", f"--condition={seen}", "--chains=1", f"--draws={draws}")
    folder = folder / "posteriors"
    run(f"posterior.py, {words}", "posterior.py", "sample", *options, f"--save_dir={folder}")


if __name__ == "__main__":
    main()
