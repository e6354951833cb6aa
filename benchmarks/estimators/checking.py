"""Whether posteriors are calibrated on new simulations: ``posterior.py check``, by defaults."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.estimators.estimate import Simulations
from benchmarks.estimators.flow import ROOT, newest_network, save_simulations
from benchmarks.estimators.trials import prior_of, save_trials
from dnnlib.errors import DataError
from torch_utils.results import load_json


def checked(
    trained: Simulations, runs: int, folder: Path, deblur: bool, by_trials: bool
) -> dict[str, Any]:
    """What the check says of so many new simulations.

    Args:
        trained: What the flow was trained on; its folder has the network.
        runs: New simulations.
        folder: Where the results go.
        deblur: Whether draws are of clean points.
        by_trials: Whether the network is a likelihood of trials.
    """
    draw = np.random.default_rng([trained.seed, 1])
    theta = trained.task.prior.sample(runs, draw)
    fresh = replace(trained, theta=theta, data=trained.task.simulate(theta, draw))
    data, prior = folder / "fresh.npz", None
    if by_trials:
        save_trials(data, fresh, held_out=0)
        prior = prior_of(trained)
    else:
        save_simulations(data, fresh, held_out=0)
    network = newest_network(trained.folder)
    command = ["posterior.py", "check", "--truth=data", f"--runs={runs}", f"--network={network}"]
    command += [f"--data_root={data}", f"--save_dir={folder}", "--overwrite", "--device_name=cpu"]
    command += ["--deblur"] * deblur + [f"--prior={prior}"] * bool(prior)
    code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr).returncode
    if code:
        raise DataError(f"posterior.py check ended with code {code}: see its log in {folder}")
    [path] = folder.glob("*_posterior_check.json")
    return load_json(path)
