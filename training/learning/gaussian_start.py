"""Fits what a Gaussian says of points given their conditions: ``GaussianPrediction``.

Means and covariances are those of largest likelihood. Of each network other conditions are held
out, with all points that are given with them: the weights that do best there are kept.
"""

from collections.abc import Callable
from math import cos, pi

import torch
from torch import Tensor, nn

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.coordinates.conditions import MEMBERS, GaussianPrediction
from training.learning.soap import Soap

STEPS, RATE, RISE = 2000, 1e-2, 0.1
"""Of a network; its rate rises in a tenth of them, and falls to 0 along a cosine."""
FEW, BATCHES = 5000, (256, 1024)
"""Points up to which batches are of the first size."""
LOOKS = 40
"""How often the part that is held out is looked at."""
HELD_OUT, MOST_HELD_OUT = 0.1, 4096
"""Part of the conditions, and of their points, at most."""
LONGEST = 1.0
"""Of gradients."""


def fit_gaussian(map_: GaussianPrediction, c: Tensor, x: Tensor) -> None:
    """Fits a prediction to standardized conditions ``[N, C]`` and points ``[N, D]``.

    It has random numbers of its own. Where numbers are missing, NaN, it predicts each by itself.
    """
    score = separate_nats if bool(x.isnan().any()) else nats
    _, which = torch.unique(c, dim=0, return_inverse=True)
    for member in range(MEMBERS):
        generator = seeded_generator("cpu", 0, Stream.GAUSSIAN_START, member)
        held_out = (torch.rand(int(which.max()) + 1, generator=generator) < HELD_OUT)[which]
        if held_out.all() or not held_out.any():  # of very few conditions
            held_out = torch.rand(len(c), generator=generator) < HELD_OUT
        train, test = ((c[part].float(), x[part].float()) for part in (~held_out, held_out))
        few = (test[0][:MOST_HELD_OUT], test[1][:MOST_HELD_OUT])
        _fit(map_, member, train, few, generator, score)


def _fit(
    map_: GaussianPrediction,
    member: int,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    generator: torch.Generator,
    score: Callable[[GaussianPrediction, int, Tensor, Tensor], Tensor],
) -> None:
    """Fits one network, which starts as mean 0 and covariance 1."""
    network = map_.members[member].requires_grad_(True)
    _begin(network, generator)
    optimizer = Soap(network.parameters(), lr=RATE)
    best, kept = -torch.inf, _weights(network)
    batch = BATCHES[len(train[0]) > FEW]
    for step in range(STEPS):
        if step % (STEPS // LOOKS) == 0 or step == STEPS - 1:
            with torch.no_grad():
                now = float(score(map_, member, *test))
            if now > best:
                best, kept = now, _weights(network)
        part = step / STEPS
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, part / RISE) * (1 + cos(pi * part)) / 2
        rows = torch.randint(len(train[0]), (batch,), generator=generator)
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = -score(map_, member, train[0][rows], train[1][rows])
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), LONGEST)
        optimizer.step()
    network.load_state_dict(kept)
    network.requires_grad_(False)


def nats(map_: GaussianPrediction, member: int, c: Tensor, x: Tensor) -> Tensor:
    """Mean log density ``[]`` of points ``[N, D]`` by one network, up to a constant."""
    y, log_det = map_.normalized(x, map_.output(member, c))
    return (log_det - y.square().sum(dim=1) / 2).mean()


def separate_nats(map_: GaussianPrediction, member: int, c: Tensor, x: Tensor) -> Tensor:
    """The same of the numbers that are there, NaN being others, as if they were independent."""
    mean, log_scale, _ = map_.parts(map_.output(member, c))
    y = (x.nan_to_num(0.0) - mean) * (-log_scale).exp()
    of_each = -log_scale - y.square() / 2
    return of_each.masked_fill(x.isnan(), 0.0).sum(dim=1).mean()


def _begin(network: nn.Module, generator: torch.Generator) -> None:
    """Random weights as ``nn.Linear`` has them, and none in the last layer."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in layers:
            bound = layer.in_features**-0.5 if layer is not layers[-1] else 0.0
            for part in (layer.weight, layer.bias):
                part.copy_(bound * (2 * torch.rand(part.shape, generator=generator) - 1))


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
