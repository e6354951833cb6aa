"""Fits what levels are, given conditions: ``LevelPrediction``.

Networks are fitted as those of a Gaussian are. A first one with products alone is compared with one
that bends as well, on datasets that neither is trained on; the others are of the better kind.
"""

from functools import partial

import torch
from torch import Tensor, nn

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.coordinates.levels import LevelNetwork, LevelPrediction
from training.learning.gaussian_start import begin, fit_network, parted, weights_of


def fit_levels(map_: LevelPrediction, c: Tensor, x: Tensor, groups: Tensor | None = None) -> None:
    """Fits a prediction to standardized conditions and points; see ``fit_gaussian``.

    Its columns of levels have steps of their own already.
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
                products, weights = fit(False, generator), weights_of(network)
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
    """Fits one network anew, and returns its mean log probability of other rows."""

    def nats_of(seen: Tensor, levels: Tensor) -> Tensor:
        return network(seen).log_softmax(dim=1).gather(1, levels[:, None]).mean()

    begin(network, generator)
    nn.init.zeros_(network.bend.weight)
    nn.init.zeros_(network.bend.bias)
    network.requires_grad_(True)
    network.bend.requires_grad_(bends)
    return fit_network(network, nats_of, train, test, generator)
