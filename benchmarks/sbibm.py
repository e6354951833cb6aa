"""Claim 3: posteriors of the benchmark of simulation-based inference.

    python benchmarks/sbibm.py [--only='two_moons 1000 *']

Tasks, observations and reference posteriors are those of ``benchmarks/sbibm_tasks.py``. A cell
draws from the posteriors of the ten observations of a task, and compares 2,000 of 10,000 draws of
each with its reference: C2ST is the accuracy of a classifier, 0.5 is perfect.

TASK COUNT SEED           the posterior flow by its defaults, and NPE of sbi with neural splines by
                          its defaults (``pip install sbi==0.27``), on the same simulations
trials TASK COUNT SEED    the likelihood of one trial, of the same simulations
rounds TASK COUNT SEED    rounds of simulations, COUNT for each observation
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch.distributions import Independent

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.evidence import SEEDS, Claim, Figures, Results, figure, table
from benchmarks.sbibm_tasks import FEW, MANY, PUBLISHED, RIVALS, TASKS, Task
from benchmarks.two_sample import c2st
from dnnlib.errors import DataError
from training import Simulations, check, rounds

LARGER = ("two_moons", "slcp", "gaussian_linear", "bernoulli_glm")
"""Tasks with 10,000 simulations too, with the first seed."""
TRIALS = ("slcp", "bernoulli_glm_raw")
"""Tasks whose data consist of trials."""
DRAWS, COMPARED, AT_ONCE, CHECKED, CHECK_DRAWS = 10_000, 2_000, 5, 1_000, 100
"""Draws of a posterior, those that are compared, observations compared at once; new simulations for
calibration, and draws for each."""
LONGEST = 120.0
"""Seconds after which draws by NPE are given up, if almost all of them lie beyond the prior."""
METHODS = {
    "flow": ("flow", "prior"),
    "npe": ("NPE", "prior"),
    "trials": ("likelihood of trials", "prior; which data are trials; their covariates"),
    "rounds": ("rounds", "prior; simulator; the observation"),
}
"""Names of methods, and the structure that they are given."""


class Npe:
    """NPE of sbi, trained on parameters ``[N, D]`` and data ``[N, C]``."""

    def __init__(self, task: Task, theta: np.ndarray, data: np.ndarray, seed: int):
        torch.manual_seed(seed)
        methods, rows = import_module("sbi.inference"), map(torch.from_numpy, (theta, data))
        trainer = methods.NPE(task.prior, density_estimator="nsf", show_progress_bars=False)
        trainer.append_simulations(*(each.float() for each in rows)).train()
        self.posterior: Any = trainer.build_posterior()

    def sample(self, observed: np.ndarray, draws: int, seed: int) -> np.ndarray:
        """Return draws ``[M, S, D]``, or raise TimeoutError if they take too long."""
        torch.manual_seed(seed)
        options = {"show_progress_bars": False, "max_sampling_time": LONGEST}
        given = torch.from_numpy(observed).float()
        try:
            points = self.posterior.sample_batched((draws,), x=given, **options)
        except RuntimeError as error:
            raise TimeoutError(str(error)) from error
        return np.asarray(points.double()).swapaxes(0, 1)


def generator(name: str, count: int, seed: int) -> np.random.Generator:
    """Return the generator of the simulations of a cell, the same for all methods."""
    return np.random.default_rng([seed, list(TASKS).index(name), count])


def scored(task: Task, points: np.ndarray, seed: int) -> Figures:
    """Return the mean C2ST of draws ``[10, S, D]``, and that of each observation."""
    draw, found = np.random.default_rng(seed), list[float]()
    pairs = [
        [draw.permutation(each)[:COMPARED] for each in (task.reference(number), some)]
        for number, some in enumerate(points, start=1)
    ]
    for start in range(0, len(pairs), AT_ONCE):
        references, draws = zip(*pairs[start : start + AT_ONCE], strict=True)
        found += c2st(np.stack(references), np.stack(draws))
    return {"c2st": mean(found), "each": found}


def calibration(posterior: Any, task: Task, seed: int) -> Figures:
    """Return the smallest adjusted p-value of SBC, and coverage; None if draws are refused."""
    theta, data = task.simulations(CHECKED, np.random.default_rng([seed, 1]))
    try:
        facts = check(posterior, theta, data, draws=CHECK_DRAWS, seed=seed).facts
    except (DataError, TimeoutError):
        return {"p": None, "covered": None}
    intervals = facts["central_intervals"]
    covered = intervals["pooled"][intervals["levels"].index(0.9)]
    return {"p": min(facts["adjusted_p_values"].values()), "covered": covered}


class Flow:
    """The posterior flow, one chain of draws for each observation."""

    def __init__(self, task: Task, theta: np.ndarray, data: np.ndarray, seed: int):
        model = Simulations(theta, data, prior=task.prior, seed=seed).train(seed=seed)
        self.posterior = model.posterior()

    def sample(self, observed: np.ndarray, draws: int, seed: int) -> np.ndarray:
        found = self.posterior.sample(observed, draws=draws, seed=seed)
        return np.asarray(found.points)


def of_posteriors(name: str, count: int, seed: int) -> Figures:
    """Return figures of the flow and of NPE, on the same simulations."""
    task, found = TASKS[name](), {}
    theta, data = task.simulations(count, generator(name, count, seed))
    ways: dict[str, Callable[..., Any]] = {"flow": Flow, "npe": Npe}
    for method, way in ways.items():
        began = time.process_time()
        posterior = way(task, theta, data, seed)
        trained = time.process_time()
        points = posterior.sample(task.observations(), DRAWS, seed)
        drawn = time.process_time()
        found[method] = {"train": trained - began, "draw": drawn - trained}
        found[method] |= scored(task, points, seed)
        found[method] |= calibration(posterior, task, seed)
    return found


def of_trials(name: str, count: int, seed: int) -> Figures:
    """Return figures of the posterior by a learned likelihood of one trial."""
    task = TASKS[name]()
    theta, data = task.simulations(count, generator(name, count, seed))
    began = time.process_time()
    rows, covariates = task.as_trials(data)
    simulations = Simulations(
        np.repeat(theta, task.trials, axis=0),
        rows.drop(columns="dataset"),
        prior=task.prior,
        dataset=rows["dataset"].to_numpy(),
        covariates=covariates,
        seed=seed,
    )
    model = simulations.train(likelihood=True, seed=seed)
    trained = time.process_time()
    observed, _ = task.as_trials(task.observations())
    draws = model.posterior().sample(observed, draws=DRAWS, seed=seed)
    seconds = {"train": trained - began, "draw": time.process_time() - trained}
    return {**seconds, "converged": int(draws.converged.sum()), **scored(task, draws.points, seed)}


def of_rounds(name: str, count: int, seed: int) -> Figures:
    """Return figures of rounds of simulations for each observation.

    Independent parameters are given as quantiles, which are uniform.
    """
    task, points = TASKS[name](), []
    prior: Any = task.prior
    simulate, known = task.simulate, dict[str, Any](prior=prior)

    def from_quantiles(shares: Any) -> np.ndarray:
        values = prior.base_dist.icdf(torch.as_tensor(np.asarray(shares)))
        return np.asarray(values.double())

    def simulate_quantiles(shares: Any, draw: np.random.Generator) -> np.ndarray:
        return task.simulate(from_quantiles(shares), draw)

    independent = isinstance(prior, Independent)
    if independent:
        names = [f"theta{place + 1}" for place in range(prior.event_shape[0])]
        simulate, known = simulate_quantiles, {"bounds": dict.fromkeys(names, (0.0, 1.0))}
    began = time.process_time()
    for observed in task.observations():
        draws = rounds(simulate, observed, simulations=count, draws=DRAWS, seed=seed, **known)
        found = draws.points[0]
        points.append(from_quantiles(found) if independent else found)
    return {"train": time.process_time() - began, **scored(task, np.stack(points), seed)}


def cells_of(results: Results, method: str, name: str, count: int) -> list[Figures]:
    """Return the figures of a method on a task, for all seeds."""
    first = f"{method} " if method in ("trials", "rounds") else ""
    found = [results.get(f"{first}{name} {count} {seed}") for seed in SEEDS]
    return [cell if first else cell[method] for cell in found if cell]


def judge(results: Results) -> tuple[bool, str]:
    """Judge whether the flow is nearer than NPE, in the mean over tasks, for each number."""
    holds, parts = True, []
    for count in (FEW, MANY):
        means = []
        for name in TASKS:
            cells = [cells_of(results, method, name, count) for method in ("flow", "npe")]
            if all(cells):
                means.append([mean(cell["c2st"] for cell in each) for each in cells])
        if means:
            flow, npe = map(mean, zip(*means, strict=True))
            holds &= flow < npe
            parts.append(
                f"with {count:,} simulations, mean C2ST over {len(means)} of "
                f"{len(PUBLISHED[count])} tasks is {flow:.3f} for the flow and {npe:.3f} for NPE"
            )
    return holds, f"{'; '.join(parts)}."


def body(results: Results) -> str:
    """Return the tables of the page."""
    near, costs = [], []
    for count, published in PUBLISHED.items():
        for name in TASKS:
            every = {method: cells_of(results, method, name, count) for method in METHODS}
            if not any(every.values()):
                continue
            scores = [figure(cell["c2st"] for cell in cells) for cells in every.values()]
            near.append([name, f"{count:,}", *scores, *map("{:.3f}".format, published[name])])
            costs.append([name, f"{count:,}", *map(seconds_of, every.values())])
            for key, factor, digits in (("p", 1, ".2g"), ("covered", 100, ".1f")):
                for cells in (every["flow"], every["npe"]):
                    values = [cell[key] for cell in cells if cell[key] is not None]
                    costs[-1].append(
                        ", ".join(f"{factor * each:{digits}}" for each in values) or "–"
                    )
            costs[-1].append(", ".join(f"{cell['converged']}" for cell in every["trials"]) or "–")
    names = [name for name, _ in METHODS.values()]
    given = [*METHODS.values(), ("NPE, NLE, published", METHODS["npe"][1])]
    given.append(("SNPE, SNLE, published", METHODS["rounds"][1]))
    head = ["task", "simulations", *names, *(f"{rival}, published" for rival in RIVALS)]
    checks = [f"{way}, {key}" for key in ("p", "covered") for way in names[:2]]
    return f"""
