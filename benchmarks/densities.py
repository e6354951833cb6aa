"""Claim 5: held-out log density is highest with the flow.

    python benchmarks/densities.py

Rivals have as many CPU seconds as the training of the flow took, with all of its choices: neural
spline flows of four settings, and mixtures of Gaussians; see the protocol.
"""

import copy
import sys
import time
from collections.abc import Callable
from math import cos, pi
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split

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
from benchmarks.public_tables import dequantized, numbers
from training import Table

TABLES = (
    "bupa", "star98", "vehicle", "vowel", "segment",
    "banana", "ring", "satimage", "texture", "penbased",
)  # fmt: skip
RIVALS = {"spline": "neural spline flow", "mixture": "mixture of Gaussians"}
MOST_ROWS = 4000
SETTINGS = [(width, rate) for width in (64, 128) for rate in (1e-3, 5e-3)]
"""Widths and learning rates of neural spline flows."""
TRIAL = 1 / 8
"""Part of the seconds in which one setting is tried."""
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 50)
LEAST_VARIANCE = 1e-6
BATCH, LOOKS, LONGEST_GRADIENT = 256, 40, 5.0
MOST_WORSE = 2
"""Largest number of tables on which the flow may be clearly below a rival."""
LogProb = Callable[[np.ndarray], np.ndarray]


def of_table(name: str, seed: int) -> Figures:
    """Return nats and seconds of the flow and its rivals."""
    values = numbers(name)
    chosen = np.random.default_rng(seed).permutation(len(values))[:MOST_ROWS]
    values = dequantized(values[chosen], seed)
    train, test = train_test_split(values, test_size=0.2, random_state=seed)
    center, std = train.mean(axis=0), train.std(axis=0)
    train, test = (train - center) / std, (test - center) / std
    start = time.process_time()
    opened = Table.open(train, held_out=0.1, seed=seed)
    model = opened.train(seed=seed)
    seconds = time.process_time() - start
    rows, held_out = opened.rows.values, opened.rows.held_out
    ways: dict[str, Callable[[], LogProb]] = {
        "flow": lambda: model.log_prob,
        "spline": lambda: best_spline(rows[~held_out], rows[held_out], seconds, seed),
        "mixture": lambda: best_mixture(rows[~held_out], rows[held_out], seconds, seed),
    }
    found: Figures = {"rows": len(values), "columns": values.shape[1]}
    for way, fit in ways.items():
        start = time.process_time()
        log_prob = fit()
        fitted = time.process_time()
        nats = np.asarray(log_prob(test)).mean()
        used = seconds if way == "flow" else fitted - start
        found[way] = {"nats": nats, "fit": used, "densities": time.process_time() - fitted}
    return found


class Spline:
    """Training of a neural spline flow of zuko, whose best weights on validation rows are used."""

    def __init__(self, train: np.ndarray, validation: np.ndarray, width: int, seed: int):
        import zuko

        torch.manual_seed(seed)
        self.flow: Any = zuko.flows.NSF(train.shape[1], transforms=3, hidden_features=(width,) * 2)
        self.train, self.validation = (torch.tensor(rows).float() for rows in (train, validation))
        self.best, self.weights = -np.inf, self.flow.state_dict()

    def fit(self, rate: float, seconds: float) -> "Spline":
        """Train by Adam for so many CPU seconds; the rate falls along a cosine."""
        start, looks = time.process_time(), 0
        optimizer = torch.optim.Adam(self.flow.parameters(), lr=rate)
        while looks < LOOKS:
            for rows in torch.split(torch.randperm(len(self.train)), BATCH):
                part = min(1.0, (time.process_time() - start) / seconds)
                optimizer.param_groups[0]["lr"] = rate * (1 + cos(pi * part)) / 2
                loss = -self.flow().log_prob(self.train[rows]).mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(self.flow.parameters(), LONGEST_GRADIENT)
                optimizer.step()
                if part * LOOKS >= looks + 1:
                    looks = int(part * LOOKS)
                    self.look()
                    if looks == LOOKS:
                        break
        return self

    def look(self) -> None:
        """Keep the weights if they are the best so far on validation rows."""
        with torch.no_grad():
            nats = float(self.flow().log_prob(self.validation).mean())
        if nats > self.best:
            self.best, self.weights = nats, copy.deepcopy(self.flow.state_dict())

    @torch.no_grad()
    def log_prob(self, rows: np.ndarray) -> np.ndarray:
        """Return log densities ``[N]`` with the best weights."""
        self.flow.load_state_dict(self.weights)
        return np.asarray(self.flow().log_prob(torch.tensor(rows).float()).double())


