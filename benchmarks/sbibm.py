"""The benchmark of simulation-based inference (sbibm): its tasks, and methods on them.

    python benchmarks/sbibm.py validate [--tasks=two_moons,sir]
    python benchmarks/sbibm.py run --task=two_moons --simulations=1000,10000
        [--method=flow,trials,rounds,npe,fmpe,npse] [--observations=1-10]
    python benchmarks/sbibm.py check --task=two_moons --simulations=10000 [--runs=1000] [--deblur]
        [--method=flow|trials]

Tasks are written anew (``simulators``); pip downloads the wheel of the package, for its
observations and reference posteriors, into a folder of its own and does not install it.

``validate`` shows, over the observations, numbers that are standard normal if a task is the one
that the package's files come from (``simulators/validation.py`` says which):

posterior     largest of those of the reference posteriors, their root mean square, and how many
simulator     the same of simulations at true parameters
ranks         p-value of the ranks of the observations' log likelihoods among those of simulations

``run`` draws simulations, trains on them, draws from the posteriors of all ten observations, and
compares with the reference. ``flow`` is ``train.py --cond`` and ``posterior.py sample --condition``
by their defaults; ``trials`` is ``train.py --likelihood`` and ``sample --prior`` likewise;
``npe``, ``fmpe`` and ``npse`` are of the package ``sbi``, which is to be installed. Each of
these gets the same simulations. ``rounds`` is ``posterior.py rounds`` for one observation after the
other, as many simulations for each. Draws and results go to files of their own, and what is there
already is not made again.

C2ST          cross-validated accuracy of a classifier that tells draws from the reference; 0.5 is
              perfect. Mean over observations
published     the same of neural posterior estimation, as published, mean over 10 observations
train, draw   seconds of the CPU: training, with start-up; 10,000 draws for each of 10 observations

``check`` trains what is not there, and asks on new simulations where the true parameters lie
(``posterior.py check --truth=data``):

highest density     coverage of regions of 50, 80, 90 and 95 %; largest deviation at any level
TARP, central       largest deviation of these, in points; central intervals of all parameters
smallest p          of all tests, their number accounted for
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.estimators import METHODS, Simulations
from benchmarks.estimators.checking import checked
from benchmarks.estimators.flow import children_seconds
from benchmarks.simulators import TASKS, Task, Wheel
from benchmarks.simulators.c2st import FOLDS, c2st
from benchmarks.simulators.published import NPE
from benchmarks.simulators.validation import agreement
from benchmarks.simulators.wheel import OBSERVATIONS
from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils.results import load_arrays, load_json, provenance, save_arrays, save_json
from training.cli.script import run_script

DRAWS = 10_000
TOLD = (0.5, 0.8, 0.9, 0.95)
"""Levels whose coverage the table shows."""
AT_ONCE = 4
"""Observations whose classifiers are trained side by side: as many as stay in the cache."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured of one task by one method.

    Attributes:
        task: The task.
        wheel: Its observations and references.
        method: Name of the method.
        numbers: Of the observations that are compared.
        compared: Draws, and as many of the reference, that C2ST compares.
        seed: Of simulations, training and draws.
        folder: Where results go.
    """

    task: Task
    wheel: Wheel
    method: str
    numbers: list[int]
    compared: int
    seed: int
    folder: Path

    def measured(self, simulations: int) -> dict[str, Any]:
        """What is in the file of so many simulations, which goes on where it stopped."""
        name = f"{self.task.name}-{simulations}-{self.method}-seed{self.seed}"
        path, place = self.folder / f"{name}.json", self.folder / name
        posteriors = self.folder / f"{name}-posteriors.npz"
        if not path.exists():
            save_json(path, self._estimated(simulations, place, posteriors))
        found = load_json(path)
        draws = load_arrays(posteriors, ["draws"])["draws"]
        if np.isnan(draws[[number - 1 for number in self.numbers]]).any():
            scores = found["observations"]
            found = {**self._estimated(simulations, place, posteriors), "observations": scores}
            save_json(path, found)
            draws = load_arrays(posteriors, ["draws"])["draws"]
        scores = found["observations"]
        missing = [
            number
            for number in self.numbers
            if scores.get(str(number), {}).get("c2st_draws") != self.compared
        ]
        if missing:
            for start in range(0, len(missing), AT_ONCE):
                these = missing[start : start + AT_ONCE]
                for number, score in zip(these, self._scores(draws, these), strict=True):
                    scores[str(number)] = {"c2st": score, "c2st_draws": self.compared}
                    logger.info(f"{name}, observation {number}: C2ST {score:.3f}")
                save_json(path, found)
        return found

    def checked(self, simulations: int, runs: int, deblur: bool) -> dict[str, Any]:
        """What ``posterior.py check`` says of posteriors by so many simulations."""
        self.measured(simulations)
        place = self.folder / f"{self.task.name}-{simulations}-{self.method}-seed{self.seed}"
        return checked(
            self._simulated(simulations, place),
            runs,
            place.with_name(f"{place.name}-check"),
            deblur,
            self.method == "trials",
        )

    def _simulated(self, simulations: int, folder: Path) -> Simulations:
        """Simulations and observations, the same for all methods."""
        place = [list(TASKS).index(self.task.name), simulations]
        draw = np.random.default_rng([self.seed, *place])
        theta = self.task.prior.sample(simulations, draw)
        data = self.task.simulate(theta, draw)
        numbers = range(1, OBSERVATIONS + 1)
        observed = np.stack([self.wheel.observation(self.task, number) for number in numbers])
        return Simulations(
            self.task, theta, data, observed, DRAWS, self.seed, folder, self.numbers or None
        )

    def _estimated(self, simulations: int, folder: Path, posteriors: Path) -> dict[str, Any]:
        """Trains on simulations, and keeps draws of the posteriors."""
        estimate = METHODS[self.method](self._simulated(simulations, folder))
        save_arrays(posteriors, {"draws": estimate.draws.astype(np.float32)})
        return {
            "task": self.task.name,
            "simulations": simulations,
            "method": self.method,
            "seed": self.seed,
            "train_seconds": estimate.train_seconds,
            "draw_seconds": estimate.draw_seconds,
            **estimate.about,
            "observations": {},
            **provenance(),
        }

    def _scores(self, draws: np.ndarray, numbers: list[int]) -> list[float]:
        """C2ST of observations, by draws of all posteriors ``[10, DRAWS, D]``."""
        rows, references = [], []
        for number in numbers:
            order = np.random.default_rng([self.seed, number]).permutation(DRAWS)[: self.compared]
            rows.append(draws[number - 1, : self.compared].astype(np.float64))
            references.append(self.wheel.reference(self.task, number)[order])
        return c2st(np.stack(references), np.stack(rows))


def numbers_of(text: str) -> list[int]:
    """Observations as they are typed: ``1-3,7``.

    Raises:
        UsageError: They are not from 1 to 10.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise UsageError(f"--observations is '{text}': give numbers such as 1-3,7")
        found |= set(range(int(first), int(last or first) + 1))
    if not found or min(found) < 1 or max(found) > OBSERVATIONS:
        raise UsageError(f"--observations is '{text}': there are 1 to {OBSERVATIONS}")
    return sorted(found)


