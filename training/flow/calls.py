"""How a denoiser is called: under conditions, in blocks of one shape, again for gradients.

Convolutions and matrix products choose their kernels, and so the order of their sums, by the shape
of what they are given. Only calls of one shape give each row the same bits whatever comes with it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.flow.solvers import Velocity

Call = Callable[..., Tensor]
"""``D(x [B, D], t [] or [B], **conditions [B, ...]) -> [B, D]``."""
BLOCK_ROWS = {"cpu": 16, "cuda": 128}
"""Rows of one call by type of device: enough for nearly its full speed."""


def prepared(denoiser: Call, conditions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Conditions as a denoiser that sees them at many calls makes them ready once, if it does."""
    prepare = getattr(denoiser, "prepared", None)
    return conditions if prepare is None else prepare(conditions)


def with_trace(
    denoiser: Call, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
) -> tuple[Tensor, Tensor] | None:
    """What the denoiser says of its own trace, see ``NetworkDenoiser.with_trace``; None of those
    that have none."""
    own = getattr(denoiser, "with_trace", None)
    return None if own is None or t.ndim else own(x, t, factors, **conditions)


class ConditionedDenoiser:
    """A denoiser that is given the same conditions at every call, such as ``labels [B, L]``, by
    name, one row for each point, or one for all."""

    def __init__(self, denoiser: Call, conditions: Mapping[str, Tensor]):
        self._denoiser, self._conditions = denoiser, prepared(denoiser, conditions)

    def __call__(self, x: Tensor, t: Tensor, **further: Tensor) -> Tensor:
        rows = {k: v.expand(len(x), *v.shape[1:]) for k, v in self._conditions.items()}
        return self._denoiser(x, t, **rows, **further)

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **further: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """As ``NetworkDenoiser.with_trace``; None of denoisers without."""
        rows = {k: v.expand(len(x), *v.shape[1:]) for k, v in self._conditions.items()}
        return with_trace(self._denoiser, x, t, factors, **rows, **further)


class BlockwiseDenoiser:
    """Calls a denoiser with exactly so many rows at a time, the last block filled up.

    What fills it are zeros, at a time of the block. So a row's result depends on that row alone,
    and memory does not grow with the batch."""

    def __init__(self, denoiser: Call, rows: int):
        self._denoiser, self._rows = denoiser, rows

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The denoised ``[B, D]`` of ``x [B, D]`` at times ``[]`` or ``[B]``."""
        parts = []
        for start in range(0, len(x), self._rows):
            block = {name: self._block(rows, start) for name, rows in conditions.items()}
            times = self._times(t, start) if t.ndim else t
            parts.append(self._denoiser(self._block(x, start), times, **block))
        return torch.cat(parts)[: len(x)] if parts else x

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """As ``NetworkDenoiser.with_trace``; None of denoisers without."""
        parts = []
        for start in range(0, len(x), self._rows):
            block = {name: self._block(rows, start) for name, rows in conditions.items()}
            part = with_trace(self._denoiser, self._block(x, start), t, factors, **block)
            if part is None:
                return None
            parts.append(part)
        if not parts:
            return None
        values, traces = (torch.cat(column)[: len(x)] for column in zip(*parts, strict=True))
        return values, traces

    def prepared(self, conditions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """As the denoiser makes them ready, in blocks likewise."""
        counts = {len(rows) for rows in conditions.values()}
        count = max(counts, default=0)
        if not hasattr(self._denoiser, "prepared") or counts != {count} or not count:
            return conditions
        parts = [
            prepared(self._denoiser, {k: self._block(v, start) for k, v in conditions.items()})
            for start in range(0, count, self._rows)
        ]
        return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}

    def _times(self, t: Tensor, start: int) -> Tensor:
        block = t[start : start + self._rows]
        # Not zeros: a schedule need not have a time 0.
        return torch.cat([block, block[-1:].expand(self._rows - len(block))])

    def _block(self, rows: Tensor, start: int) -> Tensor:
        block = rows[start : start + self._rows]
        missing = self._rows - len(block)
        return F.pad(block, (0, 0, 0, missing)) if missing else block


class RecomputedDenoiser:
    """A denoiser that repeats its calls for gradients instead of storing what they computed,
    without randomness, and so in evaluation mode.

    Blocks of rows that are made of it need the memory of one call, with gradients as without."""

    def __init__(self, denoiser: Call):
        self._denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self._denoiser(x, t, **conditions)
        return repeated(partial(self._denoiser, **conditions), x, t)


def repeated(function: Velocity, x: Tensor, t: Tensor) -> Tensor:
    """What a function without randomness makes, which is called again for gradients."""
    return checkpoint(function, x, t, use_reentrant=False, preserve_rng_state=False)


class CountedVelocity:
    """A velocity whose calls are counted and, on request, repeated for gradients.

    Args:
        velocity: The velocity to call, which may say its divergence with it: ``FlowVelocity``.
        repeats: Whether to repeat calls on the way back instead of storing what they computed.

    Attributes:
        calls: The number of calls so far.
    """

    def __init__(self, velocity: Velocity, repeats: bool):
        self._velocity, self._repeats, self.calls = velocity, repeats, 0

    def with_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """The velocity ``[B, D]`` and its divergence ``[B]``, without gradients; None where
        products with its Jacobian have to be taken."""
        divergence = getattr(self._velocity, "with_divergence", None)
        known: tuple[Tensor, Tensor] | None = divergence(x, t) if divergence else None
        self.calls += known is not None
        return known

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return repeated(self._velocity, x, t) if self._repeats else self._velocity(x, t)
