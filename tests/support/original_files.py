"""Files in the format of the paper's original code, made of networks of ours.

Python's own pickler writes them, and torch writes the tensors, as the original code had it. What is
an object there is written as a call of ``torch_utils.persistence._reconstruct_persistent_obj``: a
function of that name is there only while a file is written.
"""

import pickle
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from tests.support.draws import seeded
from training.data.toys import Toy
from training.names import TOY_NAMES
from training.networks.toy_unet import OriginalToyConvUNet

PERSISTENCE = types.ModuleType("torch_utils.persistence")


def _reconstruct_persistent_obj(meta):
    raise AssertionError("called")


_reconstruct_persistent_obj.__module__ = PERSISTENCE.__name__
PERSISTENCE._reconstruct_persistent_obj = _reconstruct_persistent_obj


class Persistent:
    def __init__(self, class_name, **state):
        self.class_name, self.state = class_name, state
        self.source = f"class {class_name}: pass"

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source}
        meta |= {"class_name": self.class_name, "state": self.state}
        return _reconstruct_persistent_obj, (meta,)

    def child(self, *names):
        module = self
        for name in names:
            state = module.state if isinstance(module, Persistent) else module.__dict__
            module = state["_modules"][name]
        return module


@contextmanager
def persistence():
    """While it lasts, there is a module that persistent objects can be written with."""
    with mock.patch.dict(sys.modules, {PERSISTENCE.__name__: PERSISTENCE}):
        yield


def dumps(content, protocol=4):
    with persistence():
        return pickle.dumps(content, protocol=protocol)


def randomized(network, seed=0):
    generator = seeded(seed)
    for tensor in network.state_dict().values():
        tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


class Shared:
    """The values of a tensor; pickled once, however many views of them there are."""

    def __init__(self, values):
        # As PyTorch pickled tensors when these files were written. Where it has moved these names,
        # write them as strings, as the hostile pickles of tests/fuzz do.
        self.reduced = values._typed_storage().__reduce__()

    def __reduce__(self):
        return self.reduced


