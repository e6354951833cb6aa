"""Priors of named parameters: distributions of SciPy or PyTorch, products of them, or models.

A prior is a product of independent parts. A part with one parameter is a distribution of SciPy,
with distribution function F. Its draws between a and b are ``F^-1(u)`` with u uniform between F(a)
and F(b). Distributions of PyTorch that SciPy has too are converted. Any other distribution is a
part that draws and evaluates all of its parameters together.

Bounds of the parameters follow from the support of the distributions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.stats.distributions import rv_frozen
from torch import distributions

from dnnlib.errors import DataError, UsageError
from training.data.tables.formats import numbered
from training.inference.likelihoods import UserFunction, object_in_file

ACCEPTED = (
    "give a distribution of torch.distributions or scipy.stats, a dictionary of one distribution "
    "per parameter name, or an object with sample and log_prob such as a Model"
)
MULTIVARIATE_NORMAL = "multivariate_normal"
UNBOUNDED = np.array([[-inf, inf]])
IN_SCIPY: dict[type[distributions.Distribution], Callable[[Any], tuple[str, dict[str, Any]]]] = {
    distributions.Bernoulli: lambda d: ("bernoulli", {"p": d.probs}),
    distributions.Beta: lambda d: ("beta", {"a": d.concentration1, "b": d.concentration0}),
    distributions.Binomial: lambda d: ("binom", {"n": d.total_count, "p": d.probs}),
    distributions.Cauchy: lambda d: ("cauchy", {"loc": d.loc, "scale": d.scale}),
    distributions.Chi2: lambda d: ("chi2", {"df": d.df}),
    distributions.Exponential: lambda d: ("expon", {"scale": 1 / d.rate}),
    distributions.Gamma: lambda d: ("gamma", {"a": d.concentration, "scale": 1 / d.rate}),
    # PyTorch counts failures, SciPy trials.
    distributions.Geometric: lambda d: ("geom", {"p": d.probs, "loc": -torch.ones_like(d.probs)}),
    distributions.Gumbel: lambda d: ("gumbel_r", {"loc": d.loc, "scale": d.scale}),
    distributions.HalfCauchy: lambda d: ("halfcauchy", {"scale": d.scale}),
    distributions.HalfNormal: lambda d: ("halfnorm", {"scale": d.scale}),
    distributions.InverseGamma: lambda d: ("invgamma", {"a": d.concentration, "scale": d.rate}),
    distributions.Laplace: lambda d: ("laplace", {"loc": d.loc, "scale": d.scale}),
    distributions.LogNormal: lambda d: ("lognorm", {"s": d.scale, "scale": d.loc.exp()}),
    distributions.Normal: lambda d: ("norm", {"loc": d.loc, "scale": d.scale}),
    distributions.Pareto: lambda d: ("pareto", {"b": d.alpha, "scale": d.scale}),
    distributions.Poisson: lambda d: ("poisson", {"mu": d.rate}),
    distributions.StudentT: lambda d: ("t", {"df": d.df, "loc": d.loc, "scale": d.scale}),
    distributions.Uniform: lambda d: ("uniform", {"loc": d.low, "scale": d.high - d.low}),
    distributions.Weibull: lambda d: ("weibull_min", {"c": d.concentration, "scale": d.scale}),
}
"""Name and parameters in SciPy of a distribution of PyTorch, by its class."""


@dataclass(frozen=True, eq=False)
class Part:
    """Distribution of d parameters that are independent of all others.

    Attributes:
        name: Description for messages.
        dim: Number of parameters, d.
        draw: Function from a number and a generator to draws ``[count, d]``.
        density: Function from points ``[N, d]`` in the support to log densities ``[N]``, or to log
            probabilities of discrete parameters; None for a program that only draws.
        low: Lowest values of the parameters ``[d]``, or one for all of them.
        high: Highest values of the parameters ``[d]``, or one for all of them.
        discrete: Whether the parameters have whole numbers only.
        plain: Name of the family and its parameters as plain values; None if they do not suffice.
        marginal: Distribution of SciPy, for a single parameter; None for others.
    """

    name: str
    dim: int
    draw: Callable[[int, np.random.Generator], np.ndarray]
    density: Callable[[np.ndarray], np.ndarray] | None
    low: Any = -inf
    high: Any = inf
    discrete: bool = False
    plain: dict[str, Any] | None = None
    marginal: Any = None

    def between(
        self, low: float, high: float
    ) -> tuple[float, Callable[[int, np.random.Generator], np.ndarray]]:
        """Return the probability of an interval and a function that draws ``[count, 1]`` from it.

        Several parameters are drawn from their whole distribution, of probability 1.
        """
        own = self.marginal
        if own is None:
            return 1.0, self.draw
        before = np.ceil(low) - 1 if self.discrete else low
        upper = own.cdf(before) > 0.5  # where 1 - F has more digits than F
        level, value = (own.sf, own.isf) if upper else (own.cdf, own.ppf)
        first, last = level(before), level(high)

        def draw(count: int, rng: np.random.Generator) -> np.ndarray:
            levels = first + (last - first) * rng.random((count, 1))
            return np.asarray(value(levels), dtype=float)

        return float(abs(last - first)), draw


@dataclass(frozen=True, eq=False)
class ParameterPrior:
    """Prior of D named parameters: a product of independent parts.

    Attributes:
        names: Names of the parameters.
        parts: Parts in the order of the names.

    Example:
        >>> from scipy import stats
        >>> prior = ParameterPrior.of({"rate": stats.uniform(0, 2), "delay": stats.expon()})
        >>> print(prior)
        rate ~ uniform(loc=0, scale=2), delay ~ expon()
        >>> prior.ends.tolist()
        [[0.0, 2.0], [0.0, inf]]
    """

    names: Sequence[str]
    parts: Sequence[Part]

    @classmethod
    def of(cls, source: Any, names: Sequence[str] | None = None) -> "ParameterPrior":
        """Return the prior that a user gives.

        Args:
            source: A distribution of PyTorch or SciPy; a dictionary of one distribution per name;
                a ``Model``; any object with ``sample((count,))`` and ``log_prob(points)``, as in
                PyTorch; or a function from a number and a NumPy generator to draws ``[count, D]``.
            names: Names of the parameters of the result, in the order of a prior without names.
                None for the prior's own, or theta1, theta2, and so on.

        Raises:
            UsageError: The source is none of these, or has other parameters.
            DataError: A function raised an exception or returned another type or shape.
        """
        own, parts = None, list[Part]()
        if isinstance(source, ParameterPrior):
            own, parts = list(source.names), list(source.parts)
        elif isinstance(source, Mapping):
            own = [str(name) for name in source]
            for name, each in source.items():
                part = _parts_of(each)
                if [one.dim for one in part] != [1]:
                    raise UsageError(f"prior: '{name}' needs a distribution of one number")
                parts += part
        else:
            own, parts = getattr(source, "columns", None), _parts_of(source)
        count = sum(part.dim for part in parts)
        own = list(own or names or numbered(count, "theta"))
        if len(own) != count or (names is not None and sorted(own) != sorted(names)):
            raise UsageError(
                f"prior: it has {count} parameter(s) ({', '.join(own)}), but "
                f"{', '.join(names or own)} are expected: give the same parameters"
            )
        if names is None or own == list(names):
            return cls(own, parts)
        if len(parts) != count:
            raise UsageError(f"prior: give its parameters in the order {', '.join(names)}")
        return cls(list(names), [parts[own.index(name)] for name in names])

    @classmethod
    def uniform(cls, bounds: Mapping[str, tuple[float, float]]) -> "ParameterPrior":
        """Return independent parameters that are uniform between bounds."""
        ends = np.array(list(bounds.values()), dtype=float)
        numbers = {"loc": ends[:, 0], "scale": ends[:, 1] - ends[:, 0]}
        return cls(list(bounds), _marginals(stats.uniform, numbers))

    def within(self, bounds: Mapping[str, tuple[float, float]]) -> "ParameterPrior":
        """Return the prior with the bounds of a program's draws, whose support is unknown.

        Raises:
            UsageError: The prior is a distribution, which has its own bounds.
        """
        if not bounds:
            return self
        if any(part.density is not None for part in self.parts):
            raise UsageError("bounds follow from the support of the prior: leave bounds out")
        low, high = np.array([bounds[name] for name in self.names], dtype=float).T
        return replace(self, parts=[replace(self.parts[0], low=low, high=high)])

    def __str__(self) -> str:
        places = self._places
        named = zip(self.parts, places[:-1], places[1:], strict=True)
        return ", ".join(f"{', '.join(self.names[a:b])} ~ {part.name}" for part, a, b in named)

    @property
    def ends(self) -> np.ndarray:
        """Lowest and highest values of the parameters ``[D, 2]``, infinite without a bound."""
        each = [(part.low, part.high, part.dim) for part in self.parts]
        pairs = [np.broadcast_to(np.transpose([low, high]), (dim, 2)) for low, high, dim in each]
        return np.concatenate(pairs).astype(float)

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest values by name, of parameters that have a bound."""
        pairs = zip(self.names, self.ends.tolist(), strict=True)
        return {name: (low, high) for name, (low, high) in pairs if low > -inf or high < inf}

    @property
    def discrete(self) -> bool:
        """Whether a parameter has whole numbers only."""
        return any(part.discrete for part in self.parts)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return draws ``[count, D]``, float64."""
        return np.concatenate([part.draw(count, rng) for part in self.parts], axis=1)

    def log_prob(self, points: np.ndarray) -> np.ndarray:
        """Return log densities ``[N]`` of points ``[N, D]``; minus infinity beyond the support.

        Discrete parameters contribute log probabilities.

        Raises:
            UsageError: The prior is a program that only draws.
        """
        low, high = self.ends.T
        density = np.full(len(points), -inf)
        inside = ((points >= low) & (points <= high)).all(axis=1)
        rows, total = points[inside], np.zeros(int(inside.sum()))
        for part, first in zip(self.parts, self._places[:-1], strict=True):
            if part.density is None:
                raise UsageError(f"prior: {part.name} only draws and has no density: {ACCEPTED}")
            if len(rows):
                total += part.density(rows[:, first : first + part.dim])
        density[inside] = total
        return density

    def between(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[float, Callable[[int, np.random.Generator], np.ndarray]]:
        """Return the probability of a box and a function that draws ``[count, D]`` from the box.

        Parameters that are not independent are drawn from their whole distribution.

        Args:
            low: Lower bounds of the box ``[D]``.
            high: Upper bounds of the box ``[D]``.
        """
        places = zip(self.parts, self._places[:-1], strict=True)
        boxes = [part.between(low[at], high[at]) for part, at in places]

        def draw(count: int, rng: np.random.Generator) -> np.ndarray:
            return np.concatenate([own(count, rng) for _, own in boxes], axis=1)

        return float(np.prod([mass for mass, _ in boxes])), draw

    @property
    def text(self) -> str:
        """The prior as JSON: families and parameters, or a description if these do not suffice.

        ``from_text`` reads it.
        """
        if any(part.plain is None for part in self.parts):
            return json.dumps(str(self))
        places = zip(self.parts, self._places[:-1], strict=True)
        entries = [
            {"names": self.names[at : at + each.dim], **(each.plain or {})} for each, at in places
        ]
        return json.dumps(entries)

    @property
    def _places(self) -> list[int]:
        """Place of the first parameter of each part, followed by the number of parameters."""
        return [0, *np.cumsum([part.dim for part in self.parts]).tolist()]

    @classmethod
    def from_text(cls, text: object, where: str) -> "ParameterPrior":
        """Return the prior that ``text`` describes.

        Args:
            text: JSON.
            where: File that contains the text, for messages.

        Raises:
            UsageError: The text is only a description.
            DataError: The text is broken.
        """
        if text is None:
            raise UsageError(f"{where} does not state the prior of its simulations: pass prior=")
        broken = DataError(f"{where}: the description of its prior is broken: pass prior=")
        try:
            entries = json.loads(str(text))
        except (ValueError, RecursionError):
            raise broken from None
        if isinstance(entries, str):
            raise UsageError(
                f"{where}: its prior, {entries[:200]}, cannot be stored in a file: pass prior="
            )
        if not isinstance(entries, list) or not entries:
            raise broken
        names, parts = list[str](), list[Part]()
        for entry in entries:
            match entry:
                case {"names": list(own), "family": str(family), "parameters": dict(numbers)}:
                    part = _stored_part(family, numbers)
                case _:
                    raise broken
            if part is None or len(own) != part.dim or not all(type(name) is str for name in own):
                raise broken
            names, parts = [*names, *own], [*parts, part]
        return cls(names, parts)


def prior_in_file(prior: Any) -> Any:
    """Return the object that a text ``FILE.py:NAME`` names, or anything else unchanged.

    Raises:
        UsageError: The file does not exist, or has no object with that name.
        DataError: Running the file raised an exception.
    """
    if not (isinstance(prior, str) and prior.rpartition(":")[0].endswith(".py")):
        return prior
    path, name, found = object_in_file(prior, "prior")
    if found is None:
        raise UsageError(f"--prior: {path.name} has no object '{name}': give the name of one")
    draws = callable(found) and not hasattr(found, "sample")
    return UserFunction(path, name, found) if draws else found


def _arguments_of(family: Any) -> list[str]:
    """Return the names of the parameters of a family of SciPy, in the order of its arguments."""
    shapes = [] if family.shapes is None else family.shapes.replace(",", " ").split()
    return [*shapes, "loc", *([] if isinstance(family, stats.rv_discrete) else ["scale"])]


def _stored_part(name: str, numbers: Mapping[str, Any]) -> Part | None:
    """Return the distribution with a name and parameters from a file; None if there is none."""
    if name == MULTIVARIATE_NORMAL:
        try:
            return _normal(*(np.array(numbers[key], dtype=float) for key in ("mean", "cov")))
        except (KeyError, TypeError, ValueError):
            return None
    family = getattr(stats, name, None)
    if not isinstance(family, stats.rv_continuous | stats.rv_discrete):
        return None
    known = _arguments_of(family)
    needed, given = {*known[: known.index("loc")]}, numbers.keys()
    plain = all(type(number) in (int, float) for number in numbers.values())
    return _marginals(family, numbers)[0] if plain and needed <= given <= {*known} else None


def _parts_of(source: Any) -> list[Part]:
    """Return the independent parts of a distribution without names.

    Raises:
        UsageError: The object is no distribution of a row of numbers.
    """
    if isinstance(source, stats.rv_continuous | stats.rv_discrete):
        source = source()
    if isinstance(source, rv_frozen):
        given = dict(zip(_arguments_of(source.dist), source.args, strict=False)) | source.kwds
        return _marginals(source.dist, given)
    if isinstance(source, type(stats.multivariate_normal())):
        return [_normal(np.asarray(source.mean), np.asarray(source.cov))]
    if isinstance(source, distributions.Distribution):
        return _of_torch(source)
    if hasattr(source, "sample") and hasattr(source, "log_prob"):
        return [_of_model(source) if hasattr(source, "columns") else _of_object(source)]
    if callable(source):
        return [_of_program(source)]
    raise UsageError(f"prior: {type(source).__name__} is no distribution: {ACCEPTED}")


def _marginals(family: Any, parameters: Mapping[str, Any]) -> list[Part]:
    """Return the distributions of D parameters, from parameters ``[]`` or ``[D]`` of a family.

    Raises:
        UsageError: Parameters are not admitted, or have more axes.
    """
    arrays = np.broadcast_arrays(*map(np.atleast_1d, parameters.values())) or [np.zeros(1)]
    if arrays[0].ndim > 1:
        raise UsageError(
            f"prior: {family.name} has parameters of shape {list(arrays[0].shape)}: give one "
            "number per parameter"
        )
    rows = zip(*(array.tolist() for array in arrays), strict=True)
    return [_marginal(family, dict(zip(parameters, row, strict=False))) for row in rows]


def _marginal(family: Any, parameters: dict[str, float]) -> Part:
    """Return the distribution of one parameter from a family of SciPy."""
    discrete = isinstance(family, stats.rv_discrete)
    if discrete:  # NumPy draws from no fractional number of trials
        whole = {key: int(value) for key, value in parameters.items() if float(value).is_integer()}
        parameters = {**parameters, **whole}
    own = family(**parameters)
    name = f"{family.name}({', '.join(f'{key}={value:g}' for key, value in parameters.items())})"
    low, high = own.support()
    if not low <= high:
        raise UsageError(f"prior: {name} is no distribution: correct its parameters")
    log_prob = own.logpmf if discrete else own.logpdf
    known = type(getattr(stats, family.name, None)) is type(family)
    return Part(
        name,
        1,
        lambda count, rng: np.asarray(own.rvs(size=(count, 1), random_state=rng), dtype=float),
        lambda points: np.asarray(log_prob(points[:, 0])),
        float(low),
        float(high),
        discrete,
        {"family": family.name, "parameters": parameters} if known else None,
        own,
    )


def _normal(mean: np.ndarray, covariance: np.ndarray) -> Part:
    """Return a multivariate normal distribution with mean ``[d]`` and covariance ``[d, d]``.

    Raises:
        UsageError: The shapes differ, or the covariance is not positive definite.
    """
    usable = mean.ndim == 1 and covariance.shape == 2 * mean.shape
    usable = usable and bool(np.isfinite(covariance).all() and np.isfinite(mean).all())
    usable = usable and np.allclose(covariance, covariance.T)
    if not (usable and np.linalg.eigvalsh(covariance).min() > 0):
        raise UsageError("prior: the covariance of a normal distribution is not positive definite")
    own, dim = stats.multivariate_normal(mean, covariance), len(mean)
    numbers = {"mean": mean.tolist(), "cov": covariance.tolist()}
    return Part(
        MULTIVARIATE_NORMAL,
        dim,
        lambda count, rng: np.reshape(own.rvs(count, random_state=rng), (count, dim)),
        lambda points: np.reshape(own.logpdf(points), len(points)),
        plain={"family": MULTIVARIATE_NORMAL, "parameters": numbers},
    )


def _of_torch(source: distributions.Distribution) -> list[Part]:
    """Return the parts of a distribution of PyTorch; components of a batch are parameters."""
    base: Any = source
    while isinstance(base, distributions.Independent):
        base = base.base_dist
    shape = (*base.batch_shape, *base.event_shape)
    if len(shape) > 1:
        raise UsageError(
            f"prior: {type(base).__name__} draws arrays of shape {list(shape)}: give a "
            "distribution of D numbers"
        )
    if type(base) in IN_SCIPY:
        family, tensors = IN_SCIPY[type(base)](base)
        numbers = {name: tensor.detach().double().cpu().numpy() for name, tensor in tensors.items()}
        return _marginals(getattr(stats, family), numbers)
    if type(base) is distributions.MultivariateNormal:
        moments = (base.loc, base.covariance_matrix)
        return [_normal(*(each.detach().double().cpu().numpy() for each in moments))]
    return [_of_object(source, shape)]


def _of_object(source: Any, shape: tuple[int, ...] | None = None) -> Part:
    """Return a distribution with the methods of PyTorch.

    Draws use PyTorch's random state, which is set from the generator and restored after.

    Args:
        source: Object with ``sample((count,))`` and ``log_prob(points)``.
        shape: Shape of a draw; None for that of a first draw.
    """

    def drawn(count: int, rng: np.random.Generator) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            return torch.as_tensor(source.sample((count,))).detach().cpu()

    first = drawn(1, np.random.default_rng(0))
    shape = tuple(first.shape[1:]) if shape is None else shape
    dim = int(np.prod(shape))
    if len(shape) > 1:
        raise UsageError(f"prior: draws have shape {list(shape)}: give a distribution of D numbers")
    exact = isinstance(source, distributions.Distribution)

    def density(points: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(points).to(torch.float64 if exact else first.dtype)
        with torch.no_grad():
            values = torch.as_tensor(source.log_prob(rows.reshape(len(rows), *shape)))
        return values.reshape(len(rows), -1).double().sum(dim=1).cpu().numpy()

    return Part(
        type(source).__name__,
        dim,
        lambda count, rng: drawn(count, rng).double().reshape(count, dim).numpy(),
        density,
        *_support_of(source),
    )


def _support_of(source: Any) -> tuple[Any, Any, bool]:
    """Return lowest and highest values of a distribution, and whether it is discrete.

    Elementwise transforms of a distribution map its ends.
    """
    if isinstance(source, distributions.Independent):
        return _support_of(source.base_dist)
    if isinstance(source, distributions.TransformedDistribution):
        low, high, discrete = _support_of(source.base_dist)
        ends = torch.from_numpy(np.stack(np.broadcast_arrays(low, high)))
        for step in source.transforms:
            ends = step(ends.double())
        if ends.ndim < 3 and not ends.isnan().any():
            return ends.amin(dim=0).numpy(), ends.amax(dim=0).numpy(), discrete
    constraint: Any = getattr(source, "support", distributions.constraints.real)
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    if constraint is distributions.constraints.boolean:
        return 0.0, 1.0, True
    low, high = (
        torch.as_tensor(getattr(constraint, name, otherwise)).double()
        for name, otherwise in (("lower_bound", -inf), ("upper_bound", inf))
    )
    if isinstance(source, distributions.MixtureSameFamily) and (low.ndim or high.ndim):
        width = (-1, source.event_shape.numel())  # each component has its own bounds
        low, high = low.reshape(width).amin(dim=0), high.reshape(width).amax(dim=0)
    return low.numpy(), high.numpy(), bool(constraint.is_discrete)


def _of_model(source: Any) -> Part:
    """Return a ``Model``, whose draws and densities agree, bounds included."""
    maps, dim = source.coordinates.maps if source.coordinates else (), len(source.columns)
    ends = next((map_.ends.numpy() for map_ in maps if hasattr(map_, "ends")), UNBOUNDED)

    def draw(count: int, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(source.sample(count, seed=int(rng.integers(2**31))), dtype=float)

    return Part("a model", dim, draw, source.log_prob, *ends.T)


def _of_program(source: Any) -> Part:
    """Return a prior that a function draws, whose density is unknown."""
    program = source if isinstance(source, UserFunction) else UserFunction.of_object(source, None)

    def draw(count: int, rng: np.random.Generator) -> np.ndarray:
        return program.drawn(count, rng).numpy()

    return Part(str(program), draw(1, np.random.default_rng(0)).shape[1], draw, None)
