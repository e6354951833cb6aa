"""Wrappers of a denoiser: fixed conditions, blocks of one shape, and recomputed gradients.

The shapes of inputs determine the kernels of convolutions and matrix products, and so the order of
summation. A row gets the same bits whatever other rows are in its batch only if all calls have one
shape.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.flow.solvers import Velocity

Call = Callable[..., Tensor]
"""Type of a denoiser: ``D(x [B, D], t [] or [B], **conditions [B, ...]) -> [B, D]``."""
BLOCK_ROWS = {"cpu": 16, "cuda": 128}
"""Rows per call by device type: enough for nearly full speed."""


def prepared(denoiser: Call, conditions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return conditions after the denoiser's preprocessing, or unchanged if it has none.

    Conditions are preprocessed once for many evaluations of the denoiser.
    """
    prepare = getattr(denoiser, "prepared", None)
    return conditions if prepare is None else prepare(conditions)


def with_trace(
    denoiser: Call, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return denoised points ``[B, D]`` and weighted traces ``[B]`` of the denoiser's Jacobian.

    See ``NetworkDenoiser.with_trace`` for the arguments. The result is None if the denoiser has no
    method for traces, or if points have different times.
    """
    own = getattr(denoiser, "with_trace", None)
    return None if own is None or t.ndim else own(x, t, factors, **conditions)


class ConditionedDenoiser:
    """A denoiser with the same named conditions in every call, for example ``labels [B, L]``.

    Conditions have one row per point, or one row for all points.
    """

    def __init__(self, denoiser: Call, conditions: Mapping[str, Tensor]):
        self._denoiser, self._conditions = denoiser, prepared(denoiser, conditions)

    def __call__(self, x: Tensor, t: Tensor, **further: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of noisy points x at times t, given conditions."""
        rows = {k: v.expand(len(x), *v.shape[1:]) for k, v in self._conditions.items()}
        return self._denoiser(x, t, **rows, **further)

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **further: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return denoised points and weighted traces of the denoiser's Jacobian, or None.

        See ``NetworkDenoiser.with_trace`` for the arguments. The result is None if the denoiser
        does not compute traces.
        """
        rows = {k: v.expand(len(x), *v.shape[1:]) for k, v in self._conditions.items()}
        return with_trace(self._denoiser, x, t, factors, **rows, **further)


class BlockwiseDenoiser:
    """A denoiser that evaluates blocks of exactly ``rows`` rows, and pads the last block.

    Padding rows are zeros, with a time of the same block. The result for a row therefore depends on
    that row alone, and memory does not grow with the batch.
    """

    def __init__(self, denoiser: Call, rows: int):
        self._denoiser, self._rows = denoiser, rows

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of ``x [B, D]`` at times ``[]`` or ``[B]``."""
        parts = []
        for start in range(0, len(x), self._rows):
            block = {name: self._block(rows, start) for name, rows in conditions.items()}
            times = self._times(t, start) if t.ndim else t
            parts.append(self._denoiser(self._block(x, start), times, **block))
        return torch.cat(parts)[: len(x)] if parts else x

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return denoised points and weighted traces of the Jacobian, computed in blocks.

        See ``NetworkDenoiser.with_trace`` for the arguments. The result is None if the denoiser
        does not compute traces.
        """
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
        """Return conditions after the denoiser's preprocessing, which is computed in blocks."""
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
        # Padding times are not zeros: a schedule need not include time 0.
        return torch.cat([block, block[-1:].expand(self._rows - len(block))])

    def _block(self, rows: Tensor, start: int) -> Tensor:
        block = rows[start : start + self._rows]
        missing = self._rows - len(block)
        return F.pad(block, (0, 0, 0, missing)) if missing else block


class RecomputedDenoiser:
    """A denoiser that recomputes its calls in the backward pass instead of storing activations.

    The wrapped denoiser must be deterministic, hence in evaluation mode. If rows are computed in
    blocks, gradients take the memory of one block.
    """

    def __init__(self, denoiser: Call):
        self._denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of ``x [B, D]`` at times ``[]`` or ``[B]``."""
        if not torch.is_grad_enabled():
            return self._denoiser(x, t, **conditions)
        return repeated(partial(self._denoiser, **conditions), x, t)


def repeated(function: Velocity, x: Tensor, t: Tensor) -> Tensor:
    """Call a deterministic velocity with checkpointing, so that the backward pass recomputes it."""
    return checkpoint(function, x, t, use_reentrant=False, preserve_rng_state=False)


class CountedVelocity:
    """A velocity function that counts its calls, and can recompute them in the backward pass.

    Args:
        velocity: The velocity to call, which may also compute its divergence (``FlowVelocity``).
        repeats: Whether to recompute calls in the backward pass instead of storing activations.

    Attributes:
        calls: Number of calls so far.
    """

    def __init__(self, velocity: Velocity, repeats: bool):
        self._velocity, self._repeats, self.calls = velocity, repeats, 0

    def with_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the velocity ``[B, D]`` and its divergence ``[B]``, without gradients.

        The result is None if the velocity does not compute its divergence itself.
        """
        divergence = getattr(self._velocity, "with_divergence", None)
        known: tuple[Tensor, Tensor] | None = divergence(x, t) if divergence else None
        self.calls += known is not None
        return known

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``[B, D]`` of states ``x [B, D]``, and count the call."""
        self.calls += 1
        return repeated(self._velocity, x, t) if self._repeats else self._velocity(x, t)