def best_spline(train: np.ndarray, validation: np.ndarray, seconds: float, seed: int) -> LogProb:
    """Try four settings, an eighth of the seconds each, then train with the best one."""
    tried = [
        (Spline(train, validation, width, seed).fit(rate, TRIAL * seconds).best, width, rate)
        for width, rate in SETTINGS
    ]
    _, width, rate = max(tried)
    left = seconds * (1 - TRIAL * len(SETTINGS))
    return Spline(train, validation, width, seed).fit(rate, left).log_prob


def best_mixture(train: np.ndarray, validation: np.ndarray, seconds: float, seed: int) -> LogProb:
    """Choose the number of components and the kind of covariance on validation rows."""
    start, best, log_prob = time.process_time(), -np.inf, None
    for count in COMPONENTS:
        for kind in ("full", "diag"):
            if log_prob is not None and time.process_time() - start > seconds:
                break
            mixture = GaussianMixture(
                count, covariance_type=kind, reg_covar=LEAST_VARIANCE, random_state=seed
            ).fit(train)
            if (nats := mixture.score(validation)) > best:
                best, log_prob = nats, mixture.score_samples
    assert log_prob is not None
    return log_prob


def judge(results: Results) -> tuple[bool, str]:
    """Return whether the claim holds, and the reason."""
    done = [name for name in TABLES if select(results, name)]
    gains = {
        (name, rival): apart(select(results, name), "flow", rival, "nats")
        for name in done
        for rival in RIVALS
    }
    clear = [key for key, (gain, error) in gains.items() if gain > WORSE * error]
    worse = sorted({name for (name, _), (gain, error) in gains.items() if gain < -WORSE * error})
    below = f" ({', '.join(worse)})" if worse else ""
    reason = (
        f"a rival has a higher log density by more than two standard errors on {len(worse)} of "
        f"{len(done)} tables{below}. The flow has a higher one than a rival, as clearly, in "
        f"{len(clear)} of {len(gains)} comparisons."
    )
    return len(worse) <= MOST_WORSE, reason


def body(results: Results) -> str:
    """Return the tables of the page."""
    ways = {"flow": "flow", **RIVALS}
    rows, times = [], []
    for name in TABLES:
        cells = select(results, name)
        if cells:
            size = size_of(name, cells)
            nats = [figure([cell[way]["nats"] for cell in cells], ".2f") for way in ways]
            least, error = min(apart(cells, "flow", rival, "nats") for rival in RIVALS)
            rows.append([size, *nats, f"{least:+.2f} ± {error:.2f}"])
            fits = [mean(cell[way]["fit"] for cell in cells) for way in ways]
            spent = [mean(cell[way]["densities"] for cell in cells) for way in ways]
            times.append([name, *(f"{each:.0f}" for each in fits), *(f"{e:.2f}" for e in spent)])
    head = ["table", *ways.values(), "flow − best rival"]
    seconds = [*(f"{way}, fit" for way in ways), *(f"{way}, densities" for way in ways)]
    return (
        "Mean log density of test rows in nats, columns in standard deviations; mean ± standard "
        "error over three seeds, and of the difference for each seed.\n\n"
        f"{table(head, rows)}\n\n"
        "CPU seconds, with all choices, and for the log densities of the test rows:\n\n"
        f"{table(['table', *seconds], times)}\n\n"
        "Not shown: larger tables, longer trainings, other flows, and choices made on other tables."
    )


CLAIM = Claim(
    "densities",
    "Densities of tables",
    "Held-out log density is highest with the flow.",
    for_each_seed(of_table, TABLES),
    judge,
    body,
    ("torch", "numpy", "scikit-learn", "zuko"),
)

if __name__ == "__main__":
    CLAIM.main()
