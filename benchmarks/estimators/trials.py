"""Learned likelihoods of one trial: ``train.py --likelihood``, and ``posterior.py sample --prior``,
by defaults. The program is given the data, and which columns are trials."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import ROOT, children_seconds, newest_network
from dnnlib.errors import DataError, UsageError
from torch_utils.results import load_json
from training.data.tables.foreign import ForeignTable
from training.data.tables.making import TableChoices, make_table
from training.data.tables.trials import unrolled
from training.files.netcdf import open_netcdf
from training.files.rows import save_csv
from training.files.table import save_table

CHAINS = 4


def of_trials(given: Simulations) -> Estimate:
    """Posteriors by the likelihood of one trial, of tasks with uniform priors.

    Raises:
        UsageError: The prior of the task is another.
        DataError: A command failed.
    """
    low, high = given.task.prior.low, given.task.prior.high
    if not np.isfinite([low, high]).all():
        raise UsageError(f"--method=trials takes uniform priors, which {given.task.name} has not")
    table = given.folder.with_suffix(".npz")
    save_trials(table, given)
    before = children_seconds()
    command = ["train.py", "--likelihood", f"--data={table}", f"--outdir={given.folder}"]
    run([*command, f"--seed={given.seed}", "--device_name=cpu"])
    trained = children_seconds()
    seen, count = given.folder / "observations.csv", len(given.observed)
    rows = given.observed.reshape(count * given.task.trials, -1)
    numbers = np.repeat(np.arange(count), given.task.trials)
    save_csv(
        seen, ["dataset", *data_names(given)], torch.from_numpy(np.column_stack([numbers, rows]))
    )
    place = given.folder / "posterior"
    network = newest_network(given.folder)
    sample = ["posterior.py", "sample", f"--network={network}", "--prior=uniform", "--overwrite"]
    sample += [f"--observation={seen}", f"--draws={given.draws // CHAINS}", f"--save_dir={place}"]
    run([*sample, f"--seed={given.seed}", "--device_name=cpu"])
    [path] = place.glob("*_posterior.nc")
    with open_netcdf(path) as saved:
        points = saved.numbers("posterior/x")
    summary = load_json(path.with_suffix(".json"))
    draws = np.moveaxis(points, 2, 0).reshape(count, -1, points.shape[3])
    return Estimate(
        draws,
        trained - before,
        children_seconds() - trained,
        {
            "train_command": command,
            "network": network.relative_to(given.folder).as_posix(),
            "converged": summary["converged"],
            "samplers": summary["samplers"],
        },
    )


def data_names(given: Simulations) -> list[str]:
    """Of the numbers of one trial."""
    return [f"y{index + 1}" for index in range(given.data.shape[1] // given.task.trials)]


def save_trials(path: Path, given: Simulations, held_out: float = 0.1) -> None:
    """The data set that dataset_tool.py --repeats makes of parameters and data."""
    names = [f"theta{index + 1}" for index in range(given.theta.shape[1])]
    columns = [f"z{index + 1}" for index in range(given.data.shape[1])]
    rows, one = np.hstack([given.theta, given.data]), data_names(given)
    groups = [columns[at : at + len(one)] for at in range(0, len(columns), len(one))]
    source = ForeignTable(given.task.name, [*names, *columns], lambda: iter([rows]))
    bounds = dict.fromkeys(names, (given.task.prior.low, given.task.prior.high))
    choices = TableChoices(
        one, dataset="(dataset)", bounds=bounds, held_out=held_out, seed=given.seed
    )
    table, _ = make_table(unrolled(source, groups, one, "(dataset)"), choices)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_table(path, table)


def run(command: list[str]) -> None:
    """Runs a script of ours, whose log goes where logs go. Raises DataError if it fails."""
    code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr).returncode
    if code:
        raise DataError(f"{command[0]} ended with code {code}")
