"""Models for other libraries.

These are an estimator of scikit-learn, a posterior for the diagnostics of ``sbi`` that wraps a
model of simulations, and a flow that ``sbi`` trains itself.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from training.data.tables.making import FEWEST_ROWS
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.learning.building import ModelConfig
from training.models.datasets import Table
from training.models.library import library_class
from training.models.model import Model


@library_class
class FlowDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A density estimator of rows: the flow of a table.

    Args:
        dims_to_keep: Number of dimensions that are not compressed; None for all.
        duration: Length of the training, in millions of rows; None to choose it by the size of the
            table.
        held_out: Fraction of the rows in the validation set, which chooses the coordinates and the
            end of the training. There is no validation set with fewer than 20 rows.
        options: Further options of ``train.py``, by name.
        random_state: Random seed of the training and of draws.

    Attributes:
        model_: The trained ``Model``.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(200, 2))
        >>> density = FlowDensity(duration=0.001, random_state=0).fit(rows)
        >>> density.score_samples(rows).shape, density.sample(5).shape
        ((200,), (5, 2))
    """

    def __init__(
        self,
        dims_to_keep: int | None = None,
        duration: float | None = None,
        held_out: float = 0.1,
        options: Mapping[str, Any] | None = None,
        random_state: int | None = 0,
    ):
        self.dims_to_keep = dims_to_keep
        self.duration = duration
        self.held_out = held_out
        self.options = options
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Train a flow on rows ``[N, D]``.

        Raises:
            ValueError: There are too few rows, or values are not numbers.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=FEWEST_ROWS)
        wanted: dict[str, Any] = {"dims_to_keep": self.dims_to_keep, "duration": self.duration}
        given = {name: value for name, value in wanted.items() if value is not None}
        seed, held_out = self._seed(), self.held_out if len(rows) >= 2 * FEWEST_ROWS else 0.0
        try:
            table = Table.open(rows, held_out=held_out, seed=seed)
            self.model_ = table.train(seed=seed, **given, **(self.options or {}))
        except DataError as error:
            raise ValueError(str(error)) from error
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the log densities ``[N]`` of rows, in nats."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.log_prob(rows)

    def score(self, X: Any, y: object = None) -> float:
        """Return the mean log density of rows, which a search over options maximizes."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draw new rows ``[n_samples, D]``."""
        check_is_fitted(self)
        return np.asarray(self.model_.sample(n_samples, seed=self._seed()))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31))


@library_class
class SbiPosterior:
    """A posterior with the interface of ``sbi``.

    It has ``sample``, ``sample_batched``, ``log_prob`` with gradients, and ``map``. For example,

        from sbi.diagnostics import run_sbc, run_tarp
        ranks, _ = run_sbc(theta, x, SbiPosterior(model), num_posterior_samples=200)

    Args:
        model: Model of parameters given data.
        seed: Random seed of draws; each call uses the next seed.
        options: Options of ``posterior.py sample``, by name.

    Raises:
        UsageError: The model has no conditions.
    """

    def __init__(self, model: Model, seed: int = 0, **options: Any):
        if not model.conditions:
            raise UsageError("this model has no data columns: train Simulations(parameters, data)")
        self.model, self._seed = model, seed
        self._posterior = model.posterior(**options)
        self.default_x: Tensor | None = None

    def set_default_x(self, x: Any) -> "SbiPosterior":
        """Set the data ``[C]`` or ``[1, C]`` that other methods use by default.

        Returns:
            The posterior itself.
        """
        self.default_x = torch.as_tensor(x)
        return self

    def sample(self, sample_shape: Any = (), x: Any = None, **_: Any) -> Tensor:
        """Draw ``[*sample_shape, D]`` from one posterior."""
        return self.sample_batched(sample_shape, self._one(x)).squeeze(-2)

    def sample_batched(self, sample_shape: Any, x: Any, **_: Any) -> Tensor:
        """Draw ``[*sample_shape, M, D]`` from the posteriors of data ``[M, C]``."""
        shape = torch.Size(sample_shape)
        self._seed += 1
        # At least two, the minimum length of a chain.
        draws = self._posterior.sample(
            torch.as_tensor(x), draws=max(shape.numel(), 2), seed=self._seed
        )
        points = torch.from_numpy(draws.points[:, : shape.numel()]).float().transpose(0, 1)
        return points.reshape(*shape, *points.shape[1:])

    def log_prob(self, theta: Any, x: Any = None, **_: Any) -> Tensor:
        """Return the log densities ``[N]`` of parameters ``[N, D]``, in nats.

        The density is that of the distribution of the draws, and has gradients.
        """
        rows = torch.atleast_2d(torch.as_tensor(theta))  # type: ignore[no-untyped-call]
        return self._posterior.density(self._one(x)).log_prob(rows).float()

    def map(self, x: Any = None, **_: Any) -> Tensor:
        """Return the parameters ``[1, D]`` of the largest density."""
        return self._posterior.density(self._one(x)).map().float()

    def _one(self, x: Any) -> Tensor:
        chosen = self.default_x if x is None else torch.as_tensor(x)
        if chosen is None:
            raise UsageError("no observation is given: give x, or call set_default_x")
        return chosen.reshape(1, -1)