def tasks_of(text: str, wheel: Wheel) -> list[Task]:
    """Tasks by names with commas, or all. Raises UsageError if there is no such task."""
    names = list(TASKS) if text == "all" else text.split(",")
    for name in names:
        if name not in TASKS:
            raise UsageError(f"there is no task '{name}', only {', '.join(TASKS)}")
    return [TASKS[name](wheel) for name in names]


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--tasks", default="all")
@click.option("--observations", default="1-10")
@click.option("--simulations", default=10_000, help="At the true parameters of each observation.")
@click.option("--draws", default=DRAWS, help="Of each reference posterior.")
@click.option("--seed", default=0)
@click.option("--folder", type=Path, default=Path("out/sbibm"))
def validate(
    tasks: str, observations: str, simulations: int, draws: int, seed: int, folder: Path
) -> None:
    """Compare the simulators with the observations and reference posteriors of the package."""
    wheel = Wheel.downloaded(folder / "wheel")
    print("| task | posterior: largest | rms | of | simulator: largest | rms | of | ranks: p | s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for task in tasks_of(tasks, wheel):
        began = time.process_time()
        found = agreement(task, wheel, numbers_of(observations), simulations, draws, seed)
        cells = [task.name]
        for values in (found.reference, found.simulator):
            rms = float(np.sqrt((values**2).mean()))
            cells += [f"{np.abs(values).max():.2f}", f"{rms:.2f}", str(values.size)]
        cells += [f"{found.rank_p:.2f}", f"{time.process_time() - began:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


@main.command()
@click.option("--task", "tasks", default="all", help="One, or more with commas.")
@click.option("--simulations", default="1000,10000", help="How many, with commas.")
@click.option("--method", "methods", default="flow", help=f"{', '.join(METHODS)}, with commas.")
@click.option("--observations", default="1-10", help="Which, such as 1-3,7.")
@click.option("--c2st-draws", default=DRAWS, help="That C2ST compares with as many references.")
@click.option("--seed", default=0)
@click.option("--folder", type=Path, default=Path("out/sbibm"))
def run(
    tasks: str,
    simulations: str,
    methods: str,
    observations: str,
    c2st_draws: int,
    seed: int,
    folder: Path,
) -> None:
    """Train on simulations, and compare posteriors with the references."""
    if not 100 <= c2st_draws <= DRAWS or c2st_draws % FOLDS:
        right = f"a multiple of {FOLDS} from 100 to {DRAWS}"
        raise UsageError(f"--c2st-draws is {c2st_draws}: give {right}")
    for method in methods.split(","):
        if method not in METHODS:
            raise UsageError(f"there is no method '{method}', only {', '.join(METHODS)}")
    wheel, numbers = Wheel.downloaded(folder / "wheel"), numbers_of(observations)
    torch.set_num_threads(1)
    print(f"Observations {observations}, {c2st_draws} draws compared, seed {seed}\n")
    print("| task | simulations | method | train, s | draw, s | C2ST | from | to | published |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for task in tasks_of(tasks, wheel):
        for count in map(int, simulations.split(",")):
            for method in methods.split(","):
                plan = Plan(task, wheel, method, numbers, c2st_draws, seed, folder.resolve())
                print(row_of(plan.measured(count), numbers), flush=True)


@main.command()
@click.option("--task", "tasks", default="all", help="One, or more with commas.")
@click.option("--simulations", default="1000,10000", help="How many, with commas.")
@click.option("--method", type=click.Choice(["flow", "trials"]), default="flow")
@click.option("--runs", default=1000, help="New simulations.")
@click.option("--deblur", is_flag=True, help="Of draws without the noise of the first time.")
@click.option("--seed", default=0)
@click.option("--folder", type=Path, default=Path("out/sbibm"))
def check(
    tasks: str, simulations: str, method: str, runs: int, deblur: bool, seed: int, folder: Path
) -> None:
    """Ask whether posteriors are calibrated on new simulations."""
    wheel = Wheel.downloaded(folder / "wheel")
    print("| task | simulations | highest density | largest | TARP | central | smallest p | s |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for task in tasks_of(tasks, wheel):
        for count in map(int, simulations.split(",")):
            began = children_seconds()
            plan = Plan(task, wheel, method, [], DRAWS, seed, folder.resolve())
            found = plan.checked(count, runs, deblur)
            seconds = children_seconds() - began
            print(f"| {task.name} | {count:,} | {coverage_of(found)} | {seconds:.0f} |", flush=True)


def coverage_of(found: dict[str, Any]) -> str:
    """What intervals and regions of a check hold, as cells."""
    regions = found["regions"]
    parts = {**regions, "central": found["central_intervals"]}
    off = {name: largest_deviation(part) for name, part in parts.items()}
    [density] = [name for name in regions if name != "TARP"]
    held = dict(zip(regions[density]["levels"], regions[density]["found"], strict=True))
    told = " ".join(f"{100 * held[level][0]:.1f}" for level in TOLD)
    cells = [told, *(f"{100 * off[name]:.1f}" for name in (density, "TARP", "central"))]
    return " | ".join([*cells, f"{min(found['adjusted_p_values'].values()):.2g}"])


def largest_deviation(part: dict[str, Any]) -> float:
    """Of what is held from the level, over levels and coordinates, with its sign."""
    off = np.array(part["found"]) - np.array(part["levels"])[:, None]
    return float(off.flat[np.abs(off).argmax()])


def row_of(found: dict[str, Any], numbers: list[int]) -> str:
    """A line of the table."""
    task, count = found["task"], found["simulations"]
    each = [found["observations"][str(number)]["c2st"] for number in numbers]
    published = NPE.get(task, {}).get(count)
    cells = [
        task,
        f"{count:,}",
        found["method"],
        f"{found['train_seconds']:.0f}",
        f"{found['draw_seconds']:.0f}",
        f"{mean(each):.3f}",
        f"{min(each):.3f}",
        f"{max(each):.3f}",
        "not known" if published is None else f"{published:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    run_script(main)
