"""Draws from posteriors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

POOLED = ("pool", "refined")
"""Samplers whose draws are independent, so that only their weights determine the effective sample
size.
"""
WEIGHTED = (*POOLED, "annealed")
"""Samplers that start from a pool and report importance weights: those above, and the one whose
chains are populations.
"""


@dataclass(frozen=True)
class Draws:
    """Posterior draws: S draws of C chains for each of M observations.

    Attributes:
        w: Standard normal variables ``[M, C, S, dim]``.
        points: Points of data space ``[M, C, S, D]``.
        log_likelihood: Log likelihoods ``[M, C, S]``, in nats; NaN for amortized posteriors.
        stats: Statistics of the sampler by name, each ``[M]``: ``acceptance``, ``step_size``,
            ``effective_size`` and ``pareto_k`` of weights, and ``evidence``, the log of the mean
            likelihood under the prior, with ``evidence_error``, in nats.
        sampler: Name of the sampler of each observation.
        log_density: Log density ``[M, C, S]`` of the posterior at the draws, in nats, for amortized
            posteriors; otherwise None.
        calls: Network evaluations per observation ``[M]``, float64, on the CPU like the statistics;
            those of a group that is sampled together are divided evenly.
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
        """Number of observations, M."""
        return len(self.w)

    @classmethod
    def by(
        cls,
        sampler: str,
        shape: tuple[int, int, int],
        w: Tensor,
        points: Tensor,
        log_likelihood: Tensor,
        calls: float,
        stats: Mapping[str, Tensor],
    ) -> "Draws":
        """Create the draws of one sampler from arrays that have one row per draw.

        Args:
            sampler: Name of the sampler.
            shape: Numbers of observations, chains and draws, ``(M, C, S)``.
            w: Standard normal variables ``[M C S, dim]``.
            points: Points ``[M C S, D]``.
            log_likelihood: Log likelihoods ``[M C S]``.
            calls: Network evaluations per observation.
            stats: Statistics of the sampler by name, each ``[M]``.
        """
        w, points = (rows.view(*shape, -1) for rows in (w, points))
        each = torch.full(shape[:1], calls, dtype=torch.float64)
        return cls(w, points, log_likelihood.view(shape), [sampler] * shape[0], each, stats)

    def of(self, places: Tensor) -> "Draws":
        """Return the draws of the observations with indices ``places [m]`` only."""
        pick, at = places.to(self.w.device), places.cpu()
        return replace(
            self._each(lambda values: values[pick]),
            sampler=[self.sampler[place] for place in at.tolist()],
            calls=self.calls[at],
            stats={name: values[at] for name, values in self.stats.items()},
        )

    def without_draws(self) -> "Draws":
        """Return a copy with the statistics of each observation, but without its draws."""
        return self._each(lambda values: values[:, :, :0])

    def chosen(self, picks: Tensor) -> "Draws":
        """Select draws from each chain by their indices ``picks [M, C, S']``."""

        def taken(values: Tensor) -> Tensor:
            rows = picks if values.ndim == 3 else picks[..., None]
            return values.gather(2, rows.expand(*picks.shape, *values.shape[3:]))

        return self._each(taken)

    def cpu(self) -> "Draws":
        """Return the draws on the CPU."""
        stats = {name: values.cpu() for name, values in self.stats.items()}
        return replace(self._each(Tensor.cpu), calls=self.calls.cpu(), stats=stats)

    def _each(self, part: Callable[[Tensor], Tensor]) -> "Draws":
        """Apply a selection to all values that there are per draw."""
        return replace(
            self,
            w=part(self.w),
            points=part(self.points),
            log_likelihood=part(self.log_likelihood),
            log_density=None if self.log_density is None else part(self.log_density),
        )

    def replaced(self, places: Tensor, others: "Draws") -> "Draws":
        """Return a copy with other draws for some of the observations.

        Statistics that the new draws lack are kept from the old draws, and network evaluations add
        up.

        Args:
            places: Indices of the m observations to replace ``[m]``.
            others: Draws of these m observations.
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
        """Join the draws of several groups of observations.

        Statistics that only some samplers report are NaN for draws of other samplers.

        Args:
            parts: Draws of each group.
            order: Index ``[M]`` that each of the joined observations gets in the result; None to
                keep the joined order.
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
