"""Two samplers of inverse problems as others write them, from the equations of their papers.

Both come down the noise levels ``g_K > ... > g_0`` of a flow that keeps all dimensions, from
the flow's own latents. Their papers have states scaled by ``a = (1 + g)^(-1/2)``; here they are
not, which is the same. With ``D = D(x, g)`` and ``r = y - A D``:

DPS (Chung, Kim, Mccann, Klasky and Ye 2023, algorithm 1) takes a step of the prior and follows the
gradient of the misfit through the denoiser, in units of the scaled states,

    x' ~ N(x + (1 - g' / g) (D - x), g' (g - g') / g),
    x' <- x' - zeta / (a a') (d|r|^2 / dx) / |r|;

DiffPIR (Zhu, Zhang, Liang, Cao, Wen, Timofte and Van Gool 2023, algorithm 1) solves a proximal
problem at the denoised point and adds noise again, of which a part zeta is new,

    x0 = argmin |y - A x|^2 + (lambda sigma^2 / g) |x - D|^2,
    x' = x0 + g'^(1/2) ((1 - zeta)^(1/2) (x - x0) / g^(1/2) + zeta^(1/2) e).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.inference.lookahead import LinearObservation
from training.inference.target import Target

DPS_STEPS, DPS_ZETA = 1000, 1.0
DIFFPIR_STEPS, DIFFPIR_LAMBDA, DIFFPIR_ZETA = 100, 1.0, 0.1
"""As in the papers' experiments: 1,000 and 100 calls; zeta of DPS from 0.3 to 1, lambda and zeta of
DiffPIR as its authors' settings for deblurring."""


def dps(target: Target, draws: int, generator: torch.Generator) -> Tensor:
    """Draws ``[M, S, D]`` of the target's observations. A gradient counts as two more calls."""

    def step(x: Tensor, t: Tensor, here: Tensor, there: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            denoised = target.prior.flow.denoiser(leaf, t)
            misfit = (observed - denoised @ operator.T).norm(dim=1)
            # d|r|^2 / |r| = 2 d|r|
            (slope,) = torch.autograd.grad(2 * misfit.sum(), leaf)
        target.calls += 3 * len(x)
        spread = (there * (here - there) / here).sqrt()
        made = x + (1 - there / here) * (denoised.detach() - x) + spread * normal(x, generator)
        return made - DPS_ZETA * ((1 + here) * (1 + there)).sqrt() * slope

    operator, observed = _seen(target, draws)
    return _down(target, draws, DPS_STEPS, generator, step)


def diffpir(target: Target, draws: int, generator: torch.Generator) -> Tensor:
    """The same."""
    operator, observed = _seen(target, draws)
    variance = (
        target.prior.unit**2 * LinearObservation.from_target(target).covariance[0].diagonal().mean()
    )
    square, axes = torch.linalg.eigh(operator.T @ operator)
    back = observed @ operator @ axes

    def step(x: Tensor, t: Tensor, here: Tensor, there: Tensor) -> Tensor:
        with torch.no_grad():
            denoised = target.prior.flow.denoiser(x, t)
        target.calls += len(x)
        rho = DIFFPIR_LAMBDA * variance / here
        near = ((back + rho * denoised @ axes) / (square + rho)) @ axes.T
        noise = (1 - DIFFPIR_ZETA) ** 0.5 * (x - near) / here.sqrt()
        return near + there.sqrt() * (noise + DIFFPIR_ZETA**0.5 * normal(x, generator))

    return _down(target, draws, DIFFPIR_STEPS, generator, step)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def _seen(target: Target, draws: int) -> tuple[Tensor, Tensor]:
    """``A [K, D]``, and what was observed of each draw ``[M S, K]``, in the units of the flow."""
    linear, unit = LinearObservation.from_target(target), target.prior.unit
    return unit * linear.operator, unit * linear.observed.repeat_interleave(draws, dim=0)


def _down(
    target: Target,
    draws: int,
    steps: int,
    generator: torch.Generator,
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    flow = target.prior.flow
    times = flow.times(steps)
    variances = flow.schedule.noise_variance(times)[:, 0].double()
    which = torch.arange(target.count).repeat_interleave(draws)
    w = torch.randn(len(which), target.dim, generator=generator, dtype=torch.float64)
    x = target.melted(w, which)
    for index in range(steps, 0, -1):
        x = step(x, times[index], variances[index], variances[index - 1])
    return target.of_states(x, which).view(target.count, draws, -1)
