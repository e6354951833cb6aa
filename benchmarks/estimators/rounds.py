"""Rounds of simulations for one observation after the other: ``posterior.py rounds``, by defaults.

It gets the simulator and the prior; where parameters are independent and log-normal, as quantiles,
which are uniform. Each observation has simulations and trainings of its own, which are kept: what
is there already is not made again.
"""

import numpy as np
import torch

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import children_seconds
from benchmarks.estimators.trials import CHAINS, parameter_names, run
from benchmarks.simulators import Wheel
from benchmarks.simulators.priors import LogNormal
from torch_utils.results import load_json, save_json
from training.files.netcdf import open_netcdf
from training.files.rows import save_csv

PROGRAM = """
from pathlib import Path

from benchmarks.simulators import TASKS, Wheel

TASK = TASKS["{task}"](Wheel(Path({wheel!r})))


def simulate(theta, draw):
    return TASK.simulate({parameters}, draw)


def prior(count, draw):
    return TASK.prior.sample(count, draw)
"""


def of_rounds(given: Simulations) -> Estimate:
    """Posteriors of the observations that are wanted; draws of others are NaN.

    Raises:
        DataError: A command failed.
    """
    count, names = len(given.observed), parameter_names(given)
    draws = np.full((count, given.draws, len(names)), np.nan)
    distribution, folder = given.task.prior, given.folder
    program = folder / f"{given.task.name}.py"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = Wheel.downloaded(folder.parent / "wheel").path
    by_quantiles = distribution if isinstance(distribution, LogNormal) else None
    parameters = "TASK.prior.of_quantiles(theta.numpy())" if by_quantiles else "theta.numpy()"
    text = PROGRAM.format(task=given.task.name, wheel=str(wheel), parameters=parameters)
    program.write_text(text)
    command = ["posterior.py", "rounds", f"--simulator={program}:simulate", "--device_name=cpu"]
    command += [f"--simulations={len(given.theta)}", f"--draws={given.draws // CHAINS}"]
    command += [f"--seed={given.seed}"]
    low, high = (0, 1) if by_quantiles else (distribution.low, distribution.high)
    if np.isfinite([low, high]).all():
        command += ["--bounds=" + ",".join(f"{name}:{low}:{high}" for name in names)]
    else:
        command += [f"--prior={program}:prior"]
    about = {}
    for number in given.numbers or range(1, count + 1):
        place = folder / f"observation{number}"
        seconds, seen = place / "took.json", folder / f"observation{number}.csv"
        row = torch.from_numpy(given.observed[number - 1 : number])
        save_csv(seen, [f"y{index + 1}" for index in range(row.shape[1])], row)
        if not seconds.exists():
            before = children_seconds()
            run([*command, f"--observation={seen}", f"--save_dir={place}", "--overwrite"])
            save_json(seconds, {"seconds": children_seconds() - before})
        [path] = place.glob("*_posterior.nc")
        with open_netcdf(path) as saved:
            points = saved.read("posterior/x").reshape(-1, len(names))
        draws[number - 1] = by_quantiles.of_quantiles(points) if by_quantiles else points
        told = load_json(path.with_suffix(".json"))
        about[number] = {
            **load_json(seconds),
            "rounds": told["rounds"],
            "leaked": told["leaked"]["mean"],
        }
    took = sum(each["seconds"] for each in about.values())
    return Estimate(draws, took, 0.0, {"train_command": command, "each": about})
