"""A flow as a PyTorch distribution, for libraries such as Pyro."""

from typing import Any, ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints

from dnnlib.errors import UsageError
from training.flow.pfode import ProbabilityFlow


class FlowDistribution(Distribution):
    """A PyTorch distribution of the points ``[D]`` that a flow generates.

    A conditional flow needs a single row of conditions. Neither draws nor densities have gradients.

    Args:
        flow: The flow.
        seed: Random seed of draws; None for PyTorch's global generator.

    Raises:
        UsageError: The flow has several rows of conditions, one for each point.

    Example:
        >>> from training import EigenBasis, InflationSchedule
        >>> from training.flow.denoisers import DiscreteDenoiser
        >>> points = torch.tensor([[0.0, 0.5], [1.0, -0.5], [0.3, 0.1]]).double()
        >>> basis = EigenBasis.fit([points])
        >>> schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
        >>> flow = ProbabilityFlow(DiscreteDenoiser(points, basis, schedule), schedule, basis)
        >>> FlowDistribution(flow, seed=0).sample([5, 2]).shape
        torch.Size([5, 2, 2])
        >>> FlowDistribution(flow, seed=0).sample([0]).shape
        torch.Size([0, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, flow: ProbabilityFlow, seed: int | None = None):
        if flow.rows is not None:
            raise UsageError(
                f"the flow has {flow.rows} rows of conditions: give a single row, for example "
                "flow.given(labels=row)"
            )
        self.flow = flow
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        super().__init__(Size(), Size([flow.basis.dim]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws ``[*sample_shape, D]`` from the flow, float64."""
        shape = Size(sample_shape)
        return self.flow.sample(shape.numel(), self._generator).view(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities ``[...]``, in nats, of points ``[..., D]``."""
        (dim,) = self.event_shape
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"points have shape {list(value.shape)}: give [..., {dim}]")
        return self.flow.log_prob(value.reshape(-1, dim)).view(value.shape[:-1])
