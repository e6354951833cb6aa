"""Conditional flows: ``train.py --cond``, and ``posterior.py sample --condition``, by defaults."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.estimators.estimate import Estimate, Simulations
from dnnlib.errors import DataError
from training.data.tables.formats import BLOCK_ROWS, ForeignTable, TableChoices
from training.data.tables.making import make_table
from training.files.table import save_table
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.amortized import Amortized
from training.names import AMORTIZED_ROWS, LEARNED_SOLVER, LEARNED_STEPS
from training.subjects import open_subject
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent.parent


def of_flow(given: Simulations) -> Estimate:
    """Posteriors by a conditional flow of the simulations."""
    network, command, train_seconds = trained(given)
    began = time.process_time()
    drawn = posteriors(network, given).sample(torch.arange(len(given.observed)))
    return Estimate(
        drawn.points[:, 0].double().numpy(),
        train_seconds,
        time.process_time() - began,
        {
            "train_command": command,
            "network": network.relative_to(given.folder).as_posix(),
            "leaked": drawn.stats.get("leaked", torch.zeros(len(given.observed))).tolist(),
        },
    )


def trained(given: Simulations) -> tuple[Path, list[str], float]:
    """A network of the simulations, the command that trained it, and its seconds of the CPU.

    Raises:
        DataError: The training failed.
    """
    table = given.folder.with_suffix(".npz")
    save_simulations(table, given)
    command = ["train.py", "--cond", f"--data={table}", f"--outdir={given.folder}"]
    command += [f"--seed={given.seed}", "--device_name=cpu"]
    before = children_seconds()
    # Its log goes where logs go, so that the table of results stands alone.
    code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr).returncode
    if code:
        raise DataError(f"train.py ended with code {code}: see its log in {given.folder}")
    return newest_network(given.folder), command, children_seconds() - before


def posteriors(network: Path, given: Simulations, trace: Trace | None = None) -> Amortized:
    """The posteriors of the observations by a network, with log densities if a trace is given."""
    prior = open_subject(TrainedNetwork.open(str(network)))
    blurred = prior.prior(prior.flow.times(LEARNED_STEPS), get_solver(LEARNED_SOLVER, 1e-6, 1e-6))
    return Amortized(
        replace(blurred, sharpened=True),
        torch.from_numpy(given.observed).float(),
        AMORTIZED_ROWS,
        chains=1,
        draws=given.draws,
        seed=given.seed,
        trace=trace,
    )


def newest_network(folder: Path) -> Path:
    """The last network file of the last run in a folder."""
    networks = folder.glob("*/network-snapshot-*.pkl")
    return max(networks, key=lambda path: (path.parent, path.name))


def save_simulations(
    path: Path, given: Simulations, held_out: float = 0.1, kept: float = 0.0
) -> None:
    """The data set that dataset_tool.py makes of parameters and data, some held out or kept."""
    rows = np.hstack([given.theta, given.data])
    names = [f"theta{index + 1}" for index in range(given.theta.shape[1])]
    data_names = [f"y{index + 1}" for index in range(given.data.shape[1])]
    low, high = given.task.prior.low, given.task.prior.high
    bounded = np.isfinite([low, high]).any()
    source = ForeignTable(
        given.task.name,
        [*names, *data_names],
        lambda: (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)),
    )
    bounds = dict.fromkeys(names, (low, high)) if bounded else {}
    table, _ = make_table(
        source,
        TableChoices(
            conditions=data_names, bounds=bounds, held_out=held_out, kept=kept, seed=given.seed
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_table(path, table)


def children_seconds() -> float:
    """CPU seconds of processes that were started from here and have ended."""
    times = os.times()
    return times.children_user + times.children_system
