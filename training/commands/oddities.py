"""What is odd about observations: numbers that are large of those that no data resemble."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.commands.inference import Asked
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.measure.clouds import Cloud
from training.names import LARGEST_EXACT, PROBES
from training.options.inference import LEARNED_SOLVER, LEARNED_STEPS, HeldOutOptions
from training.subjects import NetworkFile, Subject, open_prior

SURPRISE, ALONE = "surprise", "number that the others foretell worst"
SPARSE, DENSE, RADIUS = "low density", "high density", "latent radius"
MOST_NUMBERS = 4096
"""Observed numbers whose covariance is looked at: 128 MB."""


@dataclass(frozen=True, eq=False)
class Oddities:
    """Numbers that are large of observations, or conditions, unlike the others.

    Attributes:
        whitened: Observed numbers ``[M, C]`` in coordinates that distances are taken in; None where
            they are too many.
        values: ``[M, K]``.
        names: Of the K numbers.
        network: Digest of the flow of conditions; None without.
    """

    whitened: Tensor | None
    values: Tensor
    names: list[str] = field(default_factory=list)
    network: str | None = None

    @classmethod
    def of(cls, asked: Asked, options: HeldOutOptions, observed: Tensor) -> "Oddities":
        """Those of observed numbers ``[M, C]``. Raises UsageError if there is a flow of conditions,
        but it is of others, or there are none, DataError if its file is broken."""
        if asked.settings.learned:
            return cls.of_conditions(asked.subject, options.conditions_network, observed)
        if options.conditions_network is not None:
            raise UsageError("--conditions_network goes with --condition alone: leave it out")
        likelihood, count = asked.likelihood(), observed.shape[1]
        if not isinstance(likelihood, Gaussian) or count > MOST_NUMBERS:
            return cls(None, torch.zeros(1, 0, dtype=torch.float64))
        # As if the prior were Gaussian, which decides nothing: held-out truths say what is odd.
        mean, covariance = (part.cpu() for part in asked.fine.moments())
        of_points = likelihood.observe(likelihood.observe(covariance).T)
        noise = likelihood.covariance(count)
        middle = likelihood.observe(mean[None])[0]
        cloud = Cloud.of(middle, of_points + noise, noise.diagonal().sqrt())
        subject, partial = asked.subject, (likelihood.operator, likelihood.coordinates)
        # Whole points have a place under the prior's own flow. Images have latents alone: their
        # densities take too long.
        seen = partial == (None, None) and not subject.label_dim
        more = of_flow(subject, observed, subject.is_readable) if seen else {}
        return cls.of_cloud(cloud, observed.cpu().double(), more)

    @classmethod
    def of_conditions(
        cls, subject: Subject, conditions_network: str | None, conditions: Tensor
    ) -> "Oddities":
        """Those of conditions ``[M, C]`` of a network; raises likewise."""
        law = subject.surprise
        if law is None:
            return cls(None, torch.zeros(1, 0, dtype=torch.float64))
        more, digest = {}, None
        if conditions_network is not None:
            other = open_prior(NetworkFile.open(conditions_network))
            points, given = other.of_columns(list(subject.condition_names), conditions)
            more, digest = of_flow(other, points, given=given), other.digest
        cloud = Cloud.of(law.mean.cpu(), law.covariance.cpu())
        straight = subject.straight(conditions.to(law.mean.device)).cpu().double()
        return cls.of_cloud(cloud, straight, more, digest)

    @classmethod
    def of_cloud(
        cls, cloud: Cloud, rows: Tensor, more: dict[str, Tensor], network: str | None = None
    ) -> "Oddities":
        """Those of rows ``[M, C]`` by the mean and covariance of others, and more by name."""
        odd = {SURPRISE: cloud.surprise(rows), ALONE: cloud.alone(rows), **more}
        return cls(cloud.places(rows), torch.stack(list(odd.values()), dim=1), list(odd), network)


def of_flow(
    subject: Subject, points: Tensor, dense: bool = True, given: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Oddities ``[M]`` of points ``[M, D]`` under a flow, by name.

    Args:
        subject: The flow.
        points: In the user's units.
        dense: Whether to look at densities.
        given: What its network is given with every point, of one row.
    """
    flow = subject.flow
    prior = subject.prior(flow.times(LEARNED_STEPS), get_solver(LEARNED_SOLVER))
    trace = Trace("exact") if subject.dim <= LARGEST_EXACT else Trace(probes=PROBES)
    radius, density = [], []
    for block in torch.split(points.double().to(flow.device), subject.block):
        beside = {k: v.to(flow.device).expand(len(block), -1) for k, v in (given or {}).items()}
        radius.append(prior.whitened(block, beside).norm(dim=1).cpu().double())
        if dense:
            density.append(prior.log_density(block, beside, trace).cpu().double())
    odd = {RADIUS: torch.cat(radius)}
    if dense:
        odd |= {SPARSE: -torch.cat(density), DENSE: torch.cat(density)}
    return odd
