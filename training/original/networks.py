"""Networks of the original code as networks of ours: the same layers by other names.

Nothing is taken on trust. Every tensor of our network must be in the file, of its shape, and none
may be left over; the filters, groups, heads and scales that the file states must be ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from torch_utils.snapshots import MISFITS, first_line
from training.networks import NETWORKS
from training.networks.blocks import ResidualBlock
from training.original.counterparts import Counterpart, Renaming
from training.original.file import Fields, Layers

MODULE_CLASSES = {
    *("Linear", "Conv2d", "GroupNorm", "ModuleDict", "PositionalEmbedding", "FourierEmbedding"),
    *("UNetBlock", "Linear_FR", "ToyResidualBlock"),
}
"""What the networks of the original code are made of."""

_FILTER = "resample_filter"


def build(layers: Layers, counterpart: Counterpart) -> nn.Module:
    """Our network with the original's weights.

    Raises:
        DataError: The file has other weights, or states that the network is another one.
    """
    arguments = counterpart.arguments
    for name, shape in counterpart.shapes.items():
        _check_shape(layers.where, layers.weights, name, shape)
    try:
        network = NETWORKS[counterpart.network](**arguments)
    except MISFITS as error:
        reason = shown(first_line(error))
        raise DataError(f"{layers.where} cannot be built here: {reason}") from error
    weights = _without_filters(layers, arguments.get("fir_taps", (1, 1)))
    network.load_state_dict(
        _take_weights(layers.where, weights, network.state_dict(), counterpart.rename)
    )
    _check_stated(layers, network, counterpart)
    return network


def _without_filters(layers: Layers, taps: Any) -> dict[str, np.ndarray]:
    """The weights but for the resampling filters, which must be those of these taps."""
    line = np.asarray(taps, np.float64) / np.sum(taps)
    kernel = np.outer(line, line)[None, None]
    weights = {}
    for name, value in layers.weights.items():
        if name.rpartition(".")[2] != _FILTER:
            weights[name] = value
        elif value.shape != kernel.shape or not np.allclose(value, kernel, atol=1e-6):
            raise DataError(f"{layers.where}: '{shown(name)}' is not the filter of taps {taps}")
    return weights


def _take_weights(
    where: str, weights: Mapping[str, np.ndarray], expected: Mapping[str, Tensor], rename: Renaming
) -> dict[str, Tensor]:
    names = {key: rename(key) for key in expected}
    left_over = sorted(set(weights) - set(names.values()))
    if left_over:
        raise DataError(
            f"{where} has the weight '{shown(left_over[0])}', which this network does not have "
            f"({len(left_over)} are left over)"
        )
    state = {}
    for key, name in names.items():
        value = _check_shape(where, weights, name, tuple(expected[key].shape))
        if not np.isfinite(value).all():
            raise DataError(f"{where}: '{name}' has values that are not finite")
        state[key] = torch.from_numpy(np.array(value, np.float32))
    return state


def _check_shape(
    where: str, weights: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    if name not in weights:
        raise DataError(f"{where} lacks the weight '{name}'")
    if weights[name].shape != shape:
        raise DataError(f"{where}: '{name}' has the shape {weights[name].shape}, not {shape}")
    return weights[name]


def _check_stated(layers: Layers, network: nn.Module, counterpart: Counterpart) -> None:
    stated = dict(counterpart.stated)
    for name, module in network.named_modules():
        match module:
            case nn.GroupNorm():
                expected = {"num_groups": module.num_groups, "eps": module.eps}
            case ResidualBlock():
                expected = {
                    "num_heads": module.attention.heads if module.attention else 0,
                    "skip_scale": module.style.residual_scale,
                    "adaptive_scale": module.style.scaled_by_embedding,
                }
            case _:
                continue
        stated[counterpart.rename(name)] = expected
    for name, attributes in stated.items():
        fields = layers.fields.get(name) or Fields(f"{layers.where}, '{name}'", {})
        for key, value in attributes.items():
            fields.require(key, value)
