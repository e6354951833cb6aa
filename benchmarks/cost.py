"""Claim 10: commands start within a second; what each use costs beside other programs.

    python benchmarks/cost.py

Each use is prepared and measured in a process of its own. Rivals fit within their seconds, except
for zuko's flow, whose weights do not change its cost. Networks stay in ``out/evidence``.
"""

import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from inspect import isclass, isfunction
from pathlib import Path
from pkgutil import iter_modules
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import IsolationForest
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.densities import Spline
from benchmarks.evidence import ROOT, SEEDS, Claim, Figures, Results, figure, select, table
from benchmarks.tables import Rows, chained_equations, frames
from inflationary_flows.__main__ import scripts
from training import Answers, Model, Table, networks

FOLDER = ROOT / "out" / "evidence"
ROWS, FEW, MISSING, REPEATS, SHORT = 10_000, 1000, 0.1, 5, 10.0
"""Sizes of uses; share of missing cells; number of calls below ``SHORT`` seconds."""
SLOWEST_START, SLOWER = 1.0, 20.0
"""Seconds of a start-up, and the factor from which a slower use is listed."""
QUANTILES, WIDTH, RATE, FIT_SECONDS, WARMUP = (0.05, 0.5, 0.95), 64, 1e-3, 20.0, 300
FITS, FLOW = ("impute", "predict", "classify", "score"), ("density", "sample", "posterior")
"""Uses whose rivals fit; uses of the flow of numbers."""
NUMBER, CATEGORY, SEEN, NOISE_STD = "size", "garden", 4, 0.1
"""Predicted columns; number of observed columns of a posterior, and their noise."""
Call = Callable[[], object]
Ready = Callable[[int], Call]
"""Function that prepares a use for a seed and returns the call that is measured."""


def numbers(seed: int) -> pd.DataFrame:
    """Return rows of eight numbers, of which the last four are noisy functions of the others."""
    draw = np.random.default_rng(seed)
    first = draw.normal(size=(ROWS, 4))
    last = np.sin(2 * first) + first[:, ::-1] ** 2 / 2 + 0.3 * draw.normal(size=first.shape)
    values = np.concatenate([first, last], axis=1)
    return pd.DataFrame(values, columns=[f"x{place}" for place in range(1, 9)])


def typed(seed: int) -> Path:
    """Write four numbers, two whole numbers and two categories, some missing; return the path."""
    path = FOLDER / f"cost-{seed}.csv"
    if not path.exists():
        frame, draw = numbers(seed), np.random.default_rng([seed, 1])
        frame = frame.rename(columns={"x5": "size", "x6": "price", "x7": "age", "x8": "speed"})
        frame["rooms"] = draw.poisson(np.exp(1 + frame.pop("x1") / 2))
        frame["visits"] = draw.poisson(np.exp(3 + frame.pop("x2") / 4))
        frame["city"] = "city " + frame.pop("x3").mul(4).round().clip(-9, 9).astype(int).astype(str)
        frame["garden"] = np.where(frame.pop("x4") + draw.normal(size=ROWS) > 0, "yes", "no")
        for name in ("price", "rooms", "city"):
            frame[name] = frame[name].astype(object).mask(draw.random(ROWS) < MISSING, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False)
    return path


def encoded(seed: int) -> Rows:
    """Return the rows for rivals, which fit on all of them and are queried about all of them."""
    rows = Table.open(typed(seed)).rows.as_typed()
    return Rows(rows.values, rows.values[:0], rows.values, rows.columns)


USES: dict[str, Callable[[Any, pd.DataFrame], object]] = {
    "impute": lambda model, rows: model.fill(rows),
    "predict": lambda model, rows: model.predict(rows, [NUMBER]),
    "classify": lambda model, rows: model.predict(rows, [CATEGORY]),
    "score": lambda model, rows: model.score(rows),
    "draw": lambda model, rows: model.sample(len(rows)),
    "density": lambda model, rows: model.log_prob(rows[:FEW]),
    "sample": lambda model, _: model.sample(FEW),
    "posterior": lambda model, rows: model.posterior(NOISE_STD, list(rows)[:SEEN]).sample(
        rows.iloc[:1, :SEEN], draws=FEW
    ),
}


def ready_flow(use: str, seed: int) -> Call:
    """Prepare a use with the library: of the table by default, or of the flow of numbers."""
    of_table = use not in (*FLOW, "fit")
    path = FOLDER / f"cost-{'table' if of_table else 'flow'}-{seed}.pkl"
    source: Any = typed(seed) if of_table else numbers(seed)
    if use in USES:
        rows = pd.read_csv(source) if of_table else source
        return partial(USES[use], (Answers if of_table else Model).load(path), rows)
    opening = partial(Table.open, source, held_out=0.1, seed=seed)
    if use == "open":
        return opening
    opened = opening()
    return lambda: opened.train(seed=seed).save(path)


