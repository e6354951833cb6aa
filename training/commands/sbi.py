"""A model of simulations as the posterior that ``sbi`` and its diagnostics take."""

from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.commands.models import Model


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
