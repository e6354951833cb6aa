"""Fit of the conditional distribution of points: ``GaussianPrediction``, ``LevelPrediction``.

Means and covariances of a Gaussian are fitted by maximum likelihood. Each network of the ensemble
holds out other conditions, with all points that have them, and keeps the weights with the best
validation score.

Networks for categories are fitted like those of a Gaussian. The first is fitted with products alone
and with nonlinear terms as well, and the two are compared on datasets that neither is trained on;
the other networks are of the better kind.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from math import cos, pi

import torch
from torch import Tensor, nn

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.coordinates.categories import LevelNetwork, LevelPrediction
from training.flow.coordinates.conditions import GaussianPrediction
from training.learning.soap import Soap

STEPS, RATE, RISE = 2000, 1e-2, 0.1
"""Number of training steps of a network, peak learning rate, and fraction of the steps with a
rising rate; the rate then falls to 0 along a cosine.
"""
FEW, BATCHES = 5000, (256, 1024)
"""Largest number of points for the first batch size, and the two batch sizes."""
LOOKS = 40
"""Number of evaluations on the validation set."""
HELD_OUT, MOST_HELD_OUT = 0.1, 4096
"""Fraction of the conditions, and largest number of their points, in the validation set."""
LONGEST = 1.0
"""Largest norm of gradients, for clipping."""


def fit_gaussian(
    map_: GaussianPrediction, c: Tensor, x: Tensor, groups: Tensor | None = None
) -> None:
    """Fit a Gaussian prediction of points from conditions by maximum likelihood.

    The fit uses its own random numbers.

    Args:
        map_: Prediction to fit.
        c: Standardized conditions ``[N, C]``.
        x: Standardized points ``[N, D]``.
        groups: Index of the group of each row ``[N]``. Rows of a group are held out together; None
            groups rows with equal conditions.
    """
    for member, network in enumerate(map_.members):
        generator = seeded_generator("cpu", 0, Stream.GAUSSIAN_START, member)
        train, test = parted([c.float(), x.float()], c if groups is None else groups, generator)
        begin(network, generator)
        network.requires_grad_(True)
        fit_network(network, partial(nats, map_, member), train, test, generator)


def parted(
    parts: Sequence[Tensor], groups: Tensor, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor]]:
    """Split rows into a training set and a validation set.

    Args:
        parts: Arrays ``[N, ...]`` with N rows each.
        groups: Group of each row, as an index ``[N]`` or as values ``[N, C]``. Rows of a group are
            held out together.
        generator: Random generator.
    """
    _, which = torch.unique(groups, dim=0, return_inverse=True)
    held_out = (torch.rand(int(which.max()) + 1, generator=generator) < HELD_OUT)[which]
    if held_out.all() or not held_out.any():  # for very few conditions
        held_out = torch.rand(len(which), generator=generator) < HELD_OUT
    return [part[~held_out] for part in parts], [part[held_out][:MOST_HELD_OUT] for part in parts]


def fit_network(
    network: nn.Module,
    nats_of: Callable[..., Tensor],
    train: Sequence[Tensor],
    test: Sequence[Tensor],
    generator: torch.Generator,
) -> float:
    """Fit a network by stochastic gradients, and keep the weights with the best validation score.

    Parameters that need no gradient stay unchanged.

    Args:
        network: Network to fit, from its present weights.
        nats_of: Function from arrays of rows to their mean log density ``[]``, in nats.
        train: Arrays of training rows.
        test: Arrays of validation rows.
        generator: Random generator.

    Returns:
        Mean log density of the validation set, in nats per row.
    """
    parameters = [each for each in network.parameters() if each.requires_grad]
    optimizer = Soap(parameters, lr=RATE)
    best, kept = -torch.inf, deepcopy(network.state_dict())
    batch = BATCHES[len(train[0]) > FEW]
    for step in range(STEPS):
        if step % (STEPS // LOOKS) == 0 or step == STEPS - 1:
            with torch.no_grad():
                now = float(nats_of(*test))
            if now > best:
                best, kept = now, deepcopy(network.state_dict())
        part = step / STEPS
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, part / RISE) * (1 + cos(pi * part)) / 2
        rows = torch.randint(len(train[0]), (batch,), generator=generator)
        with torch.enable_grad():
            optimizer.zero_grad()
            loss = -nats_of(*(each[rows] for each in train))
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, LONGEST)
        optimizer.step()
    network.load_state_dict(kept)
    network.requires_grad_(False)
    return best


def nats(map_: GaussianPrediction, member: int, c: Tensor, x: Tensor) -> Tensor:
    """Return the mean log density ``[]`` of points under one network's prediction, in nats.

    The normalizing constant of the density is left out.

    Args:
        map_: Gaussian prediction with the network.
        member: Index of the network.
        c: Standardized conditions ``[N, C]``.
        x: Standardized points ``[N, D]``.
    """
    y, log_det = map_.normalized(x, map_.output(member, c))
    return (log_det - y.square().sum(dim=1) / 2).mean()


def begin(network: nn.Module, generator: torch.Generator) -> None:
    """Initialize the weights of a network at random like ``nn.Linear``, the last layer with zeros.

    Args:
        network: Network with linear layers.
        generator: Random generator of the weights.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in layers:
            bound = layer.in_features**-0.5 if layer is not layers[-1] else 0.0
            for part in (layer.weight, layer.bias):
                part.copy_(bound * (2 * torch.rand(part.shape, generator=generator) - 1))


def fit_levels(map_: LevelPrediction, c: Tensor, x: Tensor, groups: Tensor | None = None) -> None:
    """Fit a prediction of category columns from conditions by maximum likelihood.

    Args:
        map_: Prediction to fit, whose levels are already set.
        c: Standardized conditions ``[N, C]``.
        x: Points ``[N, D]`` of category columns.
        groups: Index of the group of each row ``[N]``. Rows of a group are held out together; None
            groups rows with equal conditions.
    """
    numbers = map_.numbers(x)
    for number, networks in enumerate(map_.networks):
        seen, levels = map_.seen(number, c, numbers).float(), numbers[:, number].long()
        assert isinstance(networks, nn.ModuleList)
        bends: bool | None = None
        for member, network in enumerate(networks):
            assert isinstance(network, LevelNetwork)
            generator = seeded_generator("cpu", 0, Stream.LEVEL_START, number, member)
            train, test = parted([seen, levels], c if groups is None else groups, generator)
            fit = partial(_fit, network, train, test)
            if bends is None:
                products, weights = fit(False, generator), deepcopy(network.state_dict())
                bends = fit(True, generator) > products
                if not bends:
                    network.load_state_dict(weights)
            else:
                fit(bends, generator)


def _fit(
    network: LevelNetwork,
    train: list[Tensor],
    test: list[Tensor],
    bends: bool,
    generator: torch.Generator,
) -> float:
    """Fit one network from new weights.

    Returns:
        Its mean log probability on the validation set, in nats.
    """

    def nats_of(seen: Tensor, levels: Tensor) -> Tensor:
        return network(seen).log_softmax(dim=1).gather(1, levels[:, None]).mean()

    begin(network, generator)
    nn.init.zeros_(network.bend.weight)
    nn.init.zeros_(network.bend.bias)
    network.requires_grad_(True)
    network.bend.requires_grad_(bends)
    return fit_network(network, nats_of, train, test, generator)