class _Estimator(nn.Module):
    """A denoiser that another program trains by the denoising loss.

    Samples and densities are those of its flow.

    Parameters ``[N, D]`` and data ``[N, ...]`` are standardized by mean and standard deviation of
    the given ones.
    """

    units: Tensor
    given_units: Tensor

    def __init__(self, theta: Tensor, x: Tensor, gamma0: float, network: Mapping[str, Any]):
        super().__init__()
        arguments = {**network, "label_dim": x[0].numel()}
        choices = ModelConfig("ifs", {"gamma0": gamma0}, "mlp", arguments, "ES", "log")
        for name, rows in (("units", theta), ("given_units", x.flatten(1))):
            units = torch.stack([rows.mean(dim=0), rows.std(dim=0).clamp_min(1e-12)])
            self.register_buffer(name, units)
        self._model, self._loss = choices.build(EigenBasis.fit([self._standard(theta)]))
        self.denoiser = self._model.denoiser

    def loss(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the loss ``[B]`` of parameters ``[B, D]`` given data ``[B, ...]``."""
        generator = torch.Generator(theta.device).manual_seed(int(torch.randint(2**62, ())))
        clean = self.denoiser.basis.to_eigen(self._standard(theta))
        draws = self._loss.draw(len(theta), generator)
        regression = self._loss.regression(self.denoiser)
        return self._loss.per_sample(regression, clean, draws, {"labels": self._labels(x)})

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the log densities ``[S, B]`` of parameters ``[S, B, D]`` given data.

        Data are ``[B, ...]``.
        """
        with self._flow(x, len(theta)) as flow:
            density = flow.log_prob(self._standard(theta).flatten(0, 1)).view(theta.shape[:2])
        return (density - self.units[1].log().sum()).float()

    def sample(self, shape: torch.Size, x: Tensor) -> Tensor:
        """Draw parameters ``[*shape, B, D]`` given data ``[B, ...]``."""
        with self._flow(x, shape.numel()) as flow:
            points = flow.sample(shape.numel() * len(x)).view(*shape, len(x), -1)
        return (self.units[0] + self.units[1] * points).float()

    def _standard(self, theta: Tensor) -> Tensor:
        return ((theta - self.units[0]) / self.units[1]).double()

    def _labels(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - self.given_units[0]) / self.given_units[1]

    @contextmanager
    def _flow(self, x: Tensor, times: int) -> Iterator[ProbabilityFlow]:
        """Provide the flow of ``times`` points for each row of data.

        It has neither dropout nor gradients.
        """
        training = self.training
        self.eval()
        with torch.no_grad():
            yield self._model.flow.given(labels=self._labels(x).repeat(times, 1))
        self.train(training)


def sbi_estimator(width: int = 64, depth: int = 4, gamma0: float = 1e-3) -> Any:
    """Return a builder of flows for the trainer of ``sbi``.

    It is used as ``NPE(density_estimator=sbi_estimator())``.

    Parameters and data are standardized. Coordinates, bounds and the choice of weights by
    validation densities are available only with ``Simulations(...).train()``.

    Args:
        width: Number of units per hidden layer.
        depth: Number of hidden layers.
        gamma0: Variance of the noise of the first time, in squared standard deviations.
    """
    base = import_module("sbi.neural_nets.estimators.base").ConditionalDensityEstimator

    class Estimator(base):  # type: ignore[misc, valid-type]
        """An estimator with the method names that ``sbi`` expects."""

        def __init__(self, theta: Tensor, x: Tensor):
            net = _Estimator(theta, x, gamma0, {"width": width, "depth": depth})
            super().__init__(net, theta[0].shape, x[0].shape)

        @property
        def embedding_net(self) -> Any:
            return nn.Identity()

        def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
            return self.net.loss(input, condition)

        def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
            return self.net.log_prob(input, condition)

        def sample(self, sample_shape: Any, condition: Tensor, **_: Any) -> Tensor:
            return self.net.sample(torch.Size(sample_shape), condition)

    return Estimator
