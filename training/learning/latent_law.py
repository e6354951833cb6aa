"""Fits of the law of latents, of which there are several candidates.

Candidates differ in what a mixture may depend on; the one with the highest log density on latents
that were not trained on wins. All start as the closed-form Gaussian, which is a candidate itself.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import cos, inf, pi
from typing import Any

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.latent.conditional import LOG_ROOT, ConditionalMixture

LOOKS = 40
"""How often held-out latents are looked at. The fit of a law goes on to its end, where the rate is
low, however they look: there it gains most of what is left."""
STEPS_PER_ROW, FEWEST_STEPS = 200, 100
"""A fit to few latents takes fewer steps: so many passes."""
LONGEST_GRADIENT = 5.0
LEAST_GAIN = 1e-3
"""Nats on held-out latents for which a learned law is worth its complexity."""
LEAST_ERRORS = 3
"""Their standard errors in a gain that is no chance: it is the best of several candidates and of
many looks, and of a few dozen latents two would mislead."""


@dataclass(frozen=True)
class Candidate:
    """A form of the law, and how to fit it.

    Attributes:
        name: What reports call it.
        sizes: Arguments of the mixture, but for the dimensions.
        steps: Of training, at most.
        batch: Latents of a step.
        rate: The first learning rate; it falls to zero along a cosine.
        decay: Weight decay.
        principal: Whether compressed latents are turned to their principal axes.
        patience: Looks without a better one that end the fit; None for none.
    """

    name: str
    sizes: Mapping[str, Any]
    steps: int
    batch: int
    rate: float
    decay: float = 0.0
    principal: bool = False
    patience: int | None = None


CHAINED = Candidate("chained mixtures", {"components": 12}, 4000, 512, 2e-3, decay=0.3)
FREE = Candidate("mixtures", {"chained": False, "components": 5, "waves": 0}, 2000, 128, 2e-3, 0.1)
TURNED = replace(FREE, name="mixtures along principal axes", principal=True)
GENTLE = replace(FREE, name="mixtures in small steps", rate=1e-4)
"""For latents that are few, or nearly normal: large steps leave what there is to gain behind before
held-out latents are looked at for the first time."""
MOST_CHAINED = 8
"""Compressed dimensions that are chained at most: draws of each wait for those before it."""


def candidates_for(compressed: int) -> Sequence[Candidate]:
    return (CHAINED,) if compressed <= MOST_CHAINED else (FREE, GENTLE, TURNED)


@dataclass(frozen=True)
class Latents:
    """Standardized latents to fit to, and others to judge by: each ``[N, D]``, float64."""

    train: Tensor
    held_out: Tensor

    @classmethod
    def split(cls, latents: Tensor, seed: int, share: float = 0.2) -> "Latents":
        """A random share of them is held out."""
        generator = seeded_generator("cpu", seed, Stream.SPLIT)
        order = torch.randperm(len(latents), generator=generator)
        count = max(1, round(share * len(latents)))
        return cls(latents[order[count:]], latents[order[:count]])


@dataclass(frozen=True)
class Fitted:
    """A law that was fitted.

    Attributes:
        mixture: The law of the compressed dimensions.
        name: Which candidate it is.
        nats: Log density of held-out latents, less that of the Gaussian, in the mean.
        error: Its standard error; infinite of one point.
    """

    mixture: ConditionalMixture
    name: str
    nats: float
    error: float

    @property
    def is_better(self) -> bool:
        """Whether it is better than the Gaussian, and not by chance."""
        return self.nats > max(LEAST_GAIN, LEAST_ERRORS * self.error)


def fit(
    latents: Latents,
    kept: int,
    candidate: Candidate,
    seed: int,
    on_look: Callable[[], object] | None = None,
) -> Fitted:
    """Fits one candidate.

    Args:
        latents: Standardized ones.
        kept: How many dimensions are kept, and the law is conditioned on.
        candidate: Which.
        seed: Of the first weights and of the batches.
        on_look: Called as often as ``LOOKS``.
    """
    torch.manual_seed(seed)
    count, dim = latents.train.shape
    mixture = ConditionalMixture(kept, dim - kept, **candidate.sizes).float()
    if candidate.principal:
        _turn(mixture, latents.train[:, kept:])
    train, held_out = (_parts(rows, kept) for rows in (latents.train, latents.held_out))
    optimizer = torch.optim.AdamW(
        mixture.parameters(), lr=candidate.rate, weight_decay=candidate.decay
    )
    steps = min(candidate.steps, max(FEWEST_STEPS, STEPS_PER_ROW * count // candidate.batch))
    batch, every = min(candidate.batch, count), max(1, steps // LOOKS)
    generator = seeded_generator("cpu", seed, Stream.DATA)
    best, weights, best_step = _score(mixture, *held_out), deepcopy(mixture.state_dict()), 0
    patience = LOOKS if candidate.patience is None else candidate.patience
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = candidate.rate * (1 + cos(pi * step / steps)) / 2
        rows = torch.randint(count, (batch,), generator=generator)
        loss = -mixture.log_prob(train[0][rows], train[1][rows]).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(mixture.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        if (step + 1) % every:
            continue
        if on_look:
            on_look()
        score = _score(mixture, *held_out)
        if score > best:
            best, weights, best_step = score, deepcopy(mixture.state_dict()), step
        elif step - best_step >= patience * every:
            break
    mixture.load_state_dict(weights)
    mixture = mixture.double().eval().requires_grad_(False)
    kept_rows, compressed = latents.held_out[:, :kept], latents.held_out[:, kept:]
    normal = -(compressed.square() / 2 + LOG_ROOT).sum(dim=1)
    gain = mixture.log_prob(kept_rows, compressed) - normal
    error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else inf
    return Fitted(mixture, candidate.name, float(gain.mean()), error)


def _parts(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    return rows[:, :kept].float(), rows[:, kept:].float()


@torch.no_grad()
def _score(mixture: ConditionalMixture, kept: Tensor, compressed: Tensor) -> float:
    return float(mixture.log_prob(kept, compressed).mean())


def _turn(mixture: ConditionalMixture, compressed: Tensor) -> None:
    """Puts the principal axes of compressed latents ``[N, C]``, scaled to variance 1, in place."""
    centered = compressed - compressed.mean(dim=0)
    variance, axes = torch.linalg.eigh(centered.T @ centered / len(centered))
    least = 1e-3 * variance.max()
    mixture.offset.copy_(compressed.mean(dim=0))
    mixture.axes.copy_((axes * variance.clamp_min(least).rsqrt()).T)
