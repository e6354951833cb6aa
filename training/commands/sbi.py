"""For ``sbi``: a model of simulations as a posterior that its diagnostics take, and a flow that it
trains itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.commands.models import Model
from training.flow.eigenbasis import EigenBasis
from training.learning.building import Choices


class SbiPosterior:
    """What ``sbi``'s posteriors have: ``sample``, ``sample_batched``, ``log_prob`` of ``[..., D]``.

        from sbi.diagnostics import run_sbc, run_tarp
        ranks, _ = run_sbc(theta, x, SbiPosterior(model), num_posterior_samples=200)

    Args:
        model: Of parameters given data.
        seed: Of draws; each call takes the next one.
        options: Of ``posterior.py sample``, by name.

    Raises:
        UsageError: The model has no conditions.
    """

    def __init__(self, model: Model, seed: int = 0, **options: Any):
        if not model.conditions:
            raise UsageError("this model is given no data: train Simulations(parameters, data)")
        self.model, self._seed = model, seed
        self._posterior = model.posterior(**options)
        self.default_x: Tensor | None = None

    def set_default_x(self, x: Any) -> "SbiPosterior":
        """Itself, whose other methods are about data ``[C]`` or ``[1, C]`` if they say nothing."""
        self.default_x = torch.as_tensor(x)
        return self

    def sample(self, sample_shape: Any = (), x: Any = None, **_: Any) -> Tensor:
        """Draws ``[*sample_shape, D]`` of one posterior."""
        return self.sample_batched(sample_shape, self._one(x)).squeeze(-2)

    def sample_batched(self, sample_shape: Any, x: Any, **_: Any) -> Tensor:
        """Draws ``[*sample_shape, M, D]`` of the posteriors of data ``[M, C]``."""
        shape = torch.Size(sample_shape)
        self._seed += 1
        # Two at least, as a chain has.
        draws = self._posterior.sample(
            torch.as_tensor(x), chains=1, draws=max(shape.numel(), 2), seed=self._seed
        )
        points = torch.from_numpy(draws.points[:, : shape.numel()]).float().transpose(0, 1)
        return points.reshape(*shape, *points.shape[1:])

    def log_prob(self, theta: Any, x: Any = None, **_: Any) -> Tensor:
        """Log densities ``[N]`` of parameters ``[N, D]``."""
        return torch.from_numpy(self.model.log_prob(theta, given=self._one(x))).float()

    def _one(self, x: Any) -> Tensor:
        chosen = self.default_x if x is None else torch.as_tensor(x)
        if chosen is None:
            raise UsageError("no data were given: give x, or set_default_x")
        return chosen.reshape(1, -1)


def sbi_estimator(width: int = 64, depth: int = 4, gamma0: float = 1e-3) -> Any:
    """What builds a flow for ``sbi``'s own trainer: ``NPE(density_estimator=sbi_estimator())``.

    Parameters and data are standardized, and nothing else is known of them: coordinates, bounds and
    the choice of weights by held-out densities are those of ``Simulations(...).train()`` alone.

    Args:
        width: Of the network.
        depth: Hidden layers.
        gamma0: Variance of the noise of the first time, in squared standard deviations.
    """
    base = import_module("sbi.neural_nets.estimators.base").ConditionalDensityEstimator

    class Estimator(base):  # type: ignore[misc, valid-type]
        """A denoiser, trained by the denoising loss; samples and densities are its flow's."""

        def __init__(self, theta: Tensor, x: Tensor):
            arguments = {"width": width, "depth": depth, "label_dim": x[0].numel()}
            choices = Choices("ifs", {"gamma0": gamma0}, "mlp", arguments, "ES", "log")
            basis = EigenBasis.fit([theta.double()])
            model, denoising = choices.build(basis)
            super().__init__(model.denoiser, theta[0].shape, x[0].shape)
            self._model, self._loss = model, denoising
            self.register_buffer("middle", x.flatten(1).mean(dim=0))
            self.register_buffer("spread", x.flatten(1).std(dim=0).clamp_min(1e-12))

        @property
        def embedding_net(self) -> Any:
            return torch.nn.Identity()

        def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
            """The loss ``[B]`` of parameters ``[B, D]`` given data ``[B, C]``."""
            generator = torch.Generator(input.device).manual_seed(int(torch.randint(2**62, ())))
            clean = self._model.denoiser.basis.to_eigen(input.double())
            regression = self._loss.regression(self.net)
            draws = self._loss.draw(len(input), generator)
            return self._loss.per_sample(
                regression, clean, draws, {"labels": self._labels(condition)}
            )

        def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
            """Log densities ``[S, B]`` of parameters ``[S, B, D]`` given data ``[B, C]``."""
            rows = self._labels(condition).repeat(len(input), 1)
            with self._resting():
                density = self._model.flow.given(labels=rows).log_prob(input.flatten(0, 1))
            return density.view(input.shape[:2]).float()

        def sample(self, sample_shape: Any, condition: Tensor, **_: Any) -> Tensor:
            """Parameters ``[*sample_shape, B, D]`` given data ``[B, C]``."""
            count = torch.Size(sample_shape).numel()
            rows = self._labels(condition).repeat(count, 1)
            with self._resting():
                points = self._model.flow.given(labels=rows).sample(len(rows))
            return points.view(*sample_shape, len(condition), -1).float()

        def _labels(self, condition: Tensor) -> Tensor:
            return (condition.flatten(1) - self.middle) / self.spread

        @contextmanager
        def _resting(self) -> Iterator[None]:
            """The network without dropout or gradients."""
            training = self.net.training
            self.net.eval()
            with torch.no_grad():
                yield
            self.net.train(training)

    return Estimator
