"""Import of models of the paper's original code.

A file contains in ``loss_fn`` the last time of the training, and in ``dataset_kwargs`` the data.
Its networks are equivalent to ours, with the same layers under other names.

Everything is checked. Every tensor of our network must be in the file with the right shape, and
none may be left over. The filters, groups, heads and scales stated in the file must be ours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from dnnlib.files import made_plain, plain_name
from dnnlib.logs import logger
from torch_utils.inert_pickle import shown
from torch_utils.snapshots import MISFITS, first_line
from training.data.toys import Toy
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.names import IMAGES, TOY
from training.networks import NETWORKS
from training.networks.blocks import ResidualBlock
from training.paper.original.counterparts import (
    IMAGE_COUNTERPARTS,
    TOY_COUNTERPARTS,
    Counterpart,
    Renaming,
    point_dimension,
)
from training.paper.original.file import ALLOWED, Fields, Layers, OriginalFile, read_original
from training.paper.original.flow import OriginalFlow, ToyData, rotate_network, uncentered_basis
from training.trained.architecture import Architecture, make_schedule
from training.trained.network import TrainedNetwork, check_network

MODULE_CLASSES = {
    *("Linear", "Conv2d", "GroupNorm", "ModuleDict", "PositionalEmbedding", "FourierEmbedding"),
    *("UNetBlock", "Linear_FR", "ToyResidualBlock"),
}
"""Classes of modules in the networks of the original code."""

_FILTER = "resample_filter"


def build(layers: Layers, counterpart: Counterpart) -> nn.Module:
    """Build our network with the weights of a network of the original code.

    Args:
        layers: Layers of the original network.
        counterpart: Our network, and the names of the original weights.

    Raises:
        DataError: The weights or attributes in the file are not those of this network.
    """
    arguments = counterpart.arguments
    for name, shape in counterpart.shapes.items():
        _check_shape(layers.where, layers.weights, name, shape)
    try:
        network = NETWORKS[counterpart.network](**arguments)
    except MISFITS as error:
        reason = shown(first_line(error))
        raise DataError(
            f"{layers.where} cannot be built ({reason}): give an unmodified file"
        ) from error
    weights = _without_filters(layers, arguments.get("fir_taps", (1, 1)))
    network.load_state_dict(
        _take_weights(layers.where, weights, network.state_dict(), counterpart.rename)
    )
    _check_stated(layers, network, counterpart)
    return network


def _without_filters(layers: Layers, taps: Any) -> dict[str, np.ndarray]:
    """Return the weights without the resampling filters, which must be those of these taps."""
    line = np.asarray(taps, np.float64) / np.sum(taps)
    kernel = np.outer(line, line)[None, None]
    weights = {}
    for name, value in layers.weights.items():
        if name.rpartition(".")[2] != _FILTER:
            weights[name] = value
        elif value.shape != kernel.shape or not np.allclose(value, kernel, atol=1e-6):
            raise DataError(
                f"{layers.where}: '{shown(name)}' is not the filter with taps {taps}: give an "
                "unmodified file"
            )
    return weights


def _take_weights(
    where: str, weights: Mapping[str, np.ndarray], expected: Mapping[str, Tensor], rename: Renaming
) -> dict[str, Tensor]:
    names = {key: rename(key) for key in expected}
    left_over = sorted(set(weights) - set(names.values()))
    if left_over:
        raise DataError(
            f"{where} has {len(left_over)} unknown weight(s), for example "
            f"'{shown(left_over[0])}': give an unmodified file"
        )
    state = {}
    for key, name in names.items():
        value = _check_shape(where, weights, name, tuple(expected[key].shape))
        if not np.isfinite(value).all():
            raise DataError(
                f"{where}: '{name}' has values that are not finite: give another network"
            )
        state[key] = torch.from_numpy(np.array(value, np.float32))
    return state


def _check_shape(
    where: str, weights: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]
) -> np.ndarray:
    if name not in weights:
        raise DataError(f"{where} does not have the weight '{name}': give an unmodified file")
    if weights[name].shape != shape:
        raise DataError(
            f"{where}: '{name}' has the shape {weights[name].shape}, not {shape}: give an "
            "unmodified file"
        )
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


IMAGE_MODELS = ("IFsPreCond", "EDMPrecond")
TOY_MODELS = ("IFsToyPreCond", "EDMToyPreCond", "EDMToyESPreCond")
IMAGE_T_MAX = 15.01
"""Default last time of the paper's image networks."""
MOST_PIXELS = 3 * 64 * 64
"""Largest number of values per image of a model without a basis: our network file contains a square
matrix of that size.
"""


