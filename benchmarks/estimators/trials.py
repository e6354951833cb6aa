"""Learned likelihoods of one trial: ``train.py --likelihood``, and ``posterior.py sample --prior``,
by defaults. The program is given the data, and which columns are trials."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import ROOT, children_seconds, newest_network
from dnnlib.errors import DataError
from torch_utils.results import load_json
from training.data.tables.foreign import ForeignTable
from training.data.tables.making import TableChoices, make_table
from training.data.tables.trials import unrolled
from training.files.netcdf import open_netcdf
from training.files.rows import save_csv
from training.files.table import save_table

CHAINS, OVER = 4, 4
"""Draws are taken by weight, and some of them more than once: of so many times as many as wanted
each OVER-th is kept, or a classifier knows some of them from training."""
PRIOR_DRAWS = 10_000
"""Of a prior that is not uniform: they take no simulations."""
SMALL = ("--width=32", "--depth=1")
"""Their network: samplers call it for each state, and the priors of these tasks are normal in the
coordinates that trials choose."""


def of_trials(given: Simulations) -> Estimate:
    """Posteriors by the likelihood of one trial.

    Raises:
        DataError: A command failed.
    """
    table = given.folder.with_suffix(".npz")
    save_trials(table, given)
    before = children_seconds()
    command = ["train.py", "--likelihood", f"--data={table}", f"--outdir={given.folder}"]
    run([*command, f"--seed={given.seed}", "--device_name=cpu"])
    prior = prior_of(given)
    trained = children_seconds()
    seen, count = given.folder / "observations.csv", len(given.observed)
    rows = given.observed.reshape(count * given.task.trials, -1)
    numbers = np.repeat(np.arange(count), given.task.trials)
    save_csv(
        seen, ["dataset", *data_names(given)], torch.from_numpy(np.column_stack([numbers, rows]))
    )
    place = given.folder / "posterior"
    network = newest_network(given.folder)
    sample = ["posterior.py", "sample", f"--network={network}", f"--prior={prior}", "--overwrite"]
    sample += [
        f"--observation={seen}",
        f"--draws={OVER * given.draws // CHAINS}",
        f"--save_dir={place}",
    ]
    run([*sample, f"--seed={given.seed}", "--device_name=cpu"])
    [path] = place.glob("*_posterior.nc")
    with open_netcdf(path) as saved:
        points = saved.numbers("posterior/x")
    summary = load_json(path.with_suffix(".json"))
    points = points[:, ::OVER]
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


def prior_of(given: Simulations) -> str:
    """The value of ``--prior``: uniform between bounds, or a flow of draws of the prior."""
    law = given.task.prior
    if np.isfinite([law.low, law.high]).all():
        return "uniform"
    folder = given.folder.with_name(f"{given.folder.name}-prior")
    names = parameter_names(given)
    rows = law.sample(PRIOR_DRAWS, np.random.default_rng([given.seed, 2]))
    bounds = dict.fromkeys(names, (law.low, law.high)) if np.isfinite(law.low) else {}
    source = ForeignTable("prior", names, lambda: iter([rows]))
    table, _ = make_table(source, TableChoices(bounds=bounds, seed=given.seed))
    folder.mkdir(parents=True, exist_ok=True)
    save_table(folder / "prior.npz", table)
    command = ["train.py", f"--data={folder / 'prior.npz'}", f"--outdir={folder}", *SMALL]
    run([*command, f"--seed={given.seed}", "--device_name=cpu"])
    return str(newest_network(folder))


def parameter_names(given: Simulations) -> list[str]:
    """Of the task."""
    return [f"theta{index + 1}" for index in range(given.theta.shape[1])]


def data_names(given: Simulations) -> list[str]:
    """Of the numbers of one trial."""
    return [f"y{index + 1}" for index in range(given.data.shape[1] // given.task.trials)]


def save_trials(path: Path, given: Simulations, held_out: float = 0.1) -> None:
    """The data set that dataset_tool.py --repeats makes of parameters and data."""
    names = parameter_names(given)
    columns = [f"z{index + 1}" for index in range(given.data.shape[1])]
    rows, one = np.hstack([given.theta, given.data]), data_names(given)
    groups = [columns[at : at + len(one)] for at in range(0, len(columns), len(one))]
    source = ForeignTable(given.task.name, [*names, *columns], lambda: iter([rows]))
    ends = given.task.prior.low, given.task.prior.high
    bounds = dict.fromkeys(names, ends) if np.isfinite(ends).any() else {}
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
