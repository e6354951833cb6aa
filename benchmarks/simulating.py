"""Time of simulations on one, two and, by a local Dask cluster, four processes.

    OMP_NUM_THREADS=1 python benchmarks/simulating.py

The simulator waits for 50 ms and returns noisy parameters.
"""

import argparse
import importlib
import time
from typing import Any

import joblib
import numpy as np
import pandas
from scipy import stats

from training import simulate

PRIOR = {"a": stats.uniform(0, 1), "b": stats.norm()}


def waiting(theta: Any, rng: np.random.Generator) -> np.ndarray:
    time.sleep(0.05)
    return np.asarray(theta) + rng.normal(size=theta.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="Number of simulations.")
    count, wanted = parser.parse_args().count, pandas.DataFrame()
    print("| processes | seconds | speed-up | same results |\n| --- | ---: | ---: | --- |")
    first = 0.0

    def timed(name: str, workers: int) -> None:
        nonlocal wanted, first
        start = time.perf_counter()
        data = simulate(waiting, PRIOR, count, workers=workers).data
        seconds = time.perf_counter() - start
        wanted, first = (data, seconds) if wanted.empty else (wanted, first)
        print(f"| {name} | {seconds:.1f} | {first / seconds:.1f} | {data.equals(wanted)} |")

    timed("1", 1)
    timed("2", 2)
    dask = importlib.import_module("dask.distributed")
    cluster = dask.LocalCluster(n_workers=4, threads_per_worker=1, dashboard_address=None)
    with cluster, dask.Client(cluster), joblib.parallel_config(backend="dask"):
        timed("4, Dask", 4)


if __name__ == "__main__":
    main()
