"""What a noisy state says of where it ends, and of an observation of that.

With ``x_t = x_0 + n``, where n has the noise that was added after the first time, of variances
``g(t) = gamma(t) - gamma(0)``, Tweedie's formula gives for the state x_0 at the first time

    m(x_t) = E[x_0 | x_t] = D + (gamma(0) / gamma(t)) (x_t - D),        D = D(x_t, t).

How far m is off differs from place to place. Its average over the prior, ``V(t) = E[(x_0 - m)
(x_0 - m)^T]``, is measured on draws of the prior. So y, which is ``A x_0`` with noise R, is about
``N(y; A m, A V A^T + R)``, given x_t.

Columns of tables are curved functions ``h_j`` of what is linear in the state. There the likelihood
of each number seen, times the prior's Gaussian of its column, has its mean and variance taken, and
the Gaussian that is left when the prior's is divided out stands for it (as one step of expectation
propagation; Minka 2001).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.inference.likelihoods import Gaussian
from training.inference.target import Target

PRIOR_DRAWS = 2**11
"""Draws of the prior that V is measured on."""
MOST_DIMENSIONS = 1024
"""Of points, up to which matrices of this size are decomposed at each step."""
GRID, FARTHEST, ZOOMS = 201, 6.0, 4
"""Points of a line that a mean is taken on, its half-length in standard deviations, and how often
it is taken again, on a line about as long as the result."""
LEAST = 1e-3
"""Of the prior's precision, that a number seen adds at least."""


@dataclass(frozen=True)
class Sight:
    """Observations as linear functions of the states x_0, with Gaussian noise.

    Attributes:
        operator: ``A [K, D]``.
        observed: ``[M, K]``, less what is seen of the state 0.
        covariance: ``R [M, K, K]``.
    """

    operator: Tensor
    observed: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, target: Target) -> "Sight":
        """What is seen by the target's observations.

        Raises:
            UsageError: See ``require_lookahead``.
        """
        likelihood = require_lookahead(target)
        coordinates = target.prior.flow.coordinates
        if coordinates is not None and not coordinates.is_linear:
            return _of_columns(target, likelihood)
        dim, device = target.prior.flow.basis.dim, target.device
        which = torch.arange(target.count, device=device)
        zero = torch.zeros(target.count, dim, dtype=torch.float64, device=device)
        offset = likelihood.observe(target.of_states(zero, which))
        unit = torch.eye(dim, dtype=torch.float64, device=device)
        first = torch.zeros(dim, dtype=torch.int64, device=device)
        operator = likelihood.observe(target.of_states(unit, first)) - offset[:1]
        root = likelihood.covariance_root(operator.shape[1])
        covariance = (root @ root.T).expand(target.count, -1, -1)
        return cls(operator.T, target.observed - offset, covariance)


def require_lookahead(target: Target) -> Gaussian:
    """The likelihood, if there is a lookahead on it.

    Raises:
        UsageError: There is none.
    """
    likelihood, prior = target.likelihood, target.prior
    flow, rest = prior.flow, "take another sampler than twisted"
    if not isinstance(likelihood, Gaussian):
        raise UsageError(f"a likelihood of one's own is not looked ahead on: {rest}")
    if prior.deblurred:
        raise UsageError(f"clean points are not looked ahead on: {rest}")
    if flow.basis.dim > MOST_DIMENSIONS:
        raise UsageError(f"points have more than {MOST_DIMENSIONS} dimensions: {rest}")
    if target.labels is not None:
        raise UsageError(f"networks with conditions are not looked ahead with: {rest}")
    if (flow.schedule.log_noise_rate(prior.times[0]) <= 0).any():
        raise UsageError(f"the noise of {flow.schedule.name} does not grow everywhere: {rest}")
    curved = flow.coordinates is not None and not flow.coordinates.is_linear
    if curved and likelihood.operator is not None:
        raise UsageError(
            f"an operator on columns that are curved is not looked ahead on: {rest}, or train with "
            "--marginals=none"
        )
    return likelihood


def looks_ahead(target: Target) -> bool:
    """Whether there is a lookahead on the target's likelihood."""
    try:
        require_lookahead(target)
    except UsageError:
        return False
    return True