@dataclass(frozen=True)
class Imported:
    """TrainedNetwork imported from a file of the original code, with its origin.

    Attributes:
        model: TrainedNetwork, ready for evaluation.
        origin: Plain values: the original's class names, and the file's SHA-256.
    """

    model: TrainedNetwork
    origin: dict[str, Any]


@dataclass(frozen=True)
class _Parts:
    """One of our networks, with its flow and metadata."""

    network: torch.nn.Module
    counterpart: Counterpart
    flow: OriginalFlow
    about: dict[str, Any]


def import_original(
    path: Path, data_name: str | None = None, t_max: float | None = None
) -> Imported:
    """Import the model in a file of the original code.

    Args:
        path: The file.
        data_name: Name of the training data; None to use the name in the file.
        t_max: Last time; None to use the time in the file, or else the default for images.

    Raises:
        DataError: The file is missing, broken or unsafe, or its network is not of a known kind.
        UsageError: An option contradicts the file, or is missing in both.
    """
    file = read_original(path)
    record = file.network
    if record.class_name not in (*IMAGE_MODELS, *TOY_MODELS):
        raise DataError(f"{path} contains a '{shown(record.class_name)}' as its 'ema': {ALLOWED}")
    fields = Fields(f"{path}: the {record.class_name}", record.state)
    is_toy = record.class_name in TOY_MODELS
    layers = _layers(file, fields, set(TOY_COUNTERPARTS if is_toy else IMAGE_COUNTERPARTS))
    parts = (_toy if is_toy else _images)(file, fields, layers, data_name)
    flow = parts.flow
    about = parts.about | {
        "kind": TOY if is_toy else IMAGES,
        "data_dim": flow.basis.dim,
        "dims_to_keep": flow.schedule_arguments.get("dims_to_keep", flow.basis.dim),
        "tmin": flow.t_min,
        "tmax": _last_time(file, t_max, flow.t_max),
    }
    schedule = make_schedule(flow.schedule, flow.schedule_arguments, flow.basis)
    denoiser = NetworkDenoiser(
        parts.network,
        flow.basis,
        schedule,
        **flow.denoiser_arguments,
        data_variance=flow.data_variance,
    )
    architecture = Architecture(
        flow.schedule,
        flow.schedule_arguments,
        parts.counterpart.network,
        parts.counterpart.arguments,
        flow.denoiser_arguments,
    )
    try:
        check_network(denoiser, about["tmax"])
    except ValueError as error:
        raise DataError(f"{path} cannot be imported: {error}") from error
    model = TrainedNetwork(denoiser.eval().requires_grad_(False), architecture, about)
    origin = {"classes": [record.class_name, layers.class_name], "sha256": file.sha256}
    return Imported(model, origin)


