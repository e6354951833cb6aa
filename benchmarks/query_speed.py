"""Time and memory of the uses of a table, beside their floor, earlier code and other programs.

A table of numbers, whole numbers, categories and dates with missing cells is made by a fixed seed.
Each use runs in a process of its own:

    OMP_NUM_THREADS=1 python benchmarks/query_speed.py --rows=1000,10000 --columns=8

With ``--before``, the path of an earlier clone, each use is run by its code, too. A use that takes
more than ``--limit`` CPU seconds is ended, left empty, and not tried with more rows or columns.
``--queried`` limits the rows that are queried, but not those that are opened and trained on.

The floor is the time of the bare hidden layers of the network, for the same number of evaluations.
LightGBM predicts three quantiles of a column, and ``IterativeImputer`` of scikit-learn imputes,
both with their fit.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import training

TARGET = "x0"
USES = ("open", "train", "fill", "predict", "score", "sample")
RIVALS = {"fill": "imputer", "predict": "lightgbm"}
OWN = Path(__file__).resolve().parent.parent
"""The clone that this script is in."""
TRAINED = 0.1
"""Rows of a training in millions, rows that are repeated included."""


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
    values = hidden @ weights[: columns - 4].T + 0.5 * random.normal(size=(rows, columns - 4))
    others = pandas.DataFrame(values, columns=[f"x{at}" for at in range(columns - 4)])
    frame = pandas.concat([frame, others], axis=1)
    for name in ("count", "city", TARGET):
        frame[name] = frame[name].astype(object).mask(random.random(rows) < 0.1, None)
    return frame


def peak_memory() -> float:
    """Peak memory of this process in MB, on Linux: that of getrusage includes the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def floor_of(answers: Any, use: str, frame: pandas.DataFrame) -> float:
    """Return the seconds of the bare hidden layers, for the evaluations of a use."""
    nodes = import_module(
        "training.trained.questions"
    ).NODES  # earlier versions have no such module
    flow = answers.flow
    numbers, discrete = flow.space.dim, int((flow.space.coordinates.steps > 0).sum())
    joint = 4 * len(flow.questions.flow.integration("points")[0])  # four rows are drawn for each
    evaluations = {
        "fill": 3 * nodes * int(frame[["count", TARGET]].isna().to_numpy().sum()),
        "predict": 3 * nodes * len(frame),
        "score": nodes * (3 * numbers + discrete) * len(frame),
        "sample": joint * len(frame),
    }[use]
    layers, rows = flow.questions.network.numbers, torch.randn(1024, 128)
    start = time.process_time()
    with torch.no_grad():
        for _ in range(100):
            layers.through(rows)
    return (time.process_time() - start) / 102_400 * evaluations


def rival(use: str, frame: pandas.DataFrame) -> None:
    """Impute, or predict three quantiles, with another program."""
    numbers = frame.drop(columns=["date", "city", "kind"]).astype(float)
    if use == "imputer":
        IterativeImputer(random_state=0, max_iter=5).fit_transform(numbers)
        return
    known = numbers[TARGET].notna()
    others = numbers.drop(columns=TARGET)
    for quantile in (0.05, 0.5, 0.95):
        model = import_module("lightgbm").LGBMRegressor(
            objective="quantile", alpha=quantile, n_jobs=1, verbose=-1
        )
        model.fit(others[known], numbers[TARGET][known]).predict(others)


def run_use(use: str, folder: Path, queried: int, with_floor: bool) -> None:
    """Run one use; print its CPU seconds, peak memory in MB, and floor in seconds."""
    torch.set_num_threads(1)
    data, network = str(folder / "table.csv"), str(folder / "network.pkl")
    floor = np.nan
    if use in ("open", "train"):
        # Earlier versions have a class of its own for tables with text or missing cells.
        opened = getattr(training, "Records", training.Table)
        start = time.process_time()
        table = opened.open(data, held_out=0.1, seed=0)
        if use == "train":
            start = time.process_time()
            table.train(duration=TRAINED).save(network)
        seconds = time.process_time() - start
    else:
        frame = pandas.read_csv(data, nrows=queried)
        answers = None if use in RIVALS.values() else training.Answers.load(network)
        start = time.process_time()
        if answers is None:
            rival(use, frame)
        elif use == "sample":
            answers.sample(len(frame))
        elif use == "predict":
            answers.predict(frame, [TARGET])
        else:
            getattr(answers, use)(frame)
        seconds = time.process_time() - start
        if with_floor and answers is not None:
            floor = floor_of(answers, use, frame)
    print(json.dumps([seconds, peak_memory(), floor]))


def measured(tree: Path, use: str, folder: Path, given: argparse.Namespace) -> list[float] | None:
    """Run a use in a process of its own, by the code in ``tree``; None if it takes too long."""
    words = [f"--run={use}", f"--folder={folder}", f"--queried={given.queried}"]
    if tree == OWN and use not in ("open", "train", *RIVALS.values()):
        words.append("--floor")
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (given.limit, given.limit)),
        check=False,
    )
    if done.returncode > 0:
        sys.exit(done.stderr)
    made: list[float] | None = None if done.returncode else json.loads(done.stdout.split("\n")[-2])
    return made


def compare(
    rows: int, columns: int, given: argparse.Namespace, ended: set[tuple[Path, str]]
) -> None:
    """Print the line of each use of one table; add the uses that take too long to ``ended``."""
    with tempfile.TemporaryDirectory() as folder:
        for tree in given.trees:
            (Path(folder) / tree.name).mkdir()
            table(rows, columns, 2).to_csv(Path(folder) / tree.name / "table.csv", index=False)
        for use in given.uses.split(","):
            cells, floor = [], ""
            for tree in given.trees:
                place, made = Path(folder) / tree.name, None
                is_ready = use in ("open", "train") or (place / "network.pkl").exists()
                if is_ready and (tree, use) not in ended:
                    made = measured(tree, use, place, given)
                    ended |= set() if made else {(tree, use)}
                cells += [f"{made[0]:.2f}", f"{made[1]:.0f}"] if made else ["", ""]
                if made and not np.isnan(made[2]):
                    floor = f"{100 * made[2] / made[0]:.0f}"
            other = measured(OWN, RIVALS[use], place, given) if use in RIVALS else None
            count = rows if use in ("open", "train") else min(rows, given.queried)
            cells += [floor, f"{other[0]:.2f}" if other else ""]
            print(f"| {use} | {columns} | {count} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000,10000,100000", help="Numbers of rows.")
    parser.add_argument("--columns", default="8", help="Numbers of columns, at least 5.")
    parser.add_argument("--uses", default=",".join(USES), help="Uses.")
    parser.add_argument("--before", type=Path, help="Clone of earlier code.")
    parser.add_argument(
        "--queried", type=int, default=10**6, help="Largest number of queried rows."
    )
    parser.add_argument("--limit", type=int, default=600, help="CPU seconds of a use.")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--floor", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_use(given.run, given.folder, given.queried, given.floor)
        return
    given.trees = [given.before.resolve(), OWN] if given.before else [OWN]
    heads = ["before, CPU s", "MB"] if given.before else []
    heads += ["CPU s", "MB", "floor, %", "other, CPU s"]
    print(f"| use | columns | rows | {' | '.join(heads)} |")
    print("| --- |" + " ---: |" * (len(heads) + 2))
    ended: set[tuple[Path, str]] = set()
    for columns in map(int, given.columns.split(",")):
        for rows in map(int, given.rows.split(",")):
            compare(rows, columns, given, ended)


if __name__ == "__main__":
    main()
