"""Elliptical slice sampling (Murray, Adams and MacKay 2010, figure 2): on an ellipse through the
state and a draw of the prior, an angle is drawn from a bracket that shrinks until the likelihood is
above a random level. There is nothing to tune.
"""

from math import pi

import torch
from torch import Tensor

from training.inference.noise import Noise
from training.inference.samplers.chains import Chains, Kernel
from training.inference.target import Evaluated

MOST = 100
"""Shrinkings of a bracket, after which a chain stays where it is: the bracket is then a 1e-30th."""


class Elliptical(Kernel):
    """A step is one sweep of the bracket; chains that are done wait for the others, at no cost."""

    name = "elliptical"

    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
        nu = noise.normal(index, self.target.dim).flatten(0, 1)
        uniform = noise.uniform(index, MOST + 2).flatten(0, 1)
        which, start = state.which, state.w
        level = state.evaluated.log_likelihood + uniform[:, 0].log()
        angle = 2 * pi * uniform[:, 1]
        low, high = angle - 2 * pi, angle.clone()
        points, log_likelihood = (part.clone() for part in state.evaluated)
        w, active = start.clone(), torch.arange(len(start), device=start.device)
        shrinkings = torch.zeros_like(level)
        for trial in range(MOST):
            turn = angle[active, None]
            proposed = start[active] * turn.cos() + nu[active] * turn.sin()
            evaluated = self.target.evaluate(proposed, which[active])
            fits = evaluated.log_likelihood > level[active]
            done, active = active[fits], active[~fits]
            w[done], points[done] = proposed[fits], evaluated.points[fits]
            log_likelihood[done] = evaluated.log_likelihood[fits]
            if not len(active):
                break
            shrinkings[active] += 1
            below = angle[active] < 0
            low[active] = torch.where(below, angle[active], low[active])
            high[active] = torch.where(below, high[active], angle[active])
            width = high[active] - low[active]
            angle[active] = low[active] + width * uniform[active, trial + 2]
        state.w, state.evaluated = w, Evaluated(points, log_likelihood)
        return state.by_observation(1 / (1 + shrinkings)).mean(dim=1)
