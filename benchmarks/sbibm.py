"""The benchmark of simulation-based inference (sbibm): its tasks, and conditional flows on them.

    python benchmarks/sbibm.py validate [--tasks=two_moons,sir]
    python benchmarks/sbibm.py run --task=two_moons --simulations=1000,10000 [--observations=1-10]

Tasks are written anew (``simulators``); pip downloads the wheel of the package, for its
observations and reference posteriors, into a folder of its own and does not install it.

``validate`` shows, over the observations, numbers that are standard normal if a task is the one
that the package's files come from (``simulators/validation.py`` says which):

posterior     largest of those of the reference posteriors, their root mean square, and how many
simulator     the same of simulations at true parameters
ranks         p-value of the ranks of the observations' log likelihoods among those of simulations

``run`` draws simulations, makes a table of them, trains ``train.py --cond`` with its defaults,
draws from the posteriors as ``posterior.py sample --condition`` does, and compares with the
reference. Results go to one file for each task and number of simulations, and what is there already
is not made again.

C2ST          cross-validated accuracy of a classifier that tells draws from the reference; 0.5 is
              perfect. Mean over observations
NPE           the same of neural posterior estimation, as published, mean over 10 observations
train, draw   seconds of the CPU: train.py with its start-up; 10,000 draws for one observation
"""

import os
import subprocess
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

from benchmarks.simulators import TASKS, Task, Wheel
from benchmarks.simulators.c2st import c2st
from benchmarks.simulators.published import NPE
from benchmarks.simulators.validation import agreement
from benchmarks.simulators.wheel import OBSERVATIONS
from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils.results import load_json, provenance, save_json
from training.data.tables.foreign import BLOCK_ROWS, ForeignTable
from training.data.tables.making import Choices, make_table
from training.files.table import save_table
from training.flow.solvers import get_solver
from training.inference.amortized import Amortized
from training.inference.draws import Draws
from training.settings.inference import AMORTIZED_ROWS, SOLVER
from training.settings.script import run_script
from training.simulation.networks import NetworkChoice, NetworkFile
from training.simulation.posterior_subjects import PosteriorSubject

