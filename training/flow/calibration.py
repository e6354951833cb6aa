"""Second-moment calibration of a network denoiser, so that a melt has the variances it should.

Along the probability-flow ODE an unscaled state obeys ``dx_i/dt = (r_i/2) (x_i - D_i)`` with
``r_i = d log gamma_i / dt``, hence

    d E[x_i^2] / dt = r_i E[x_i (x_i - D_i)].

Let ``c_i = xi_i / (xi_i + gamma_i)`` be the best linear denoiser. If ``E[(D_i - c_i x_i) x_i] = 0``
at all times, the right side is ``r_i gamma_i E[x_i^2] / (xi_i + gamma_i)``, so that ``E[x_i^2]``
stays in proportion to ``xi_i + gamma_i(t)``, the closed form. The optimal denoiser has this
property (regression leaves a rest that is uncorrelated with its input); a trained network F has it
but nearly. With ``z = c_in x`` the missing part is one number per dimension and time,

    beta_i(t) = E[F_i z_i] / E[z_i^2] - tau_i,     tau_i = sqrt(gamma_i / v_i) (xi_i - v_i)
                                                           / (xi_i + gamma_i),

and F - beta z in place of F mends it. ``v`` is the data variance that the preconditioning counts
on; tau vanishes where it is the data's own, and else is the slope that takes the preconditioning's
linear denoiser to the best one.

Means over which points? ``marginal`` takes clean data plus noise, the law p_t that F was trained
on. ``path`` takes the states at which the calibrated flow itself has arrived, starting from p at
the first time: errors of the law that the flow makes earlier count, and the variances of a melt
come out right by construction. It goes from node to node by Heun's method for
``y_i = x_i / sqrt(xi_i + gamma_i)``, in which the linear part of the ODE is gone:

    dy_i/dt = (r_i/2) (c_i x_i - D_i) / sqrt(xi_i + gamma_i),

with beta fitted anew to the states of each of the two stages.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from training.flow.calls import BlockwiseDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.preconditioning import Preconditioning
from training.flow.schedules import NoiseSchedule

METHODS = ("path", "marginal")
NODES = 17
"""Times at which beta is fitted. With 9, 17, 33 of them, melted variances of a network of digits
were 1.0, 0.2, 0.1 % off in the mean over its kept dimensions, where they had been 48 % off."""

BLOCK = 250
"""Points of one network call: little memory without gradients, and nearly full speed."""

# Streams of random numbers: what a generator seeded by (seed, stream, step) is for. Batches and
# the loop have those below.
NOISE_STREAM = 4


class Calibration(nn.Module):
    """What to subtract from a network's output, ``slope(t) * z``.

    Between its nodes the slope is a natural cubic spline (de Boor, *A Practical Guide to Splines*,
    chapter IV): two continuous derivatives let solvers of high order keep their accuracy, which the
    kinks of linear interpolation would end at about 1e-6.

    Args:
        times: Increasing ``[K]``, at least two.
        slopes: ``beta [K, D]`` at these times.

    Raises:
        ValueError: They do not belong together, or are not finite float64.
    """

    times: Tensor
    slopes: Tensor
    bends: Tensor

    def __init__(self, times: Tensor, slopes: Tensor):
        super().__init__()
        if times.ndim != 1 or slopes.ndim != 2 or len(times) != len(slopes) or len(times) < 2:
            shapes = f"times {tuple(times.shape)} and slopes {tuple(slopes.shape)}"
            raise ValueError(f"a calibration of {shapes}: it needs [K] and [K, D], K at least 2")
        if times.dtype != torch.float64 or slopes.dtype != torch.float64:
            raise ValueError("a calibration must be in float64")
        if not (times.isfinite().all() and slopes.isfinite().all()):
            raise ValueError("a calibration must be finite")
        if (times.diff() <= 0).any():
            raise ValueError("the times of a calibration must increase")
        self.register_buffer("times", times)
        self.register_buffer("slopes", slopes)
        self.register_buffer("bends", _second_derivatives(times, slopes), persistent=False)

    def slope(self, t: Tensor) -> Tensor:
        """``beta(t) [..., D]`` at times ``[...]``; before and after the nodes, that of the ends."""
        flat = t.reshape(-1).to(self.times).contiguous()
        flat = flat.clamp(self.times[0], self.times[-1])
        after = torch.searchsorted(self.times, flat).clamp(1, len(self.times) - 1)
        # index_select, since indexing by a tensor without dimensions waits for the device.
        nodes = (after - 1, after)
        start, end = (self.times.index_select(0, node) for node in nodes)
        low, high = (self.slopes.index_select(0, node) for node in nodes)
        bend_low, bend_high = (self.bends.index_select(0, node) for node in nodes)
        width = (end - start)[:, None]
        up = ((flat - start) / (end - start))[:, None]
        down = 1 - up
        cubic = (down**3 - down) * bend_low + (up**3 - up) * bend_high
        return (down * low + up * high + width**2 / 6 * cubic).reshape(*t.shape, -1)


def _second_derivatives(times: Tensor, values: Tensor) -> Tensor:
    """Those ``[K, D]`` of the natural cubic spline through values ``[K, D]`` at times ``[K]``."""
    bends = torch.zeros_like(values)
    widths = times.diff()
    if len(widths) > 1:
        inner = torch.diag((widths[:-1] + widths[1:]) / 3)
        inner = inner + torch.diag(widths[1:-1] / 6, 1) + torch.diag(widths[1:-1] / 6, -1)
        rates = values.diff(dim=0) / widths[:, None]
        bends[1:-1] = torch.linalg.solve(inner, rates.diff(dim=0))
    return bends


class CalibratedNetwork(Protocol):
    """What a fit needs to know of a network denoiser."""

    basis: EigenBasis
    schedule: NoiseSchedule
    data_variance: Tensor

    def coefficients(self, t: Tensor) -> Preconditioning: ...

    def residual(self, z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor: ...


def fit_calibration(
    denoiser: CalibratedNetwork,
    points: Tensor,
    times: Tensor,
    seed: int,
    method: str = "path",
    block: int = BLOCK,
    conditions: Mapping[str, Tensor] | None = None,
) -> Calibration:
    """Fits beta at the given times, to the points of all ranks together.

    Args:
        denoiser: With the coefficients of ``ifs``; its own calibration is not looked at.
        points: Clean ``[n, D]`` in eigenspace: this rank's share, as ``distributed.shard`` cuts it.
        times: Increasing ``[K]``; the path starts at the first.
        seed: Of the noise.
        method: A name in ``METHODS``.
        block: Points of one network call.
        conditions: Such as ``labels [n, L]``.

    Raises:
        UsageError: An unknown method.
        ValueError: The network gives values that are not finite.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method '{method}': choose one of {', '.join(METHODS)}")
    clean = points.double()
    times = times.to(clean)
    noise = _noise(clean, seed)
    # A block is filled up to its size: no more than there is to fill it with.
    fit = _Fit(denoiser, min(block, max(1, len(clean))), conditions or {})
    with torch.no_grad():
        slopes = (fit.path if method == "path" else fit.marginal)(clean, noise, times)
    return Calibration(times, slopes)