C2ST: mean over ten observations, and ± standard error over three seeds where they were run; 0.5 is
perfect.

{table(head, near)}

{table(["method", "given"], given, 2)}

*flow*: `Simulations(...).train()`. *NPE*: sbi 0.27 with neural splines, on the same simulations.
*rounds* have as many simulations for each observation; independent parameters are given as
quantiles. Published figures (github.com/sbi-benchmark/results) compare 10,000 draws instead of
2,000, which makes C2ST somewhat larger, and are no part of the verdict.

## Cost and calibration

{table(["task", "simulations", *names, *checks, "converged"], costs)}

CPU seconds: training + 10,000 draws for each of ten observations. *p*: smallest p-value of
simulation-based calibration on 1,000 new simulations, adjusted for the number of tests, by seed.
*covered*: true parameters in central 90 % intervals, in percent, by seed. Both are missing where
almost all draws lie beyond the prior for some new simulation, so that the flow refuses it, or NPE
takes over two minutes. *converged*: posteriors of ten by the likelihood of trials that are reported
as converged, by seed.

## Not shown

Methods were developed on some of these tasks, so that they do not confirm. Standard errors are
those of simulations and training; the ten observations are the same for all seeds. Settings of NPE
other than the default, and other observations.
"""


def seconds_of(cells: list[Figures]) -> str:
    """Format the mean CPU seconds of training and of draws."""
    parts = [part for part in ("train", "draw") if cells and part in cells[0]]
    return " + ".join(f"{mean(cell[part] for cell in cells):.0f}" for part in parts) or "–"


WAYS = {"": of_posteriors, "trials ": of_trials, "rounds ": of_rounds}
PLAN: Sequence[tuple[str, Iterable[str], int, Sequence[int]]] = (
    ("", TASKS, FEW, SEEDS),
    ("", LARGER, MANY, SEEDS[:1]),
    ("trials ", TRIALS, FEW, SEEDS),
    ("trials ", ("slcp",), MANY, SEEDS[:1]),
    ("rounds ", TASKS, FEW, SEEDS[:1]),
)
CELLS = {
    f"{kind}{name} {count} {seed}": partial(WAYS[kind], name, count, seed)
    for kind, names, count, seeds in PLAN
    for seed in seeds
    for name in names
}
CLAIM = Claim(
    "sbibm",
    "Simulation-based inference",
    "Draws are nearer to reference posteriors than those of NPE from as many simulations.",
    CELLS,
    judge,
    body,
    ("torch", "numpy", "sbi"),
)

if __name__ == "__main__":
    CLAIM.main()
