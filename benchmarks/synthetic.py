"""Claim 7: trees separate drawn rows from test rows less well than rows of rivals.

    python benchmarks/synthetic.py

The networks are those of ``benchmarks/tables.py``, which are trained if they are not there. Rivals
draw as many rows from the same training rows; their whole numbers are rounded.
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.evidence import (
    WORSE,
    Claim,
    Figures,
    Results,
    apart,
    figure,
    for_each_seed,
    select,
    size_of,
    table,
)
from benchmarks.tables import Rows, network_of
from training.data.tables.encoding import encode

TABLES = ("bupa", "saheart", "mammographic", "contraceptive", "vehicle", "vowel")
RIVALS = {"copula": "Gaussian copula", "tvae": "TVAE"}
FOLDS, EPOCHS = 5, 300


def of_copula(real: np.ndarray, rows: Rows, seed: int) -> np.ndarray:
    """Draw rows by a Gaussian copula; a category is an interval as long as its share is large."""
    draw, edges = np.random.default_rng(seed), dict[int, np.ndarray]()
    spread = real.copy()
    for place in range(real.shape[1]):
        if rows.is_category(place):
            codes = real[:, place].astype(int)
            ends = np.bincount(codes, minlength=rows.levels(place)).cumsum() / len(codes)
            edges[place] = np.concatenate([[0.0], ends])
            low, high = edges[place][codes], edges[place][codes + 1]
            spread[:, place] = low + (high - low) * draw.random(len(codes))
    model = import_module("copulas.multivariate").GaussianMultivariate(random_state=seed)
    model.fit(pd.DataFrame(spread, columns=[f"c{at}" for at in range(real.shape[1])]))
    drawn = model.sample(len(real)).to_numpy(np.float64)
    for place, ends in edges.items():
        drawn[:, place] = np.searchsorted(ends[1:-1], drawn[:, place], side="right")
    return drawn


def of_tvae(real: np.ndarray, rows: Rows, seed: int) -> np.ndarray:
    """Draw rows by the TVAE of ctgan (Xu et al. 2019)."""
    frame = pd.DataFrame(real, columns=[f"c{at}" for at in range(real.shape[1])])
    categories = [f"c{at}" for at in range(real.shape[1]) if rows.is_category(at)]
    frame = frame.astype(dict.fromkeys(categories, int))
    model = import_module("ctgan").TVAE(epochs=EPOCHS, enable_gpu=False)
    model.set_random_state(seed)
    model.fit(frame, categories)
    return np.asarray(model.sample(len(real)), dtype=np.float64)


def told_apart(drawn: np.ndarray, test: np.ndarray, seed: int) -> float:
    """Return the cross-validated accuracy of trees, 0.5 at best."""
    some = np.random.default_rng(seed).permutation(drawn)[: len(test)]
    labels = np.repeat([0, 1], [len(some), len(test)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    trees = HistGradientBoostingClassifier(random_state=seed)
    return float(cross_val_score(trees, np.concatenate([some, test]), labels, cv=folds).mean())


def area(train: np.ndarray, test: np.ndarray, levels: int, seed: int) -> float:
    """Return the AUC of trees for the last column, of each class against the others."""
    trees = HistGradientBoostingClassifier(random_state=seed).fit(train[:, :-1], train[:, -1])
    shares = np.zeros((len(test), levels))
    shares[:, trees.classes_.astype(int)] = trees.predict_proba(test[:, :-1])
    present = [level for level in range(levels) if 0 < (test[:, -1] == level).sum() < len(test)]
    areas = [roc_auc_score(test[:, -1] == level, shares[:, level]) for level in present]
    return float(mean(areas))


def of_table(name: str, seed: int) -> Figures:
    """Return the figures of rows of the network, of rivals, and of the training rows."""
    answers, rows, trained = network_of(name, seed)
    real, test = np.concatenate([rows.train, rows.validation]), rows.test
    levels = rows.levels(real.shape[1] - 1)
    whole = (real == real.round()).all(axis=0)

    def ours() -> np.ndarray:
        drawn = answers.sample(len(real), seed=seed)
        return np.asarray(encode(drawn, rows.columns)[0].values)

    ways: dict[str, Callable[[], np.ndarray]] = {
        "flow": ours,
        "copula": lambda: of_copula(real, rows, seed),
        "tvae": lambda: of_tvae(real, rows, seed),
        "real": lambda: real,
    }
    found: Figures = {"rows": len(real) + len(test), "columns": real.shape[1]}
    for way, draw in ways.items():
        start = time.process_time()
        drawn = draw()
        seconds = time.process_time() - start + (trained if way == "flow" else 0.0)
        drawn = np.where(whole, drawn.round(), drawn)
        found[way] = {
            "c2st": told_apart(drawn, test, seed),
            "auc": area(drawn, test, levels, seed),
            "seconds": seconds,
        }
    return found


def judge(results: Results) -> tuple[bool, str]:
    """Return whether the claim holds, and the reason."""
    done = [name for name in TABLES if select(results, name)]
    gains = {
        (name, rival): apart(select(results, name), "flow", rival, "c2st")
        for name in done
        for rival in RIVALS
    }
    worse = [key for key, (off, error) in gains.items() if off > WORSE * error]
    lower = [key for key, (off, _) in gains.items() if off < 0]
    listed = f" ({', '.join(f'{RIVALS[rival]} on {name}' for name, rival in worse)})"
    reason = (
        f"the accuracy of trees is lower for rows of the flow than for those of a rival in "
        f"{len(lower)} of {len(gains)} comparisons, and higher by more than two standard errors in "
        f"{len(worse)}{listed if worse else ''}."
    )
    return not worse, reason


def body(results: Results) -> str:
    """Return the table of the page."""
    ways = {"flow": "flow", **RIVALS, "real": "training rows"}
    told, lost = [], []
    for name in TABLES:
        cells = select(results, name)
        if cells:
            size = size_of(name, cells)
            told.append(
                [size, *(figure([cell[way]["c2st"] for cell in cells], ".3f") for way in ways)]
            )
            losses = [
                [cell["real"]["auc"] - cell[way]["auc"] for cell in cells] for way in list(ways)[:3]
            ]
            seconds = [mean(cell[way]["seconds"] for cell in cells) for way in list(ways)[:3]]
            real = figure([cell["real"]["auc"] for cell in cells], ".3f")
            lost.append(
                [name, real, *(figure(each, ".3f") for each in losses)]
                + [f"{each:.0f}" for each in seconds]
            )
    names = list(ways.values())
    return (
        "Accuracy of gradient-boosted trees that separate drawn rows from test rows, 0.5 at best; "
        "mean ± standard error over seeds.\n\n"
        f"{table(['table', *names], told)}\n\n"
        "AUC of trees for the last column that train on real rows, how much is lost by those that "
        "train on drawn rows, and CPU seconds, of the flow without its training "
        "([imputation](tables.md)):\n\n"
        f"{table(['table', 'AUC', *names[:3], *(f'{each}, s' for each in names[:3])], lost)}\n\n"
        "Not shown: privacy of drawn rows, tables with missing cells, and CTGAN."
    )


CLAIM = Claim(
    "synthetic",
    "Synthetic rows",
    "Trees separate drawn rows from test rows less well than rows of rivals.",
    for_each_seed(of_table, TABLES),
    judge,
    body,
    ("torch", "numpy", "scikit-learn", "ctgan", "copulas"),
)

if __name__ == "__main__":
    CLAIM.main()