def _toy(file: OriginalFile, fields: Fields, layers: Layers, data_name: str | None) -> _Parts:
    dim = point_dimension(layers)
    data = ToyData.from_file(file, data_name, dim)
    axes = file.principal_axes()
    if file.network.class_name == "EDMToyPreCond":
        toy = Toy(data.names[-1], data.augment_to)
        flow = OriginalFlow.isotropic(fields, uncentered_basis(toy), "IS")
    else:
        if file.network.class_name == "IFsToyPreCond":
            flow = OriginalFlow.inflationary(fields, axes, t_max=None)
        else:
            flow = OriginalFlow.isotropic_in_eigenspace(fields, axes)
        if flow.basis.dim != dim:
            raise DataError(
                f"{fields.where} has {flow.basis.dim} variances for {dim} dimensions: give an "
                "unmodified file"
            )
        toy, basis = data.matching(flow.basis, with_mean=axes is not None)
        flow = replace(flow, basis=basis)
    counterpart = TOY_COUNTERPARTS[layers.class_name](layers, dim)
    network = build(layers, counterpart)
    if data.augment_to and flow.denoiser_arguments["space"] == "IS":
        rotate_network(network, data.rotation(toy))
    if toy.name != data.names[0]:
        logger.info(f"The toy {data.names[0]} of the original code is called {toy.name} here")
    return _Parts(
        network, counterpart, flow, {"data_name": toy.name, "augment_to": data.augment_to}
    )


def _images(file: OriginalFile, fields: Fields, layers: Layers, data_name: str | None) -> _Parts:
    side, channels = fields.number("img_resolution"), fields.number("img_channels")
    dim = channels * side * side
    if file.network.class_name == "EDMPrecond":
        if channels not in (1, 3) or side != int(side) or not 0 < dim <= MOST_PIXELS:
            raise DataError(
                f"{fields.where} has images of {side:g} x {side:g} pixels in {channels:g} "
                "channel(s): models without an eigenbasis can be imported with sides up to 64 and "
                "1 or 3 channels"
            )
        flow = OriginalFlow.isotropic(fields, EigenBasis.standard(int(dim)), "ES")
        # The data variance is all that is known of the data.
        basis = EigenBasis.standard(int(dim), float(flow.data_variance[0]))
        flow = replace(flow, basis=basis)
    else:
        flow = OriginalFlow.inflationary(fields, None, IMAGE_T_MAX)
        if channels not in (1, 3) or dim != flow.basis.dim:
            raise DataError(
                f"{fields.where} has images of {side:g} x {side:g} pixels in {channels:g} "
                f"channel(s), but {flow.basis.dim} variances: expected one per value, in 1 or 3 "
                "channels"
            )
    image_shape = (int(channels), int(side), int(side))
    counterpart = IMAGE_COUNTERPARTS[layers.class_name](layers, image_shape)
    about: dict[str, Any] = {
        "image_shape": list(image_shape),
        "label_dim": counterpart.arguments["label_dim"],
    }
    source = file.section("dataset_kwargs").values.get("path")
    if data_name is not None:
        about["data_name"] = plain_name(data_name)
    elif isinstance(source, str):
        # The path is from another machine with any operating system; its stem becomes part of file
        # names.
        about["data_name"] = made_plain(PureWindowsPath(source).stem, "images")
    return _Parts(build(layers, counterpart), counterpart, flow, about)


def _layers(file: OriginalFile, fields: Fields, known: set[str]) -> Layers:
    network = fields.mapping("_modules").record("model")
    if network.class_name not in known:
        raise DataError(
            f"{fields.where} has the network '{shown(network.class_name)}', which cannot be "
            f"imported: give a model with {' or '.join(sorted(known))}"
        )
    where = f"{file.path}: the {network.class_name}"
    return Layers.from_record(network, where, MODULE_CLASSES, file.size)


def _last_time(file: OriginalFile, given: float | None, default: float | None) -> float:
    loss = file.section("loss_fn")
    trained = float(loss.number("t_max")) if "t_max" in loss.values else None
    if trained is not None and not 0 < trained < math.inf:
        raise DataError(
            f"{loss.where}: the attribute 't_max' is {trained:g}, which is not a valid time: give "
            "an unmodified file"
        )
    if given is not None and trained is not None and given > trained:
        raise UsageError(
            f"--tmax is {given:g}, but {file.path} was trained up to {trained:g}: give a "
            "smaller --tmax"
        )
    last = given if given is not None else trained if trained is not None else default
    if last is None:
        raise UsageError(f"{file.path} does not contain the last time of its flow: give --tmax")
    return last