class View:
    def __init__(self, shared, *size, stride=None):
        self.shared, self.size = shared, size
        self.stride = stride or torch.empty(size, device="meta").stride()

    def __reduce__(self):
        arguments = (self.shared, 0, self.size, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


def module(kind, children=None, **attributes):
    tensors = {key: value for key, value in attributes.items() if isinstance(value, Tensor)}
    parameters = {k: v for k, v in tensors.items() if isinstance(v, nn.Parameter)}
    buffers = {k: v for k, v in tensors.items() if k not in parameters}
    plain = {key: value for key, value in attributes.items() if key not in tensors}
    state = {"training": False, "_parameters": parameters, "_buffers": buffers, **plain}
    state |= {"_non_persistent_buffers_set": set(), "_modules": dict(children or {})}
    return Persistent(kind, **state)


def linear(layer, class_name="Linear"):
    # A layer without bias has a plain attribute of that name.
    return module(class_name, weight=layer.weight, bias=layer.bias)


def conv(layer, taps=None, **attributes):
    filters = {}
    if taps is not None:
        line = torch.tensor(taps, dtype=torch.float32)
        filters["resample_filter"] = (line.outer(line) / line.sum() ** 2)[None, None]
    return module("Conv2d", weight=layer.weight, bias=layer.bias, **filters, **attributes)


def norm(layer):
    sizes = {"num_groups": layer.num_groups, "eps": layer.eps}
    return module("GroupNorm", weight=layer.weight, bias=layer.bias, **sizes)


def block(layer, taps):
    resampling = taps if layer.resampling else None
    children = {
        "norm0": norm(layer.norm1),
        "conv0": conv(layer.conv1, resampling),
        "affine": linear(layer.modulation),
        "norm1": norm(layer.norm2),
        "conv1": conv(layer.conv2),
    }
    if isinstance(layer.skip, nn.Conv2d):
        children["skip"] = conv(layer.skip, resampling)
    if layer.attention is not None:
        children["norm2"] = norm(layer.attention.norm)
        children["qkv"] = conv(layer.attention.qkv)
        children["proj"] = conv(layer.attention.projection)
    return module(
        "UNetBlock",
        children,
        num_heads=layer.attention.heads if layer.attention is not None else 0,
        skip_scale=np.float64(layer.style.residual_scale),
        adaptive_scale=layer.style.scaled_by_embedding,
    )


def image_network(class_name, network, **init_kwargs):
    taps = init_kwargs.get("resample_filter", [1, 1])
    is_adm = class_name == "DhariwalUNet"
    kind = init_kwargs.get("encoder_type", "standard")
    side, depth = network.image_shape[1], len(network.encoder.levels)
    embedding = network.embedding
    enc, dec = nn.ModuleDict(), nn.ModuleDict()
    encoder = {f"{side}x{side}_conv": conv(network.encoder.stem)}
    for index, level in enumerate(network.encoder.levels):
        place = f"{side >> index}x{side >> index}"
        if index:
            encoder[f"{place}_down"] = block(level.down, taps)
        if level.pyramid is not None and kind == "skip":
            encoder[f"{place}_aux_down"] = module("Conv2d", weight=None)
        if level.pyramid is not None:
            resampling = taps if kind == "residual" else None
            encoder[f"{place}_aux_{kind}"] = conv(level.pyramid.conv, resampling)
        for number, layer in enumerate(level.blocks):
            encoder[f"{place}_block{number}"] = block(layer, taps)
    decoder = {}
    top = {}
    for index in reversed(range(depth)):
        level = network.decoder.levels[depth - 1 - index]
        place = f"{side >> index}x{side >> index}"
        if index == depth - 1:
            decoder[f"{place}_in0"] = block(network.decoder.middle[0], taps)
            decoder[f"{place}_in1"] = block(network.decoder.middle[1], taps)
        else:
            decoder[f"{place}_up"] = block(level.up, taps)
        for number, layer in enumerate(level.blocks):
            decoder[f"{place}_block{number}"] = block(layer, taps)
        if level.to_image is not None and is_adm:
            top = {"out_norm": norm(level.to_image.norm), "out_conv": conv(level.to_image.conv)}
        elif level.to_image is not None:
            decoder[f"{place}_aux_norm"] = norm(level.to_image.norm)
            decoder[f"{place}_aux_conv"] = conv(level.to_image.conv)
    enc.__dict__["_modules"], dec.__dict__["_modules"] = encoder, decoder
    if init_kwargs.get("embedding_type") == "fourier":
        features = module("FourierEmbedding", freqs=embedding.features.frequencies)
    else:
        features = module("PositionalEmbedding", endpoint=not is_adm, max_positions=10000)
    children = {"map_noise": features, "map_layer0": linear(embedding.first), "enc": enc}
    children |= {"map_layer1": linear(embedding.second), "dec": dec, **top}
    if embedding.label is not None:
        children["map_label"] = linear(embedding.label)
    if embedding.augment is not None:
        children["map_augment"] = linear(embedding.augment)
    channels = network.image_shape[0]
    sizes = {"img_resolution": side, "in_channels": channels, "out_channels": channels}
    return module(class_name, children, _init_args=(), _init_kwargs={**sizes, **init_kwargs})


def toy_network(network):
    children = {}
    for kind, embedding in (("fc", network.layer_embedding), ("conv", network.block_embedding)):
        children[f"map_{kind}_noise"] = module("FourierEmbedding", freqs=embedding[0].frequencies)
        children[f"map_{kind}_layer0"] = linear(embedding[1])
    for number, layer in enumerate([*network.lift, *network.lower], start=1):
        children[f"dense{number}1"] = linear(layer.linear)
        children[f"dense{number}2"] = linear(layer.modulation)
    children[f"dense{len(network.lift) + len(network.lower) + 1}1"] = linear(network.last)
    for way, blocks in (("down", network.down), ("up", network.up)):
        for number, layer in enumerate(blocks, start=1):
            gnorm = nn.GroupNorm(layer.norm.num_groups, layer.norm.num_channels)
            gnorm.weight, gnorm.bias = layer.norm.weight, layer.norm.bias
            first = conv(layer.conv, [1, 1], stride=layer.stride, up=way == "up")
            dense = linear(layer.modulation, "Linear_FR")
            parts = {"conv1": first, "dense1": dense, "gnorm1": gnorm}
            children[f"{way}resblock{number}"] = module("ToyResidualBlock", parts)
    return module("ToyConvUNet", children, _init_args=(), _init_kwargs={})


def precond(network, class_name, exponents, eigenvalues, axes, space="ES", rho=1.0, **attributes):
    made = module(
        class_name,
        {"model": network},
        data_eigs=np.asarray(eigenvalues, np.float64),
        **{"M": 1000, "rho": rho, "gamma0": 5e-4, "space": space, "sigma_max": float("inf")},
        device=torch.device("cpu"),
        _init_args=(),
        _init_kwargs={"W": axes.numpy(), "space": space},
        **attributes,
    )
    # Tensors, but plain attributes.
    made.state["W"], made.state["g"] = axes.float(), torch.tensor(exponents, dtype=torch.float32)
    return made


def toy_points(name="circles", count=2000):
    return Toy(name if name in TOY_NAMES else "circles").sample(count, seeded())


def toy_song_network(network, **init_kwargs):
    made = image_network("ToySongUNet", network.unet, **init_kwargs)
    for number, layer in enumerate([*network.lift, *network.lower], start=1):
        made.state["_modules"][f"fc{number}"] = linear(layer)
    made.state["_init_kwargs"]["data_dim"] = network.lift[0].in_features
    return made


def small_toy_network(dim):
    return randomized(OriginalToyConvUNet(dim, (4, 64), (32, 32, 32, 32), 2, 8))


def edm(class_name, network, **attributes):
    ends = {"sigma_min": 0, "sigma_max": float("inf")}
    made = module(class_name, {"model": network}, _init_args=(), _init_kwargs={}, **ends)
    made.state |= attributes
    return made


def edm_content(class_name, network, data, **attributes):
    loss = Persistent(f"{class_name.removesuffix('PreCond')}Loss", P_mean=-1.2, P_std=1.2)
    return {"ema": edm(class_name, network, **attributes), "loss_fn": loss, "dataset_kwargs": data}


def toy_content(name="circles", space="ES", rho=1.0, points=None, network=None):
    """A file of a small toy network with random weights, whose PCA is of the points."""
    points = toy_points(name) if points is None else points
    dim = points.shape[1]
    pca = PCA(n_components=dim).fit(points.numpy())
    network = network or toy_network(small_toy_network(dim))
    moments = (pca.explained_variance_, torch.from_numpy(pca.components_.T.copy()))
    data = {"dset_name": name, "orig_data_dim": dim, "working_data_dim": dim}
    return {
        "ema": precond(network, "IFsToyPreCond", [0.0] * dim, *moments, space=space, rho=rho),
        "loss_fn": Persistent("IFsToyLoss", t_min=1e-7, t_max=7.01, rho=rho),
        "augment_pipe": None,
        "dataset_kwargs": {**data, "augment_to": 0, "pca_trf": pca},
    }


def image_content(class_name, network, exponents, space="IS", **init_kwargs):
    (channels, side, _), dim = network.image_shape, len(exponents)
    written = image_network(class_name, network, **init_kwargs)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=seeded(dim)).double()).Q
    shape = {"img_resolution": side, "img_channels": channels}
    basis = (np.linspace(1.5, 0.1, dim), axes)
    return {
        "ema": precond(written, "IFsPreCond", exponents, *basis, space, **shape),
        "loss_fn": Persistent("IFsLoss", t_min=1e-7, t_max=12.5, t_sampling="uniform"),
        "dataset_kwargs": {"path": "/data/my set.zip", "resolution": side},
    }
