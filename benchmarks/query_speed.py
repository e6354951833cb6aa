"""Time and memory of the uses of a table, beside earlier code and other programs.

A table of numbers, whole numbers, categories and dates with missing cells is made by a fixed seed.
Each use runs in a process of its own:

    OMP_NUM_THREADS=1 python benchmarks/query_speed.py --rows=1000,10000 --columns=8

With ``--before``, the path of an earlier clone, each use is run by its code, too. A use that takes
more than ``--limit`` CPU seconds is ended, left empty, and not tried with more rows or columns.
``--queried`` limits the rows that are queried, but not those that are opened and trained on.

*Network* is the share of the CPU seconds that is spent in evaluations of the network.
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
from inspect import isfunction
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import training
from training.networks import questions

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


def timed_network() -> list[float]:
    """Time the network from now on; return a list whose only item is the CPU seconds in it."""
    spent, inside = [0.0], [False]

    def timed(function: Any) -> Any:
        def call(*words: Any, **named: Any) -> Any:
            if inside[0]:
                return function(*words, **named)
            inside[0], start = True, time.process_time()
            try:
                return function(*words, **named)
            finally:
                inside[0] = False
                spent[0] += time.process_time() - start

        return call

    for kind in (questions.QuestionNetwork, questions.SingleTarget):
        for name, function in list(vars(kind).items()):
            if isfunction(function) and name != "__init__":
                setattr(kind, name, timed(function))
    return spent


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


def run_use(use: str, folder: Path, queried: int, with_network: bool) -> None:
    """Run one use; print its CPU seconds, peak memory in MB, and seconds in the network."""
    torch.set_num_threads(1)
    data, network = str(folder / "table.csv"), str(folder / "network.pkl")
    in_network = [np.nan]
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
        in_network = timed_network() if with_network else in_network
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
    print(json.dumps([seconds, peak_memory(), in_network[0]]))


def measured(tree: Path, use: str, folder: Path, given: argparse.Namespace) -> list[float] | None:
    """Run a use in a process of its own, by the code in ``tree``; None if it takes too long."""
    words = [f"--run={use}", f"--folder={folder}", f"--queried={given.queried}"]
    if tree == OWN and use not in ("open", "train", *RIVALS.values()):
        words.append("--network")
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
            cells, share = [], ""
            for tree in given.trees:
                place, made = Path(folder) / tree.name, None
                is_ready = use in ("open", "train") or (place / "network.pkl").exists()
                if is_ready and (tree, use) not in ended:
                    made = measured(tree, use, place, given)
                    ended |= set() if made else {(tree, use)}
                cells += [f"{made[0]:.2f}", f"{made[1]:.0f}"] if made else ["", ""]
                if made and not np.isnan(made[2]):
                    share = f"{100 * made[2] / made[0]:.0f}"
            other = measured(OWN, RIVALS[use], place, given) if use in RIVALS else None
            count = rows if use in ("open", "train") else min(rows, given.queried)
            cells += [share, f"{other[0]:.2f}" if other else ""]
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
    parser.add_argument("--network", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run_use(given.run, given.folder, given.queried, given.network)
        return
    given.trees = [given.before.resolve(), OWN] if given.before else [OWN]
    heads = ["before, CPU s", "MB"] if given.before else []
    heads += ["CPU s", "MB", "network, %", "other, CPU s"]
    print(f"| use | columns | rows | {' | '.join(heads)} |")
    print("| --- |" + " ---: |" * (len(heads) + 2))
    ended: set[tuple[Path, str]] = set()
    for columns in map(int, given.columns.split(",")):
        for rows in map(int, given.rows.split(",")):
            compare(rows, columns, given, ended)


if __name__ == "__main__":
    main()
