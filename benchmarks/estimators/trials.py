"""Learned likelihoods of one trial: ``train.py --likelihood``, and ``posterior.py sample --prior``,
by defaults. The program is given the data, and which columns are trials."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import ROOT, children_seconds, newest_network
from benchmarks.simulators.priors import LogNormal, Normal
from dnnlib.errors import DataError
from torch_utils.results import load_json
from training.data.tables.formats import ForeignTable, TableChoices
from training.data.tables.making import make_table
from training.data.tables.repeated_trials import unrolled
from training.files.netcdf import open_netcdf
from training.files.rows import save_csv
from training.files.table import save_table

CHAINS, OVER = 4, 4
"""Draws are taken by weight, and some of them more than once: of so many times as many as wanted
each OVER-th is kept, or a classifier knows some of them from training."""


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
    rows = with_covariates(given, given.observed).reshape(count * given.task.trials, -1)
    numbers = np.repeat(np.arange(count), given.task.trials)
    save_csv(
        seen, ["dataset", *trial_names(given)], torch.from_numpy(np.column_stack([numbers, rows]))
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
        points = saved.read("posterior/x")
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
    """The value of ``--prior``: uniform between bounds, or a normal law in closed form, of
    parameters or of their logarithms."""
    distribution, names = given.task.prior, parameter_names(given)
    if np.isfinite([distribution.low, distribution.high]).all():
        return "uniform"
    if isinstance(distribution, Normal):
        covariance = np.linalg.inv(distribution.precision).tolist()
        prior = f"multivariate_normal({[0.0] * distribution.dim}, {covariance})"
    else:
        assert isinstance(distribution, LogNormal)
        pairs = zip(distribution.location.tolist(), distribution.scale.tolist(), strict=True)
        each = [f"lognorm({scale!r}, scale={float(np.exp(middle))!r})" for middle, scale in pairs]
        prior = (
            f"{{{', '.join(f'{name!r}: {one}' for name, one in zip(names, each, strict=True))}}}"
        )
    path = given.folder / "prior.py"
    path.write_text(
        f"from scipy.stats import lognorm, multivariate_normal\n\nprior = {prior}\n",
        encoding="utf-8",
    )
    return f"{path}:prior"


def parameter_names(given: Simulations) -> list[str]:
    """Of the task."""
    return [f"theta{index + 1}" for index in range(given.theta.shape[1])]


def data_names(given: Simulations) -> list[str]:
    """Of the numbers of one trial."""
    return [f"y{index + 1}" for index in range(given.data.shape[1] // given.task.trials)]


def trial_names(given: Simulations) -> list[str]:
    """Of the numbers of one trial, and of its covariates."""
    covariates = given.task.covariates
    known = 0 if covariates is None else covariates.shape[1]
    return [*data_names(given), *(f"v{index + 1}" for index in range(known))]


def with_covariates(given: Simulations, data: np.ndarray) -> np.ndarray:
    """Data ``[N, C]``, each trial followed by its covariates."""
    if given.task.covariates is None:
        return data
    each = data.reshape(len(data), given.task.trials, -1)
    covariates = np.broadcast_to(
        given.task.covariates, (*each.shape[:2], given.task.covariates.shape[1])
    )
    return np.concatenate([each, covariates], axis=2).reshape(len(data), -1)


def save_trials(path: Path, given: Simulations, held_out: float = 0.1) -> None:
    """The data set that dataset_tool.py --repeats makes of parameters and data."""
    names = parameter_names(given)
    rows, one = np.hstack([given.theta, with_covariates(given, given.data)]), trial_names(given)
    columns = [f"z{index + 1}" for index in range(rows.shape[1] - len(names))]
    groups = [columns[at : at + len(one)] for at in range(0, len(columns), len(one))]
    source = ForeignTable(given.task.name, [*names, *columns], lambda: iter([rows]))
    ends = given.task.prior.low, given.task.prior.high
    bounds = dict.fromkeys(names, ends) if np.isfinite(ends).any() else {}
    choices = TableChoices(
        conditions=data_names(given),
        dataset="(dataset)",
        covariates=one[len(data_names(given)) :],
        bounds=bounds,
        held_out=held_out,
        seed=given.seed,
    )
    table, _ = make_table(unrolled(source, groups, one, "(dataset)"), choices)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_table(path, table)


def run(command: list[str]) -> None:
    """Runs a script of ours, whose log goes where logs go. Raises DataError if it fails."""
    code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr).returncode
    if code:
        raise DataError(f"{command[0]} ended with code {code}")
