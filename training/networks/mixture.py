"""Closed-form initial denoiser for flows of rows: a mixture of normal distributions.

Each component is a normal distribution of the numbers (weights p_k, means m_k, covariances C_k)
together with level probabilities of the categories. Let v contain the known cells and the targets x
with noise of variance gamma. In component k these have the covariance ``A_k = C_k + diag(gamma for
targets, 0 for known cells)``. With ``w_k = A_k^-1 (v - m_k)`` and responsibilities ``r_k``,
proportional to ``p_k N(v; m_k, A_k)`` times the probabilities of known levels, the mixture's
denoiser is ``D = x - gamma w``, ``w = sum_k r_k w_k``. The variance of its error is

    s^2 = gamma (1 - gamma sum_k r_k ((A_k^-1)_ii - (w_k - w)^2)).
"""

from collections.abc import Sequence
from copy import copy
from math import log, pi

import torch
from torch import Tensor, nn

ABSENT, ASKED, KNOWN = -1, 0, 1
"""States of cells: missing, target of the query, and condition."""
EXACT, NOTHING = 1e-5, 1e10
"""Noise variances that represent exactly known and unknown cells.

The first is positive, so that covariances of linearly dependent columns have an inverse.
"""
FAR = 4.0
"""Maximum noise, in standard deviations."""
FEWEST_ALIKE = 16
"""Least mean number of rows with one inverse for a product of their own."""
MOST_SWEPT = 32
"""Largest number of rows of matrices that are inverted by sweeps."""
LEAST = 1e-8
"""Minimum variance of an error, in units of the noise variance."""


