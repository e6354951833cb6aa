"""Preconditioned Crank-Nicolson (Cotter, Roberts, Stuart and White 2013, algorithm 1.1):

    w' = sqrt(1 - b^2) w + b xi,    xi ~ N(0, I),    accepted with probability min(1, L(w') / L(w)).

The proposal keeps the prior, so that only the likelihood L decides, and the acceptance does not
fall with the number of dimensions.
"""

import torch
from torch import Tensor

from training.inference.noise import Noise
from training.inference.samplers.chains import Chains, Kernel
from training.inference.target import Target

WANTED = 0.3
"""Acceptance to adapt to: near what is best for random walks (Roberts and Rosenthal 2001)."""
FIRST, LEAST = 0.5, 1e-4


class CrankNicolson(Kernel):
    """A step of b, which is adapted for each observation.

    Args:
        target: The posterior.
    """

    name = "pcn"

    def __init__(self, target: Target):
        super().__init__(target)
        self.size = torch.full((target.count,), FIRST, dtype=torch.float64, device=target.device)

    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
        xi = noise.normal(index, self.target.dim).flatten(0, 1)
        uniform = noise.uniform(index, 1).flatten()
        size = self.size[state.which][:, None]
        w = (1 - size.square()).sqrt() * state.w + size * xi
        proposed = Chains(w, self.target.evaluate(w, state.which), state.chains)
        gain = proposed.evaluated.log_likelihood - state.evaluated.log_likelihood
        gain = gain.nan_to_num(nan=-torch.inf)  # from nowhere to nowhere
        state.take(uniform.log() < gain, proposed)
        return state.by_observation(gain.exp().clamp_max(1)).mean(dim=1)

    def adapt(self, state: Chains, acceptance: Tensor, index: int, warmup: int) -> None:
        change = (acceptance - WANTED) / (index + 1) ** 0.5
        self.size = (self.size.log() + change).exp().clamp(LEAST, 1)

    def stats(self) -> dict[str, Tensor]:
        return {"step_size": self.size.cpu()}
