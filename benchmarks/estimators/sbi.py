"""Methods of the package ``sbi`` by their defaults, NPE with neural splines as in the benchmark.

The package is not one of ours: ``pip install sbi`` first.
"""

import subprocess
import sys
import time
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version

import numpy as np
import torch
from torch.distributions import Distribution, Independent, MultivariateNormal
from torch.distributions import LogNormal as TorchLogNormal

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import children_seconds
from benchmarks.simulators.priors import LogNormal, Normal, Prior
from dnnlib.errors import UsageError

CLASSES = {"npe": "NPE", "fmpe": "FMPE", "npse": "NPSE"}
OPTIONS = {"npe": {"density_estimator": "nsf"}}


def of_sbi(method: str, given: Simulations) -> Estimate:
    """Posteriors by neural posterior estimation, flow matching, or scores.

    Raises:
        UsageError: The package is not installed.
    """
    try:
        inference = import_module("sbi.inference")
    except ModuleNotFoundError:
        raise UsageError(f"--method={method} needs the package sbi: pip install sbi") from None
    start = start_seconds()
    torch.manual_seed(given.seed)
    began = time.process_time()
    prior = torch_prior(given.task.prior)
    theta, data = (torch.from_numpy(rows).float() for rows in (given.theta, given.data))
    estimator = getattr(inference, CLASSES[method])(prior, **OPTIONS.get(method, {}))
    # Its progress goes where logs go, so that the table of results stands alone.
    with redirect_stdout(sys.stderr):
        estimator.append_simulations(theta, data).train()
    posterior = estimator.build_posterior()
    trained = time.process_time()
    draws = [
        posterior.sample((given.draws,), x=torch.from_numpy(seen).float(), show_progress_bars=False)
        for seen in given.observed
    ]
    return Estimate(
        np.stack([rows.double().numpy() for rows in draws]),
        start + trained - began,
        time.process_time() - trained,
        {"sbi": version("sbi")},
    )


def start_seconds() -> float:
    """Seconds of the CPU until the package is ready in a new process, as a training of a flow has
    its start-up in its seconds."""
    before = children_seconds()
    subprocess.run([sys.executable, "-c", "import sbi.inference"], check=True)
    return children_seconds() - before


def torch_prior(prior: Prior) -> Distribution:
    """The same law as ``sbi`` takes it."""
    if isinstance(prior, Normal):
        precision = torch.from_numpy(prior.precision).float()
        return MultivariateNormal(torch.zeros(prior.dim), precision_matrix=precision)
    if isinstance(prior, LogNormal):
        location, scale = (torch.from_numpy(part).float() for part in (prior.location, prior.scale))
        return Independent(TorchLogNormal(location, scale), 1)
    box = import_module("sbi.utils").BoxUniform
    ones = torch.ones(prior.dim)
    found: Distribution = box(prior.low * ones, prior.high * ones)
    return found