class StartMixture(nn.Module):
    """Initial model of a network for rows of numbers and categories: a mixture of M components.

    A component is a normal distribution of the D numbers, with independent probabilities of the
    levels of each category. The categories have K levels together.

    Before a fit, all components are equal.

    Args:
        dim: D, the number of numeric columns.
        level_counts: Number of levels of each category.
        components: M, the number of components.

    Attributes:
        weights: Weights of the components ``[M]``.
        means: Means of the numbers ``[M, D]``.
        covariances: Covariances of the numbers ``[M, D, D]``.
        shares: Probabilities of the levels ``[M, K]``, which add to 1 in each category.
        reach: Maximum distance of numbers from 0 ``[D]``.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    shares: Tensor
    reach: Tensor

    def __init__(self, dim: int, level_counts: Sequence[int], components: int):
        super().__init__()
        means = torch.zeros(components, dim, dtype=torch.float64)
        shares = [1 / count for count in level_counts for _ in range(count)]
        self.hold(
            torch.full((components,), 1 / components, dtype=torch.float64),
            means,
            torch.eye(dim, dtype=torch.float64).repeat(components, 1, 1),
            torch.tensor([shares] * components, dtype=torch.float64),
            torch.full((dim,), torch.inf, dtype=torch.float64),
        )

    def hold(
        self, weights: Tensor, means: Tensor, covariances: Tensor, shares: Tensor, reach: Tensor
    ) -> None:
        """Set all parameters of the mixture, which have the shapes of the attributes."""
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("covariances", covariances)
        self.register_buffer("shares", shares)
        self.register_buffer("reach", reach)

    def start(
        self, x: Tensor, gamma: Tensor, values: Tensor, states: Tensor, level_known: Tensor
    ) -> "Start":
        """Return the closed-form denoiser of noisy target numbers, given known values.

        Args:
            x: Targets with noise ``[B, D]``, float64.
            gamma: Noise variance ``[1]`` or ``[B, 1]``.
            values: Values of known numbers ``[B, D]``.
            states: States of the numbers ``[B, D]``: ``ABSENT``, ``ASKED`` (a target) or ``KNOWN``.
            level_known: Indicators of known levels ``[B, K]``.
        """
        at = torch.where(states == KNOWN, values, (states == ASKED) * x)
        w, log_r, inverse, places = self._joint(at, states, level_known, gamma)
        return Start(x, gamma, self.reach, w, log_r.softmax(dim=1), inverse, places)

    def log_levels(self, values: Tensor, states: Tensor, level_known: Tensor) -> Tensor:
        """Return the log probabilities ``[B, K]`` of levels, given known numbers and levels.

        Args:
            values: Values of known numbers ``[B, D]``.
            states: States of the numbers ``[B, D]``: ``ABSENT``, ``ASKED`` (a target) or ``KNOWN``.
            level_known: Indicators of known levels ``[B, K]``.
        """
        log_r = self._given(values, states, level_known)[2]
        return (log_r.softmax(dim=1) @ self.shares).log()

    def log_prob(self, values: Tensor, states: Tensor, gamma: Tensor) -> Tensor:
        """Return log densities ``[B]`` of the targets under the mixture, given the known numbers.

        Args:
            values: Values ``[B, D]`` of targets and known numbers, float64.
            states: States of the numbers ``[B, D]``: ``ABSENT``, ``ASKED`` (a target) or ``KNOWN``.
            gamma: Noise variance of the targets ``[1]``.
        """
        no_levels = values.new_zeros(len(values), self.shares.shape[1])
        asked = states == ASKED
        both = self._joint(values, states, no_levels, gamma)[1]
        others = states.masked_fill(asked, ABSENT)
        rest = self._joint(values, others, no_levels, gamma)[1]
        # Absent numbers have a density too, that of their noise.
        idle = asked.sum(dim=1) * log(2 * pi * NOTHING) / 2
        return both.logsumexp(dim=1) - rest.logsumexp(dim=1) - idle

    def given(
        self, place: int, values: Tensor, states: Tensor, level_known: Tensor
    ) -> "ConditionalStart":
        """Return the closed-form denoiser of a single number, given all known cells.

        Args:
            place: Index of the target number.
            values: Values of known numbers ``[B, D]``, float64.
            states: States of the numbers ``[B, D]``: ``ABSENT``, ``ASKED`` (a target) or ``KNOWN``.
            level_known: Indicators of known levels ``[B, K]``.
        """
        cells, off, log_r, inverse, places = self._given(values, states, level_known)
        shared = self.covariances[:, cells, place]
        slopes = (inverse @ shared[..., None])[..., 0]
        precisions = inverse.diagonal(dim1=-2, dim2=-1)
        if len(inverse) > 1:
            slopes, precisions = slopes[places], precisions[places]
        variances = self.covariances[:, place, place] - (shared * slopes).sum(dim=-1)
        means, reach = self.means[:, place] + (off * shared).sum(dim=-1), self.reach[place]
        return ConditionalStart(
            means.clamp(-reach, reach),
            variances.clamp(min=LEAST).expand(len(off), -1),
            log_r.log_softmax(dim=1),
            cells,
            off,
            slopes,
            precisions,
        )

    def _given(
        self, values: Tensor, states: Tensor, level_known: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the indices of numbers that any row knows, and ``_joint`` of these numbers."""
        known = states == KNOWN
        cells = known.any(dim=0).nonzero()[:, 0]
        if not len(cells):
            cells = cells.new_zeros(1)  # an absent one
        noise = torch.where(known, states, float(ABSENT))[:, cells]
        return cells, *self._joint(values[:, cells], noise, level_known, values.new_zeros(1), cells)

    def _joint(
        self,
        values: Tensor,
        states: Tensor,
        level_known: Tensor,
        gamma: Tensor,
        cells: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``w_k [B, M, D]``, log ``r_k [B, M]`` up to a constant, and ``A_k^-1``.

        Rows with the same states and noise share one inverse: there are U, ``[U, M, D, D]``, and
        the index of that of each row, ``[B]``.

        Args:
            values: Values of known numbers and targets ``[B, D]``.
            states: States of the numbers ``[B, D]``: ``ABSENT``, ``ASKED`` (a target) or ``KNOWN``.
            level_known: Indicators of known levels ``[B, K]``.
            gamma: Noise variance ``[1]`` or ``[B, 1]``.
            cells: Indices of the D numbers; None for all.
        """
        means, covariances = self.means, self.covariances
        if cells is not None:
            means, covariances = means[:, cells], covariances[:, cells][:, :, cells]
        with torch.no_grad():
            places, first = alike(states, gamma)
            states, gamma = states[first], gamma.expand(len(places), 1)[first]
            # Absent cells have so much noise that they are uninformative.
            noise = torch.where(
                states == ASKED, gamma, torch.where(states == KNOWN, EXACT, NOTHING)
            )
            inverse, log_det = inverted(covariances + torch.diag_embed(noise)[:, None])
        off = values - means[:, None]  # by component first
        if len(inverse) * FEWEST_ALIKE <= len(values) or len(inverse) == 1:
            # One product per component and inverse is many times faster than one per row.
            w = torch.empty_like(off)
            for at, own in enumerate(inverse):
                rows = (places == at).nonzero()[:, 0] if len(inverse) > 1 else slice(None)
                w[:, rows] = off[:, rows] @ own
        else:
            w = (inverse[places] @ off.transpose(0, 1)[..., None])[..., 0].transpose(0, 1)
        squares = torch.einsum("mbd,mbd->bm", off, w)
        log_r = self.weights.log() - (log_det[places] + squares) / 2
        return w.transpose(0, 1), log_r + level_known @ self.shares.log().T, inverse, places


class Start:
    """Denoiser of noisy targets by the initial mixture, expressed as a network output F.

    Args:
        x: Targets with noise ``[B, D]``, float64.
        gamma: Noise variance ``[1]`` or ``[B, 1]``.
        reach: Maximum distance of numbers from 0 ``[D]``.
        w: Deviations ``w_k [B, M, D]`` from the means of the components, times ``A_k^-1``.
        r: Responsibilities ``r_k [B, M]`` of the components.
        inverse: Inverse covariances ``A_k^-1 [U, M, D, D]`` of the components with noise.
        places: Index ``[B]`` of the inverse of each row.

    Attributes:
        value: Network output F ``[B, D]`` that corresponds to the denoiser.
        size: Standard deviations of the residuals of F ``[B, D]``.
        slopes: Derivatives ``dF_i / dz_i [B, D]``, where z is x scaled to unit variance.
    """

    def __init__(
        self,
        x: Tensor,
        gamma: Tensor,
        reach: Tensor,
        w: Tensor,
        r: Tensor,
        inverse: Tensor,
        places: Tensor,
    ):
        self._gamma, self._r, self._inverse, self._places = gamma, r, inverse, places
        mean = (r[..., None] * w).sum(dim=1)
        self._off = w - mean[:, None]
        self._of_each = self._by_row(inverse.diagonal(dim1=-2, dim2=-1)) - self._off.square()
        steep = (r[..., None] * self._of_each).sum(dim=1)  # dw_i / dx_i
        value = (gamma * (1 + gamma)).sqrt() * (x / (1 + gamma) - mean)
        most = (gamma.sqrt() * reach + FAR) / (1 + gamma).sqrt()
        self.value = value.clamp(-most, most)
        self._left = (1 + gamma) * (1 - gamma * steep)
        self.size = self._left.clamp(LEAST, 1.0).sqrt()
        slopes = gamma.sqrt() * (1 - (1 + gamma) * steep)
        self.slopes = torch.where(self.value == value, slopes, 0.0)

    def slopes_of_sizes(self, place: int) -> Tensor:
        """Return the derivatives ``d size_i / dz_j [B, D]`` of all sizes by one input j.

        With ``u_k = w_k - w``, the sizes depend on ``s_i = sum_k r_k ((A_k^-1)_ii - u_ki^2)``,
        whose derivatives are ``ds_i/dx_j = -sum_k r_k (u_kj ((A_k^-1)_ii - u_ki^2) + 2 u_ki
        (A_k^-1)_ij)``.

        Args:
            place: Index j of the input.
        """
        gamma, r, off = self._gamma, self._r[..., None], self._off
        along = off[..., place, None] * self._of_each
        along = along + 2 * off * self._by_row(self._inverse[..., place])
        slopes = (1 + gamma) ** 1.5 * gamma * (r * along).sum(dim=1) / (2 * self.size)
        return torch.where((self._left > LEAST) & (self._left < 1), slopes, 0.0)

    def _by_row(self, values: Tensor) -> Tensor:
        """Return values ``[B or 1, ...]`` of rows, given those of inverses, ``[U, ...]``."""
        return values if len(values) == 1 else values[self._places]


class ConditionalStart:
    """Denoiser of a single noisy number by the initial mixture, given the known cells of its row.

    Let y be the known cells, ``B_k`` the inverse of their covariance in component k, and ``c_k``
    their covariance with the target x. Given y, x has a mixture of normal distributions with

        m_k = mu_k + c_k' B_k (y - mu_yk),    v_k = C_k,xx - c_k' B_k c_k,

    which do not depend on the noise. By block inversion, with ``s_k = 1 / (v_k + gamma)``, ``g_k =
    B_k c_k`` and ``d_k = s_k (x - m_k)``,

        w_kx = d_k,                                 (A_k^-1)_xx = s_k,
        w_kj = (B_k (y - mu_yk))_j - g_kj d_k,      (A_k^-1)_jj = (B_k)_jj + g_kj^2 s_k.

    An evaluation takes M numbers per cell of a row; ``Start`` takes M matrices. They are in single
    precision, like the layers of the network. In rows with contradictory values the means are
    bounded, rather than F: a target far from its mean keeps its distance in standard deviations.

    Args:
        means: Means ``m_k [B, M]``, float64.
        variances: Variances ``v_k [B, M]``.
        log_r: Log probabilities ``[B, M]`` of the components, given y.
        cells: Indices ``[K]`` of the numbers that are known in any row.
        off: Deviations ``B_k (y - mu_yk) [B, M, K]``.
        slopes: Slopes ``g_k [B or 1, M, K]`` of the means.
        precisions: Diagonals of ``B_k [B or 1, M, K]``.

    Attributes:
        mean: Mean of the target given y, ``[B]``, float64.
        variance: Variance of the target given y, ``[B]``.
        within: Fraction ``[B]`` of this variance that is within components; small if the
            distribution has separate modes.
    """

    def __init__(
        self,
        means: Tensor,
        variances: Tensor,
        log_r: Tensor,
        cells: Tensor,
        off: Tensor,
        slopes: Tensor,
        precisions: Tensor,
    ):
        r, self.cells = log_r.exp(), cells
        self.mean = (r * means).sum(dim=1)
        within = (r * variances).sum(dim=1)
        self.variance = within + (r * (means - self.mean[:, None]).square()).sum(dim=1)
        self.within = within / self.variance
        self._means, self._variances, self._log_r = means.float(), variances.float(), log_r.float()
        self._off = torch.cat([off, off.square()], dim=2).float()
        self._crossed = (off * slopes).float()
        self._slopes, self._precisions = slopes.float(), precisions.float()
        self._squared = slopes.square().float()

    def at(self, rows: Tensor) -> "ConditionalStart":
        """Select rows by their indices."""
        some = copy(self)
        for name, values in vars(self).items():
            shared = name in ("_slopes", "_precisions", "_squared") and len(values) == 1
            if isinstance(values, Tensor) and name != "cells" and not shared:
                setattr(some, name, values[rows])
        return some

    def __call__(self, x: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the target's F and its size ``[B, Q]``, and the sizes of cells ``[B, Q, K]``.

        See ``Start``. Absent cells have size 1.

        Args:
            x: Targets with noise, Q in each row, ``[B, Q]``, float32.
            gamma: Noise variances ``[B, 1]``.
        """
        s = 1 / (self._variances + gamma)
        off = x[..., None] - self._means[:, None]
        d, s = off * s[:, None], s[:, None]
        r = (self._log_r[:, None] + (s.log() - off * d) / 2).softmax(dim=2)
        rd = r * d
        mean = rd.sum(dim=2)
        value = (gamma * (1 + gamma)).sqrt() * (x / (1 + gamma) - mean)
        steep = (r * (s - (d - mean[..., None]).square())).sum(dim=2)
        # Sums over components of w_kj and of w_kj^2, expanded in its two terms.
        w, squares = (r @ self._off).tensor_split(2, dim=2)
        w = w - _times(rd, self._slopes)
        inverse = _times(r, self._precisions) + _times(r * s - rd * d, self._squared)
        steeps = inverse - squares + 2 * (rd @ self._crossed) + w.square()
        noise = gamma[..., None]
        sizes = ((1 + noise) * (1 - noise * steeps)).clamp_(LEAST, 1.0).sqrt_()
        size = ((1 + gamma) * (1 - gamma * steep)).clamp_(LEAST, 1.0).sqrt_()
        return value, size, sizes


def _times(weights: Tensor, values: Tensor) -> Tensor:
    """Return the sums ``[B, Q, K]`` of ``values [B or 1, M, K]``, weighted by ``[B, Q, M]``."""
    return weights @ (values[0] if len(values) == 1 else values)


def alike(states: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Group rows with equal states and equal noise.

    Args:
        states: States of values ``[B, D]``, as integers.
        gamma: Noise variance ``[1]`` or ``[B, 1]``.

    Returns:
        The index of the group of each row ``[B]``, and the index of one row of each of U groups
        ``[U]``.
    """
    if gamma.ndim == 1 and bool((states == states[:1]).all()):  # for example, all draws of a flow
        return states[:, 0].long() * 0, states[:1, 0].long() * 0
    _, places = torch.unique(gamma.expand(len(states), 1), return_inverse=True)
    places = places[:, 0]
    # Encodes rows as digits of base 3, since torch.unique compares rows one by one.
    for part in torch.split(states.long() - ABSENT, 24, dim=1):
        digits = 3 ** torch.arange(part.shape[1], device=part.device)
        key = places * 3 ** part.shape[1] + (part * digits).sum(dim=1)
        _, places = torch.unique(key, return_inverse=True)
    rows = torch.arange(len(places), device=places.device)
    count = int(places.max()) + 1 if len(places) else 0
    return places, rows.new_empty(count).scatter_(0, places, rows)


def inverted(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverses ``[..., D, D]`` and log determinants of positive definite matrices.

    Small matrices are inverted together by sweeps (Goodnight 1979); one library call per matrix
    would take up to three times as long. Larger ones are factorized by Cholesky's method.
    """
    dim = matrices.shape[-1]
    if dim > MOST_SWEPT:
        factor = torch.linalg.cholesky(matrices)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return torch.cholesky_inverse(factor), log_det
    swept = matrices.reshape(-1, dim, dim).permute(1, 2, 0).contiguous()
    log_det = torch.zeros_like(swept[0, 0])
    for k in range(dim):
        pivot = swept[k, k].clone()
        log_det += pivot.log()
        row, column = swept[k] / pivot, swept[:, k].clone()
        column[k] = 0
        swept.addcmul_(column[:, None], row[None], value=-1)
        swept[k], swept[:, k], swept[k, k] = row, -column / pivot, 1 / pivot
    inverses = swept.permute(2, 0, 1).contiguous()
    return inverses.view(matrices.shape), log_det.view(matrices.shape[:-2])