def _noise(clean: Tensor, seed: int) -> Tensor:
    """Unit noise ``[n, D]`` of this rank's points, a function of the seed and the global row."""
    count = clean.new_tensor([len(clean)])
    total = int(distributed.sum_over_ranks(count))
    generator = seeded_generator("cpu", seed, NOISE_STREAM, 0)
    noise = torch.randn(total, clean.shape[1], generator=generator, dtype=torch.float64)
    return noise[distributed.shard(total)].to(clean.device)


class _Fit:
    """The two fits of one network, and what they share: one evaluation at one time."""

    def __init__(self, denoiser: CalibratedNetwork, block: int, conditions: Mapping[str, Tensor]):
        self._denoiser, self._conditions = denoiser, conditions
        self._residual = BlockwiseDenoiser(denoiser.residual, block)

    def marginal(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """``beta [K, D]`` under the law of the data with noise."""
        slopes = []
        for t in times:
            gamma = self._denoiser.schedule.noise_variance(t)
            states = (clean + gamma.sqrt() * noise) / self._spread(t)
            slopes.append(self._evaluate(states, t)[0])
        return torch.stack(slopes)

    def path(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """``beta [K, D]`` under the laws that the calibrated flow makes."""
        gamma = self._denoiser.schedule.noise_variance(times[0])
        states = (clean + gamma.sqrt() * noise) / self._spread(times[0])
        slope, velocity = self._evaluate(states, times[0])
        slopes = [slope]
        for start, end in pairwise(times):
            step = end - start
            _, predicted = self._evaluate(states + step * velocity, end)
            states = states + step / 2 * (velocity + predicted)
            slope, velocity = self._evaluate(states, end)
            slopes.append(slope)
        return torch.stack(slopes)

    def _spread(self, t: Tensor) -> Tensor:
        """``sqrt(xi + gamma) [D]``: what the states are at t, if all is well."""
        basis, schedule = self._denoiser.basis, self._denoiser.schedule
        return (basis.eigenvalues + schedule.noise_variance(t)).sqrt()

    def _evaluate(self, states: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``beta [D]`` of states ``y [n, D]``, and with it their ``dy/dt [n, D]``.

        ``D - c x`` is ``c_out (F - (beta + tau) z)``, and ``beta + tau`` the slope of F on z.
        """
        data, counted_on = self._denoiser.basis.eigenvalues, self._denoiser.data_variance
        gamma = self._denoiser.schedule.noise_variance(t)
        spread, c = self._spread(t), self._denoiser.coefficients(t)
        z = c.c_in * spread * states
        out = self._residual(z, t, **self._conditions)
        sums = torch.stack([(out * z).sum(0), z.square().sum(0)])
        products, squares = distributed.sum_over_ranks(sums)
        slope = products / squares
        tau = (gamma / counted_on).sqrt() * (data - counted_on) / (data + gamma)
        rest = out - slope * z
        velocity = -self._denoiser.schedule.log_noise_rate(t) / 2 * c.c_out / spread * rest
        return slope - tau, velocity
