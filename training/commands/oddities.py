"""What is odd about observations: numbers that are large of those that no data resemble."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.commands.inference import Asked
from training.flow.coordinates.surprise import MOST_CONDITIONS
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.names import LARGEST_EXACT, PROBES
from training.options.inference import LEARNED_SOLVER, LEARNED_STEPS
from training.options.posterior import HeldOutOptions
from training.subjects import NetworkFile, Subject, open_prior

SURPRISE, SPARSE, DENSE, RADIUS = "surprise", "low density", "high density", "latent radius"


@dataclass(frozen=True, eq=False)
class Oddities:
    """Numbers that are large of observations, or conditions, unlike the others.

    Attributes:
        whitened: Observed numbers ``[M, C]`` in coordinates whose distances mean something; None
            where they are too many.
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
        """Those of observed numbers ``[M, C]``.

        Raises:
            UsageError: There is a flow of conditions, but it is of others, or there are none.
            DataError: Its file is broken.
        """
        if asked.settings.learned:
            return cls.of_conditions(asked.subject, options.conditions_network, observed)
        if options.conditions_network is not None:
            raise UsageError("--conditions_network goes with --condition alone: leave it out")
        likelihood, count = asked.likelihood(), observed.shape[1]
        if not isinstance(likelihood, Gaussian) or count > MOST_CONDITIONS:
            return cls(None, torch.zeros(1, 0, dtype=torch.float64))
        # As if the prior were Gaussian, which decides nothing: held-out truths say what is odd.
        mean, covariance = (part.cpu() for part in asked.fine.moments())
        of_points = likelihood.observe(likelihood.observe(covariance).T)
        variance, axes = torch.linalg.eigh(of_points + likelihood.covariance(count))
        gain = axes / variance.sqrt() @ axes.T
        whitened = (observed.cpu().double() - likelihood.observe(mean[None])) @ gain
        columns, names = [whitened.square().sum(dim=1) / 2], [SURPRISE]
        if likelihood.operator is None and likelihood.coordinates is None:
            more = of_points_seen(asked, observed)
            columns, names = [*columns, *more.values()], [*names, *more]
        return cls(whitened, torch.stack(columns, dim=1), names)

    @classmethod
    def of_conditions(
        cls, subject: Subject, conditions_network: str | None, conditions: Tensor
    ) -> "Oddities":
        """Those of conditions ``[M, C]`` of a network; raises likewise."""
        law = subject.surprise
        if law is None:
            return cls(None, torch.zeros(1, 0, dtype=torch.float64))
        straight = subject.straight(conditions.to(law.mean.device))
        columns, names, digest = [law(straight)], [SURPRISE], None
        if conditions_network is not None:
            other = open_prior(NetworkFile.open(conditions_network))
            more = of_flow(other, in_order(other, list(subject.condition_names), conditions))
            columns, names = [*columns, *more.values()], [*names, *more]
            digest = other.digest
        values = torch.stack([column.cpu().double() for column in columns], dim=1)
        return cls(law.whitened(straight).cpu(), values, names, digest)


def in_order(other: Subject, names: list[str], conditions: Tensor) -> Tensor:
    """Conditions ``[M, C]`` of these names as a flow of them has its columns. Raises UsageError if
    it is of others."""
    if set(other.names) - set(names) or other.label_dim:
        raise UsageError(
            f"--conditions_network is a flow of {', '.join(other.names)}: it should be of "
            f"{', '.join(names)}, without conditions"
        )
    return conditions[:, [names.index(name) for name in other.names]]


def of_points_seen(asked: Asked, observed: Tensor) -> dict[str, Tensor]:
    """Oddities of whole points with noise under the prior's own flow. Images have latents alone:
    their densities take too long."""
    subject = asked.subject
    return {} if subject.label_dim else of_flow(subject, observed, subject.is_readable)


def of_flow(subject: Subject, points: Tensor, dense: bool = True) -> dict[str, Tensor]:
    """Oddities ``[M]`` of points ``[M, D]`` under a flow, by name.

    Args:
        subject: The flow.
        points: In the user's units.
        dense: Whether to look at densities.
    """
    flow = subject.flow
    prior = subject.prior(flow.times(LEARNED_STEPS), get_solver(LEARNED_SOLVER))
    blocks = torch.split(points.double().to(flow.device), subject.block)
    odd = {RADIUS: torch.cat([prior.whitened(block).norm(dim=1) for block in blocks])}
    if dense:
        trace = Trace("exact") if subject.dim <= LARGEST_EXACT else Trace(probes=PROBES)
        density = torch.cat([prior.log_density(block, {}, trace) for block in blocks])
        odd |= {SPARSE: -density, DENSE: density}
    return {name: values.cpu().double() for name, values in odd.items()}
