"""Time and memory of conditional queries of a table, beside their floor and scikit-learn.

A table of numbers, whole numbers, categories and dates with missing cells is made by a fixed seed,
and a network is trained briefly. Each use then runs in a process of its own:

    OMP_NUM_THREADS=1 python benchmarks/query_speed.py --rows=1000,10000 --columns=8

The floor is the time of the bare hidden layers of the network, for the same number of evaluations.
"""

import argparse
import multiprocessing
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

from training import Answers, Table
from training.trained.questions import NODES

TARGET, TRAINED, USES = "x0", 5000, ("fill", "predict", "score", "sample")


def table(rows: int, columns: int, seed: int) -> pandas.DataFrame:
    """A table that has at least 5 columns; a tenth of the cells of three columns is missing."""
    random, weights = (
        np.random.default_rng(seed),
        np.random.default_rng(0).normal(size=(columns, 4)),
    )
    hidden = random.normal(size=(rows, 4))
    days = np.clip(700 + 300 * hidden[:, 0], 0, 1400).astype(int)
    frame = pandas.DataFrame(
        {
            "date": (pandas.Timestamp("2020-01-01") + pandas.to_timedelta(days, unit="D")).strftime(
                "%Y-%m-%d"
            ),
            "count": random.poisson(np.exp(2.5 + 0.4 * hidden[:, 1])),
            "city": np.array([f"c{at:02d}" for at in range(40)])[
                np.clip(6 * hidden[:, 2] + 20, 0, 39).astype(int)
            ],
            "kind": np.where(hidden[:, 3] + random.normal(size=rows) > 0, "a", "b"),
        }
    )
    for at in range(columns - 4):
        frame[f"x{at}"] = hidden @ weights[at] + 0.5 * random.normal(size=rows)
    for name in ("count", "city", TARGET):
        frame[name] = frame[name].astype(object).mask(random.random(rows) < 0.1, None)
    return frame


def peak_memory() -> float:
    """Peak memory of this process in MB, on Linux: that of getrusage includes the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def timed(path: str, use: str, frame: pandas.DataFrame, sent: Connection) -> None:
    """Send CPU seconds, growth of the peak memory in MB, and the floor in seconds."""
    torch.set_num_threads(1)
    answers = Answers.load(path)
    before = peak_memory()
    start = time.process_time()
    if use == "sample":
        answers.sample(len(frame))
    elif use == "predict":
        answers.predict(frame, [TARGET])
    else:
        getattr(answers, use)(frame)
    seconds = time.process_time() - start
    memory = peak_memory() - before
    flow = answers.flow
    numbers, discrete = flow.space.dim, int((flow.space.coordinates.steps > 0).sum())
    joint = 4 * len(flow.questions.flow.integration("points")[0])  # four rows are drawn for each
    evaluations = {
        "fill": 3 * NODES * int(frame[["count", TARGET]].isna().to_numpy().sum()),
        "predict": 3 * NODES * len(frame),
        "score": NODES * (3 * numbers + discrete) * len(frame),
        "sample": joint * len(frame),
    }[use]
    layers, rows = flow.questions.network.numbers, torch.randn(1024, 128)
    start = time.process_time()
    with torch.no_grad():
        for _ in range(100):
            layers.through(rows)
    floor = (time.process_time() - start) / 102_400 * evaluations
    sent.send((seconds, memory, floor))


def rival(use: str, frame: pandas.DataFrame) -> float:
    """CPU seconds of scikit-learn: predictions of three quantiles, and imputation, with its fit."""
    numbers = frame.drop(columns=["date", "city", "kind"]).astype(float)
    start = time.process_time()
    if use == "fill":
        IterativeImputer(random_state=0, max_iter=5).fit_transform(numbers)
    elif use == "predict":
        known = numbers[TARGET].notna()
        others = numbers.drop(columns=TARGET)
        for quantile in (0.05, 0.5, 0.95):
            model = HistGradientBoostingRegressor(loss="quantile", quantile=quantile)
            model.fit(others[known], numbers[TARGET][known]).predict(others)
    else:
        return np.nan
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000,10000,100000", help="Numbers of rows.")
    parser.add_argument("--columns", type=int, default=8, help="Number of columns, at least 5.")
    parser.add_argument("--duration", type=float, default=0.1, help="Training in M rows.")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "network.pkl")
        trained = Table.open(table(TRAINED, given.columns, 1), held_out=0.1, seed=0)
        trained.train(duration=given.duration).save(path)
        print("| use | rows | CPU s | ms a row | floor, s | memory, MB | scikit-learn, s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for rows in map(int, given.rows.split(",")):
            frame = table(rows, given.columns, 2)
            for use in USES:
                received, sent = context.Pipe(duplex=False)
                process = context.Process(target=timed, args=(path, use, frame, sent))
                process.start()
                sent.close()  # a process that fails ends the wait
                seconds, memory, floor = received.recv()
                process.join()
                print(
                    f"| {use} | {rows} | {seconds:.2f} | {1000 * seconds / rows:.3f} | {floor:.2f} "
                    f"| {memory:.0f} | {rival(use, frame):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
