"""Draws from posteriors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

POOLED = ("pool", "refined")
"""Samplers whose draws are independent, and worth what their weights are."""
WEIGHTED = (*POOLED, "annealed")
"""With that whose chains are populations, likewise weighted: all that start from a pool."""


@dataclass(frozen=True)
class Draws:
    """S draws of C chains for each of M observations.

    Attributes:
        w: Standard normal variables ``[M, C, S, dim]``.
        points: Points of data space ``[M, C, S, D]``.
        log_likelihood: ``[M, C, S]``, in nats; NaN of a flow that has learned the posterior itself.
        stats: What the sampler says of each observation, ``[M]`` by name: ``acceptance``,
            ``step_size``, ``effective_size`` and ``pareto_k`` of weights, and by these
            ``evidence``, the log of the likelihood's mean over the prior, with ``evidence_error``,
            in nats.
        sampler: The name of the sampler of each observation.
        log_density: Of the posterior, ``[M, C, S]`` in nats, where the flow has learned it.
        calls: Network calls of each observation ``[M]``, float64, on the CPU as the statistics are;
            those of a group that is sampled side by side are shared out evenly.
    """

    w: Tensor
    points: Tensor
    log_likelihood: Tensor
    sampler: Sequence[str]
    calls: Tensor
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    log_density: Tensor | None = None

    @property
    def count(self) -> int:
        """M."""
        return len(self.w)

    def of(self, places: Tensor) -> "Draws":
        """Those of the observations at these places ``[m]``."""
        pick = places.to(self.w.device)
        return Draws(
            self.w[pick],
            self.points[pick],
            self.log_likelihood[pick],
            [self.sampler[place] for place in places.tolist()],
            self.calls[places.cpu()],
            {name: values[places.cpu()] for name, values in self.stats.items()},
            None if self.log_density is None else self.log_density[pick],
        )

    def without_draws(self) -> "Draws":
        """What the sampler says of each observation alone."""
        log_likelihood, density = self.log_likelihood[:, :, :0], self.log_density
        return replace(
            self,
            w=self.w[:, :, :0],
            points=self.points[:, :, :0],
            log_likelihood=log_likelihood,
            log_density=None if density is None else density[:, :, :0],
        )

    def chosen(self, picks: Tensor) -> "Draws":
        """Draws ``[M, C, S']`` taken again from each chain by their numbers."""
        rows = picks[..., None]
        return Draws(
            self.w.gather(2, rows.expand(*picks.shape, self.w.shape[3])),
            self.points.gather(2, rows.expand(*picks.shape, self.points.shape[3])),
            self.log_likelihood.gather(2, picks),
            self.sampler,
            self.calls,
            self.stats,
            None if self.log_density is None else self.log_density.gather(2, picks),
        )

    def replaced(self, places: Tensor, others: "Draws") -> "Draws":
        """These draws, with others in their stead for the observations at some places ``[m]``.

        What these say of them that the others do not stays, and so do the calls that they took.
        """
        tried = self.of(places)
        others = replace(
            others, calls=tried.calls + others.calls, stats={**tried.stats, **others.stats}
        )
        kept = torch.ones(self.count, dtype=torch.bool).scatter(0, places.cpu(), False)
        rest = kept.nonzero()[:, 0]
        return Draws.joined([self.of(rest), others], torch.cat([rest, places.cpu()]))

    @classmethod
    def joined(cls, parts: Sequence["Draws"], order: Tensor | None = None) -> "Draws":
        """The draws of several groups of observations.

        They are put in the order ``[M]`` of all observations if it is given.

        What only some samplers say is NaN for the others.
        """
        names = sorted({name for part in parts for name in part.stats})
        stats = {
            name: torch.cat(
                [part.stats.get(name, torch.full_like(part.calls, torch.nan)) for part in parts]
            )
            for name in names
        }
        sampler = [name for part in parts for name in part.sampler]
        density = [part.log_density for part in parts if part.log_density is not None]
        whole = cls(
            torch.cat([part.w for part in parts]),
            torch.cat([part.points for part in parts]),
            torch.cat([part.log_likelihood for part in parts]),
            sampler,
            torch.cat([part.calls for part in parts]),
            stats,
            torch.cat(density) if len(density) == len(parts) else None,
        )
        return whole if order is None else whole.of(order.argsort().cpu())