def ready_boosted(column: str, seed: int) -> Call:
    """Prepare a fit of LightGBM, and predictions of all rows."""
    lightgbm, rows = import_module("lightgbm"), encoded(seed)
    place = [each.name for each in rows.columns].index(column)
    (given, _, queried), (targets, _, _) = frames(rows, place)
    options: dict[str, Any] = {"verbose": -1, "n_jobs": 1, "random_state": seed}
    models = [lightgbm.LGBMClassifier(**options)]
    if column == NUMBER:
        quantile = partial(lightgbm.LGBMRegressor, objective="quantile", **options)
        models = [quantile(alpha=level) for level in QUANTILES]
    return lambda: [model.fit(given, targets).predict(queried) for model in models]


def ready_forest(seed: int) -> Call:
    values, forest = np.nan_to_num(encoded(seed).train), IsolationForest(random_state=seed)
    return lambda: forest.fit(values).score_samples(values)


def ready_spline(use: str, seed: int) -> Call:
    """Prepare a use of a neural spline flow of zuko."""
    values = numbers(seed).to_numpy()
    spline = Spline(values[FEW:], values[:FEW], WIDTH, seed).fit(RATE, FIT_SECONDS)
    observed = torch.tensor(values[0, :SEEN]).float()

    def energy(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        point = state["point"]
        misfit = ((point[:SEEN] - observed) / NOISE_STD).square().sum() / 2
        return torch.as_tensor(misfit - spline.flow().log_prob(point))

    def posterior() -> object:
        nuts = import_module("pyro.infer").NUTS(potential_fn=energy)
        start = {"point": torch.tensor(values[0]).float()}
        chain = import_module("pyro.infer").MCMC(nuts, FEW, WARMUP, start, disable_progbar=True)
        return chain.run()

    sample = torch.no_grad()(lambda: spline.flow().sample((FEW,)))
    calls = {"density": lambda: spline.log_prob(values[:FEW]), "sample": sample}
    return calls.get(use, posterior)


WORDS = {
    "open": "open the table", "train": "train on the table", "impute": "impute missing cells",
    "predict": "predict a number", "classify": "predict a category",
    "score": "score rows and cells", "draw": "draw rows", "fit": "train a flow of numbers",
    "density": "log densities", "sample": "samples", "posterior": "a posterior, 1,000 draws",
}  # fmt: skip
RIVALS: dict[str, dict[str, Ready]] = {
    "open": {"pandas, read_csv": lambda seed: partial(pd.read_csv, typed(seed))},
    "impute": {
        "IterativeImputer, 30 draws": lambda seed: partial(
            chained_equations, (rows := encoded(seed))._replace(train=rows[1]), rows.test, seed
        ),
        "IterativeImputer": lambda seed: partial(
            IterativeImputer().fit_transform, encoded(seed)[0]
        ),
    },
    "predict": {"LightGBM": partial(ready_boosted, NUMBER)},
    "classify": {"LightGBM": partial(ready_boosted, CATEGORY)},
    "score": {"IsolationForest": ready_forest},
    **{use: {"zuko": partial(ready_spline, use)} for use in FLOW},
}
WAYS: dict[str, dict[str, Ready]] = {
    use: {"flow": partial(ready_flow, use), **RIVALS.get(use, {})} for use in WORDS
}


def memory(key: str) -> float:
    """Return a figure of this process in MB, on Linux: VmRSS now, or VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def timed_networks() -> list[float]:
    """Time all functions of networks from now on; return a list with their CPU seconds."""
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

    for found in iter_modules(networks.__path__, f"{networks.__name__}."):
        kinds = filter(isclass, vars(import_module(found.name)).values())
        for kind in (kind for kind in kinds if kind.__module__ == found.name):
            for name, function in list(vars(kind).items()):
                if isfunction(function) and (name == "__call__" or name[:2] != "__"):
                    setattr(kind, name, timed(function))
    return spent


def measured(use: str, way: str, seed: int) -> Figures:
    """Return CPU seconds, megabytes, and the share of the network, of a call in this process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # chained equations that have not converged
    call, spent = WAYS[use][way](seed), timed_networks()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    before, runs = memory("VmRSS"), list[tuple[float, float]]()
    while len(runs) < (REPEATS if not runs or runs[0][0] < SHORT else 1):
        spent[0], start = 0.0, time.process_time()
        call()
        seconds = time.process_time() - start
        runs.append((seconds, spent[0] / seconds))
    usual, share = (median(each) for each in zip(*(runs[1:] or runs), strict=True))
    return {"seconds": usual, "network": share, "memory": memory("VmHWM") - before}


def of_use(use: str, seed: int) -> Figures:
    """Measure a use with the flow and with its rivals, each in a process of its own."""
    spawn, found = multiprocessing.get_context("spawn"), {}
    for way in WAYS[use]:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            found[way] = pool.submit(measured, use, way, seed).result()
    return found


def start_up() -> Figures:
    """Return medians of seconds of ``--help``, of the CPU and by the clock, of each script."""
    found = {}
    for path in scripts().values():
        runs = []
        for _ in range(REPEATS):
            before, start = sum(os.times()[2:4]), time.perf_counter()
            command = [sys.executable, path.name, "--help"]
            subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
            runs.append((sum(os.times()[2:4]) - before, time.perf_counter() - start))
        cpu, clock = map(median, zip(*runs, strict=True))
        found[path.name] = {"cpu": cpu, "clock": clock}
    return found


def ratio(results: Results, use: str, rival: str, training: bool = False) -> float:
    """Return our mean seconds by those of a rival; ours may contain the training."""
    ours = [select(results, each) for each in (use, *["train"] * training)]
    seconds = sum(mean(cell["flow"]["seconds"] for cell in cells) for cells in ours)
    return seconds / mean(cell[rival]["seconds"] for cell in ours[0])


def judge(results: Results) -> tuple[bool, str]:
    starts = {name: max(own.values()) for name, own in results["start"].items()}
    last = max(starts, key=starts.__getitem__)
    after, alone = (
        "; ".join(
            f"{WORDS[use]} ({rival}, {times:.0f} times)"
            for use in uses
            for rival in RIVALS[use]
            if select(results, use) and (times := ratio(results, use, rival, training)) > SLOWER
        )
        for training, uses in ((False, tuple(RIVALS)), (True, FITS))
    )
    return starts[last] <= SLOWEST_START, (
        f"the slowest start-up takes {starts[last]:.2f} s ({last}). More than 20 times slower than "
        f"a rival: {after or 'none'}. If our training serves a single use: {alone or 'none'}."
    )


def body(results: Results) -> str:
    start, rows = results["start"], []
    starts = [[name, *(f"{each:.2f}" for each in own.values())] for name, own in start.items()]
    for use, words in WORDS.items():
        for way in WAYS[use] if select(results, use) else ():
            own = [cell[way] for cell in select(results, use)]
            seconds = [each["seconds"] for each in own]
            share, space = (mean(each[key] for each in own) for key in ("network", "memory"))
            form = ".0f" if mean(seconds) > 10 else ".1f" if mean(seconds) > 1 else ".3f"
            ours, fits = way == "flow", (False, True) if use in FITS else (False,)
            times = [] if ours else [ratio(results, use, way, training) for training in fits]
            shares = [f"{100 * share:.0f}" if ours else "–", f"{space:.0f}"]
            ratios = [figure([each], ".0f" if each > 10 else ".2f") for each in times]
            cells = [words if ours else "", way, figure(seconds, form), *shares, *ratios]
            rows.append(cells + ["–"] * (2 - len(ratios)))
    head = ["use", "with", "CPU s", "network, %", "MB", "flow / rival", "with our training"]
    return f"""
{table(["start-up (`--help`)", "CPU s", "s"], starts)}

{table(head, rows, words=2)}

The table has 10,000 rows of four numbers, two whole numbers and two categories; a tenth of three
columns is missing. Uses are of all rows. The flow has 10,000 rows of eight numbers; 1,000 densities
and samples. The posterior is of one row, four of whose columns are observed with noise of 0.1.

*CPU s*: mean ± standard error over seeds of the median of four calls after the first, or of a first
call above ten seconds. *Network*: share of forward evaluations of the network in them. *MB*: peak
memory beyond that before the call. Comparisons are not like for like. Rivals' seconds contain their
fits, except for zuko's; ours follow one training for all uses. *IterativeImputer* without draws
gives one value and no interval. LightGBM fits three quantiles, or classes. *IsolationForest* scores
rows, ours each cell, too. *zuko*: a neural spline flow of width 64 in single precision; our
densities are in double precision. Its posterior is by NUTS of pyro with 300 steps of warm-up; these
draws are correlated.

Not shown: accuracy, larger tables, several cores, GPUs, and [training of zuko](densities.md).
"""


CELLS: dict[str, Callable[[], Figures]] = {"start": start_up}
CELLS |= {f"{use} {seed}": partial(of_use, use, seed) for seed in SEEDS for use in WORDS}
CLAIM = Claim(
    "cost",
    "Cost",
    "Commands start within a second.",
    CELLS,
    judge,
    body,
    ("torch", "numpy", "pandas", "scikit-learn", "lightgbm", "zuko", "pyro-ppl"),
)

if __name__ == "__main__":
    CLAIM.main()