def error_covariance(target: Target, ends: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """``V [D, D]`` at time ``t []``, on states x_0 ``[N, D]``, from standard normal ``[N, D]``.

    It is drawn towards its diagonal as if as many draws as there are dimensions had said so.
    """
    first = torch.zeros(len(ends), dtype=torch.int64, device=ends.device)
    error = ends - expected_end(target, ends + _added(target, t).sqrt() * noise, t, first)
    found = error.T @ error / len(error)
    share = len(error) / (len(error) + found.shape[1])
    return share * found + (1 - share) * found.diagonal().diag()


def expected_end(target: Target, states: Tensor, t: Tensor, which: Tensor) -> Tensor:
    """``m [N, D]`` of states ``[N, D]`` at time ``t []``."""
    denoised, schedule = target.denoised(states, t, which), target.prior.flow.schedule
    share = schedule.noise_variance(target.prior.times[0]) / schedule.noise_variance(t)
    return denoised + share * (states - denoised)


def added_noise(target: Target, times: Tensor) -> Tensor:
    """``g [T, D]``, variances of the noise that was added after the first time."""
    return torch.stack([_added(target, t) for t in times])


def prior_ends(target: Target, seed: int) -> tuple[Tensor, torch.Generator]:
    """States x_0 of the prior ``[N, D]``, and what to draw their noise from."""
    generator = seeded_generator("cpu", seed, Stream.LOOKAHEAD)
    w = torch.randn(PRIOR_DRAWS, target.dim, generator=generator, dtype=torch.float64)
    first = torch.zeros(PRIOR_DRAWS, dtype=torch.int64, device=target.device)
    return target.states(w.to(target.device), first), generator


def _added(target: Target, t: Tensor) -> Tensor:
    schedule = target.prior.flow.schedule
    return (schedule.noise_variance(t) - schedule.noise_variance(target.prior.times[0])).double()


def _of_columns(target: Target, likelihood: Gaussian) -> Sight:
    """Where columns are curved: each number seen is of one column, ``y_j = h_j(u_j)``."""
    prior, count = target.prior, target.count
    flow, unit = prior.flow, torch.eye(prior.dim, dtype=torch.float64, device=target.device)
    coordinates = flow.coordinates
    assert coordinates is not None
    offset = coordinates.to_columns(flow.basis.from_eigen(0 * unit[:1]))
    operator = (coordinates.to_columns(flow.basis.from_eigen(unit)) - offset).T
    variance = flow.basis.eigenvalues.double() + flow.schedule.noise_variance(prior.times[0])
    spread = (operator.square() @ variance.double()).sqrt()

    def seen(columns: Tensor) -> Tensor:
        bent = coordinates.bent(columns)
        return likelihood.observe(prior.origin + bent / prior.unit)

    pick = likelihood.observe(torch.arange(prior.dim, device=target.device)[None])[0]
    center, scale = offset[0, pick], spread[pick]
    root = likelihood.covariance_root(len(pick))
    noise = root.norm(dim=1)
    place = torch.linspace(-FARTHEST, FARTHEST, GRID, dtype=torch.float64, device=target.device)
    mean, std = center.expand(count, -1), scale.expand(count, -1)
    for _ in range(ZOOMS):
        grid = mean + place[:, None, None] * std  # [G, M, K]
        columns = offset.expand(GRID * count, -1).clone()
        columns[:, pick] = grid.flatten(0, 1)
        apart = (seen(columns).view(GRID, count, -1) - target.observed) / noise
        weight = -apart.square() / 2 - ((grid - center) / scale).square() / 2
        weight = weight.softmax(dim=0)
        mean = (weight * grid).sum(dim=0)
        # Not below half a step of the grid, lest the next one miss what lies between two points.
        step = std * (place[1] - place[0])
        std = (weight * (grid - mean).square()).sum(dim=0).sqrt().maximum(step / 2)
    prior_precision = scale**-2
    precision = std**-2 - prior_precision
    known = precision > LEAST * prior_precision
    precision = torch.where(known, precision, LEAST * prior_precision)
    place_of_it = (mean / std.square() - center * prior_precision) / precision
    observed = torch.where(known, place_of_it, mean) - center
    return Sight(operator[pick], observed, torch.diag_embed(1 / precision))
