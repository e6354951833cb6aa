"""The ten tasks of the benchmark of simulation-based inference, written from their definitions.

Lueckmann, Boelts, Greenberg, Gonçalves and Macke, "Benchmarking simulation-based inference",
AISTATS 2021, appendix T. Observations, reference posteriors and the constants of three tasks are
data of the package ``sbibm``. The package is not installed and none of its code is run: pip
downloads its wheel to ``out/sbibm``, and its files are read from there.
"""

import bz2
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from scipy.integrate import solve_ivp
from scipy.special import expit
from torch.distributions import Distribution, Independent, LogNormal, MultivariateNormal, Uniform

from dnnlib.errors import DataError

VERSION, FOLDER = "1.1.0", Path(__file__).parent.parent / "out" / "sbibm"
OBSERVATIONS = range(1, 11)
"""Numbers of the observations of each task."""
MIXTURE = (
    "pyro.distributions.torch.Categorical",
    "pyro.distributions.torch.Chi2",
    "pyro.distributions.torch.Independent",
    "pyro.distributions.torch.MixtureSameFamily",
    "pyro.distributions.multivariate_studentt.MultivariateStudentT",
)
"""Classes in the file of the distractors' distribution."""
Simulate = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Task:
    """A prior, a simulator, and the files of the package.

    Attributes:
        prior: Prior of the parameters, D of them.
        simulate: Function of parameters ``[N, D]`` and a generator to data ``[N, C]``.
        files: Folder of the observations and reference posteriors.
        observed: Name of the file of an observation.
        trials: Number of trials that data consist of, one after the other.
        covariates: Covariates of each trial ``[trials, V]``, the same in all simulations, or None.
    """

    prior: Distribution
    simulate: Simulate
    files: str
    observed: str = "observation"
    trials: int = 1
    covariates: np.ndarray | None = None

    def sample_prior(self, count: int, draw: np.random.Generator) -> np.ndarray:
        """Return parameters ``[count, D]``."""
        with torch.random.fork_rng():
            torch.manual_seed(int(draw.integers(2**31)))
            return np.asarray(self.prior.sample((count,)).double())

    def simulations(self, count: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return parameters ``[count, D]`` of the prior, and their data ``[count, C]``."""
        theta = self.sample_prior(count, draw)
        return theta, self.simulate(theta, draw)

    def as_trials(self, data: np.ndarray) -> tuple[pandas.DataFrame, list[str]]:
        """Return data ``[N, C]`` as one row per trial, and the names of covariates in the rows."""
        rows = pandas.DataFrame(data.reshape(len(data) * self.trials, -1))
        rows.columns = [f"y{place + 1}" for place in rows.columns]
        names = []
        if self.covariates is not None:
            names = [f"v{place + 1}" for place in range(self.covariates.shape[1])]
            rows[names] = np.tile(self.covariates, (len(data), 1))
        rows["dataset"] = np.repeat(np.arange(len(data)), self.trials)
        return rows, names

    def observations(self) -> np.ndarray:
        """Return the ten observations ``[10, C]``."""
        return np.concatenate([self._numbers(each, self.observed) for each in OBSERVATIONS])

    def reference(self, number: int) -> np.ndarray:
        """Return draws ``[10000, D]`` of the posterior of an observation, from 1 to 10."""
        return self._numbers(number, "reference_posterior_samples", ".bz2")

    def _numbers(self, number: int, name: str, end: str = "") -> np.ndarray:
        content = file_of(f"{self.files}/files/num_observation_{number}/{name}.csv{end}")
        text = bz2.decompress(content) if end else content
        return np.loadtxt(io.BytesIO(text), delimiter=",", skiprows=1, ndmin=2)


def file_of(name: str) -> bytes:
    """Return a file of the package, whose wheel is downloaded if it is not there.

    Raises:
        DataError: The wheel cannot be downloaded, or is broken.
    """
    path = next(iter(FOLDER.glob(f"sbibm-{VERSION}-*.whl")), None)
    if path is None:
        words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", f"--dest={FOLDER}"]
        if subprocess.run([sys.executable, "-m", "pip", *words, f"sbibm=={VERSION}"]).returncode:
            raise DataError(f"pip could not download sbibm {VERSION}: put its wheel into {FOLDER}")
        path = next(FOLDER.glob(f"sbibm-{VERSION}-*.whl"))
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"sbibm/tasks/{name}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path} has no readable {name}: remove it, and run again") from error


def tensors_of(name: str, *stored: str) -> Any:
    """Return what a file of tensors contains.

    Args:
        name: Name of the file.
        stored: Classes in the file, whose place is taken by a class that only holds tensors.
    """
    classes: list[Any] = [(type(each.rpartition(".")[2], (), {}), each) for each in stored]
    with torch.serialization.safe_globals(classes):
        return torch.load(io.BytesIO(file_of(name)), weights_only=True)


def box(low: float, high: float, dim: int) -> Distribution:
    """Return the uniform distribution between the same bounds in every dimension."""
    ones = torch.ones(dim)
    return Independent(Uniform(low * ones, high * ones), 1)


def two_moons() -> Task:
    """T.8: a crescent that two parameters move, from one of two sides."""

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        angle = draw.uniform(-np.pi / 2, np.pi / 2, len(theta))
        radius = draw.normal(0.1, 0.01, len(theta))
        crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
        first, second = theta.T
        return crescent + np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)

    return Task(box(-1, 1, 2), simulate, "two_moons")


def slcp() -> Task:
    """T.3: four points of a normal distribution with five parameters.

    The mean is (theta1, theta2), standard deviations are theta3² and theta4², and the correlation
    is tanh(theta5).
    """

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        std, correlation = theta[:, 2:4] ** 2, np.tanh(theta[:, 4:])
        one, other = draw.normal(size=(2, len(theta), 4))
        other = correlation * one + np.sqrt(1 - correlation**2) * other
        points = theta[:, None, :2] + std[:, None] * np.stack([one, other], axis=2)
        return points.reshape(len(theta), -1)

    return Task(box(-3, 3, 5), simulate, "slcp", trials=4)


@dataclass(frozen=True)
class Distractors:
    """92 numbers, independent of the parameters: a mixture of K multivariate t distributions.

    Attributes:
        weights: Weights ``[K]``.
        freedom: Degrees of freedom ``[K]``.
        centers: Centers ``[K, 92]``.
        scales: Lower triangular roots of the scales ``[K, 92, 92]``.
        order: Which of 100 numbers, those of slcp first, stands at each place ``[100]``.
    """

    weights: np.ndarray
    freedom: np.ndarray
    centers: np.ndarray
    scales: np.ndarray
    order: np.ndarray

    @classmethod
    def from_files(cls) -> "Distractors":
        mixture = vars(tensors_of("slcp/files/gmm.torch", *MIXTURE))
        parts = vars(vars(mixture["_component_distribution"])["base_dist"])
        weights = vars(mixture["_mixture_distribution"])["probs"]
        found = [weights, *(parts[name] for name in ("df", "loc", "_unbroadcasted_scale_tril"))]
        weights, freedom, centers, scales = (each.double().numpy() for each in found)
        order = tensors_of("slcp/files/permutation_idx.torch").numpy()
        return cls(weights, freedom, centers, scales, order)

    def sample(self, count: int, draw: np.random.Generator) -> np.ndarray:
        """Return numbers ``[count, 92]``."""
        which = draw.choice(len(self.weights), count, p=self.weights / self.weights.sum())
        noise = draw.normal(size=(count, self.centers.shape[1]))
        noise /= np.sqrt(draw.chisquare(self.freedom[which]) / self.freedom[which])[:, None]
        found = self.centers[which]
        for place, root in enumerate(self.scales):
            found[which == place] += noise[which == place] @ root.T
        return found


def slcp_distractors(distractors: Distractors | None = None) -> Task:
    """T.4: the eight numbers of slcp among 92 others."""
    plain, others = slcp(), distractors or Distractors.from_files()

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        own = plain.simulate(theta, draw)
        return np.concatenate([own, others.sample(len(theta), draw)], axis=1)[:, others.order]

    return Task(plain.prior, simulate, "slcp", "observation_distractors")


def gaussian_mixture() -> Task:
    """T.7: N(theta, I) or N(theta, 0.01 I), equally likely, in two dimensions."""

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        std = draw.choice((1.0, 0.1), (len(theta), 1))
        return np.asarray(theta + std * draw.normal(size=theta.shape))

    return Task(box(-10, 10, 2), simulate, "gaussian_mixture")


def gaussian_linear() -> Task:
    """T.1: N(theta, 0.1 I) in ten dimensions; parameters are N(0, 0.1 I)."""

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return np.asarray(theta + 0.1**0.5 * draw.normal(size=theta.shape))

    prior = MultivariateNormal(torch.zeros(10), 0.1 * torch.eye(10))
    return Task(prior, simulate, "gaussian_linear")


def gaussian_linear_uniform() -> Task:
    """T.2: the same data, of uniform parameters."""
    return Task(box(-1, 1, 10), gaussian_linear().simulate, "gaussian_linear_uniform")


def bernoulli_glm(raw: bool = False, design: np.ndarray | None = None) -> Task:
    """T.5 and T.6: a linear model of spikes in 100 bins.

    ``z_i ~ Bernoulli(sigmoid(v_i' f + b))``, with ``v_i`` the last nine values of a white stimulus,
    ``b ~ N(0, 2)`` and a smooth filter ``f ~ N(0, (F'F)^-1)``, where ``F[i, i-2] = 1``,
    ``F[i, i-1] = -2`` and ``F[i, i] = 1 + sqrt((i - 1) / 9)``.

    Args:
        raw: Whether data are the spikes z, or else the sufficient statistics V'z.
        design: V ``[100, 10]``, whose first column is ones; None for that of the package.
    """
    if design is None:
        stored = tensors_of("bernoulli_glm/files/design_matrix.pt")
        design = np.asarray(stored, dtype=np.float64)
    root = np.diag(1 + np.sqrt(np.arange(9) / 9)) - 2 * np.eye(9, k=-1) + np.eye(9, k=-2)
    precision = np.zeros((10, 10))
    precision[0, 0], precision[1:, 1:] = 1 / 2, root.T @ root

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        chance = expit(theta @ design.T)
        spikes = (draw.uniform(size=chance.shape) < chance).astype(np.float64)
        return spikes if raw else spikes @ design

    covariance = torch.from_numpy(np.linalg.inv(precision)).float()
    prior = MultivariateNormal(torch.zeros(10), covariance)
    if raw:
        known = (100, design[:, 1:])
        return Task(prior, simulate, "bernoulli_glm", "observation_raw", *known)
    return Task(prior, simulate, "bernoulli_glm")


def integrated(
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray],
    start: np.ndarray,
    theta: np.ndarray,
    times: np.ndarray,
) -> np.ndarray:
    """Return the states ``[N, K, T]`` of differential equations at times ``[T]``, the first of 0.

    Args:
        slope: Derivatives ``[K, n]`` of states ``[K, n]`` with parameters ``[D, n]``.
        start: State at time 0 ``[K]``.
        theta: Parameters ``[N, D]``.
        times: Times.
    """
    parts = []
    for some in np.array_split(theta, -(-len(theta) // 1000)):  # systems that share their steps
        shape = (len(start), len(some))

        def flat(t: float, state: np.ndarray, some: np.ndarray = some) -> np.ndarray:
            return slope(state.reshape(len(start), -1), some.T).ravel()

        first, ends = np.repeat(start, len(some)), (0, times[-1])
        found = solve_ivp(flat, ends, first, "DOP853", times, rtol=1e-9, atol=1e-9)
        parts.append(np.moveaxis(found.y.reshape(*shape, len(times)), 1, 0))
    return np.concatenate(parts)


def log_infected(theta: np.ndarray) -> np.ndarray:
    """Return the log share ``[N, 10]`` of infected people, from one in a million.

    ``S' = -b S I / N``, ``I' = b S I / N - g I``, at days 0, 17, ..., 153.
    """

    def slope(state: np.ndarray, rates: np.ndarray) -> np.ndarray:
        susceptible, log_share = state
        contact = rates[0] * susceptible
        return np.stack([-contact * np.exp(log_share), contact - rates[1]])

    start = np.array([1 - 1e-6, np.log(1e-6)])
    return integrated(slope, start, theta, 17.0 * np.arange(10))[:, 1]


def sir() -> Task:
    """T.9: infected people among 1,000, in an epidemic with a rate of contact and of recovery."""

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        share = np.minimum(np.exp(log_infected(theta)), 1)
        return draw.binomial(1000, share).astype(np.float64)

    prior = LogNormal(torch.tensor([0.4, 1 / 8]).log(), torch.tensor([0.5, 0.2]))
    return Task(Independent(prior, 1), simulate, "sir")


def log_populations(theta: np.ndarray) -> np.ndarray:
    """Return log numbers of prey, then of predators ``[N, 20]``, from 30 and 1.

    ``X' = a X - b X Y``, ``Y' = -g Y + d X Y``, at times 0, 2.1, ..., 18.9.
    """

    def slope(logs: np.ndarray, rates: np.ndarray) -> np.ndarray:
        (prey, predators), (a, b, g, d) = np.exp(logs), rates
        return np.stack([a - b * predators, d * prey - g])

    found = integrated(slope, np.log([30.0, 1.0]), theta, 2.1 * np.arange(10))
    return found.reshape(len(theta), -1)


def lotka_volterra() -> Task:
    """T.10: numbers of prey and predators, with log-normal errors."""

    def simulate(theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        logs = log_populations(theta)
        return np.asarray(np.exp(logs + 0.1 * draw.normal(size=logs.shape)))

    prior = LogNormal(torch.tensor([-0.125, -3.0, -0.125, -3.0]), torch.full((4,), 0.5))
    return Task(Independent(prior, 1), simulate, "lotka_volterra")


TASKS: dict[str, Callable[[], Task]] = {
    "two_moons": two_moons,
    "slcp": slcp,
    "slcp_distractors": slcp_distractors,
    "gaussian_mixture": gaussian_mixture,
    "gaussian_linear": gaussian_linear,
    "gaussian_linear_uniform": gaussian_linear_uniform,
    "bernoulli_glm": bernoulli_glm,
    "bernoulli_glm_raw": lambda: bernoulli_glm(raw=True),
    "sir": sir,
    "lotka_volterra": lotka_volterra,
}
FEW, MANY = 1_000, 10_000
"""Numbers of simulations."""
RIVALS = ("NPE", "SNPE", "NLE", "SNLE")
PUBLISHED = {
    FEW: {
        "two_moons": (0.725, 0.643, 0.773, 0.657),
        "slcp": (0.975, 0.965, 0.946, 0.921),
        "slcp_distractors": (0.982, 0.978, 0.987, 0.992),
        "gaussian_mixture": (0.716, 0.669, 0.740, 0.706),
        "gaussian_linear": (0.694, 0.652, 0.650, 0.628),
        "gaussian_linear_uniform": (0.696, 0.631, 0.723, 0.657),
        "bernoulli_glm": (0.863, 0.855, 0.740, 0.634),
        "bernoulli_glm_raw": (0.900, 0.906, 0.870, 0.990),
        "sir": (0.815, 0.638, 0.761, 0.745),
        "lotka_volterra": (0.999, 0.990, 0.994, 0.909),
    },
    MANY: {
        "two_moons": (0.606, 0.554, 0.713, 0.571),
        "slcp": (0.901, 0.845, 0.771, 0.713),
        "gaussian_linear": (0.552, 0.544, 0.555, 0.548),
        "bernoulli_glm": (0.678, 0.614, 0.605, 0.553),
    },
}
"""Mean C2ST of ten observations by NPE, SNPE, NLE and SNLE, from github.com/sbi-benchmark/results,
commit 741183c: ``main_paper.csv``, and ``gaussian_mixture_rerun.csv`` of the task as corrected."""