ROOT = Path(__file__).parent.parent
DRAWS = 10_000
STEPS = 24
"""Of the solver, as posterior.py takes by default."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured of one task.

    Attributes:
        task: The task.
        wheel: Its observations and references.
        numbers: Of the observations.
        compared: Draws, and as many of the reference, that C2ST compares.
        seed: Of simulations, training and draws.
        folder: Where results go.
    """

    task: Task
    wheel: Wheel
    numbers: list[int]
    compared: int
    seed: int
    folder: Path

    def measured(self, simulations: int) -> dict[str, Any]:
        """What is in the file of so many simulations, which goes on where it stopped."""
        name = f"{self.task.name}-{simulations}-seed{self.seed}"
        path = self.folder / f"{name}.json"
        found = load_json(path) if path.exists() else self._trained(self.folder / name, simulations)
        save_json(path, found)
        of_observations = found["observations"]
        missing = [
            number
            for number in self.numbers
            if of_observations.get(str(number), {}).get("c2st_draws") != self.compared
        ]
        if not missing:
            return found
        began = time.process_time()
        drawn = self._posteriors(self.folder / found["network"], missing)
        seconds = time.process_time() - began
        leaked = drawn.stats.get("leaked", torch.zeros(len(missing))).tolist()
        for place, number in enumerate(missing):
            rows = drawn.points[place, 0].double().numpy()
            order = np.random.default_rng([self.seed, number]).permutation(DRAWS)[: self.compared]
            reference = self.wheel.reference(self.task, number)[order]
            began = time.process_time()
            accuracy = c2st(reference, rows[: self.compared])
            of_observations[str(number)] = {
                "c2st": accuracy,
                "c2st_draws": self.compared,
                "c2st_seconds": time.process_time() - began,
                "draws": DRAWS,
                "leaked": leaked[place],
                "sample_seconds": seconds / len(missing),
            }
            save_json(path, found)
            logger.info(f"{name}, observation {number}: C2ST {accuracy:.3f}")
        return found

    def _trained(self, folder: Path, simulations: int) -> dict[str, Any]:
        """Draws simulations, and trains on them."""
        place = [list(TASKS).index(self.task.name), simulations]
        draw = np.random.default_rng([self.seed, *place])
        theta = self.task.prior.sample(simulations, draw)
        rows = np.hstack([theta, self.task.simulate(theta, draw)])
        table = folder.with_suffix(".npz")
        self._save(table, rows)
        command = ["train.py", "--cond", f"--data={table}", f"--outdir={folder}"]
        command += [f"--seed={self.seed}", "--device_name=cpu"]
        began, before = time.perf_counter(), children_seconds()
        # Its log, so that the table stands alone.
        code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr).returncode
        if code:
            raise DataError(f"train.py ended with code {code}: see its log in {folder}")
        networks = folder.glob("*/network-snapshot-*.pkl")
        network = max(networks, key=lambda path: (path.parent, path.name))
        return {
            "task": self.task.name,
            "simulations": simulations,
            "seed": self.seed,
            "train_seconds": children_seconds() - before,
            "train_wall_seconds": time.perf_counter() - began,
            "train_command": command,
            "network": network.relative_to(self.folder).as_posix(),
            "observations": {},
            **provenance(),
        }

    def _save(self, path: Path, rows: np.ndarray) -> None:
        """The data set that dataset_tool.py makes of parameters and data ``[N, D + C]``."""
        names = [f"theta{index + 1}" for index in range(self.task.dim)]
        data_names = [f"y{index + 1}" for index in range(self.task.data_dim)]
        low, high = self.task.prior.low, self.task.prior.high
        bounded = np.isfinite([low, high]).any()
        source = ForeignTable(
            self.task.name,
            [*names, *data_names],
            lambda: (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)),
        )
        bounds = dict.fromkeys(names, (low, high)) if bounded else {}
        table, _ = make_table(source, Choices(data_names, bounds=bounds, seed=self.seed))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_table(path, table)

    def _posteriors(self, network: Path, numbers: list[int]) -> Draws:
        """Draws ``[M, 1, DRAWS, D]`` for observations."""
        subject = PosteriorSubject.of_network(NetworkFile.open(NetworkChoice(str(network))))
        seen = [self.wheel.observation(self.task, number) for number in numbers]
        solver = get_solver(SOLVER, 1e-6, 1e-6)
        amortized = Amortized(
            subject.prior(subject.flow.times(STEPS), solver),
            torch.from_numpy(np.array(seen)).float(),
            AMORTIZED_ROWS,
            chains=1,
            draws=DRAWS,
            seed=self.seed,
        )
        with torch.no_grad():
            return amortized.sample(torch.arange(len(numbers)))


def children_seconds() -> float:
    """CPU seconds of processes that were started from here and have ended."""
    times = os.times()
    return times.children_user + times.children_system


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
@click.option("--observations", default="1-10", help="Which, such as 1-3,7.")
@click.option("--c2st-draws", default=DRAWS, help="That C2ST compares with as many references.")
@click.option("--seed", default=0)
@click.option("--folder", type=Path, default=Path("out/sbibm"))
def run(
    tasks: str, simulations: str, observations: str, c2st_draws: int, seed: int, folder: Path
) -> None:
    """Train conditional flows, and compare their posteriors with the references."""
    if not 100 <= c2st_draws <= DRAWS:
        raise UsageError(f"--c2st-draws is {c2st_draws}: give 100 to {DRAWS}")
    wheel, numbers = Wheel.downloaded(folder / "wheel"), numbers_of(observations)
    lines = [
        f"Observations {observations}, {c2st_draws} draws compared, seed {seed}",
        "",
        "| task | simulations | train, s | draw, s | C2ST | NPE |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task in tasks_of(tasks, wheel):
        plan = Plan(task, wheel, numbers, c2st_draws, seed, folder.resolve())
        for count in map(int, simulations.split(",")):
            lines.append(row_of(plan.measured(count), numbers))
    print("\n".join(lines))


def row_of(found: dict[str, Any], numbers: list[int]) -> str:
    """A line of the table."""
    task, count = found["task"], found["simulations"]
    each = [found["observations"][str(number)] for number in numbers]
    published = NPE.get(task, {}).get(count)
    cells = [
        task,
        f"{count:,}",
        f"{found['train_seconds']:.0f}",
        f"{mean(part['sample_seconds'] for part in each):.1f}",
        f"{mean(part['c2st'] for part in each):.3f}",
        "not known" if published is None else f"{published:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    run_script(main)
