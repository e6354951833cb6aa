"""Counterparts of the original code's networks among ours, from their arguments and sizes.

SongUNet (DDPM++ and NCSN++) and DhariwalUNet (ADM) name a layer by its resolution: ``enc`` and
``dec`` contain ``16x16_block0``, ``16x16_down`` and so on, and a block has ``norm0``, ``conv0``,
``affine``, ``norm1``, ``conv1``, ``skip``, ``norm2``, ``qkv`` and ``proj``, in the order of use.
ToyConvUNet counts its layers from 1: the third layer applies ``dense31`` to its input and
``dense32`` to the embedding. ToySongUNet has SongUNet's layers, and ``fc1`` to ``fc4`` around them.

Names are those of modules or of their tensors, with dots.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from torch_utils.snapshots import LARGEST_ARGUMENT
from training.networks.toy_unet import DOWN_STRIDES, UP_STRIDES
from training.paper.original.file import Layers

Renaming = Callable[[str], str]
"""Function from the name of one of our modules or tensors to the original's name."""

_BLOCK_PARTS = {
    "norm1": "norm0",
    "conv1": "conv0",
    "modulation": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
}
_ATTENTION_PARTS = {"norm": "norm2", "qkv": "qkv", "projection": "proj"}
_EMBEDDING_PARTS = {
    "augment": "map_augment",
    "label": "map_label",
    "first": "map_layer0",
    "second": "map_layer1",
}
_TOY_BLOCK_PARTS = {"conv": "conv1", "modulation": "dense1", "norm": "gnorm1"}
_TOY_LAYER_PARTS = {"linear": "1", "modulation": "2"}


def image_names(side: int, depth: int, encoder_type: str, last: tuple[str, str]) -> Renaming:
    """Return a function from our names of an image network's weights to the original names.

    Args:
        side: Side of the images, in pixels.
        depth: Number of levels.
        encoder_type: Type of the encoder, an argument of ``ImageUNet``.
        last: Normalization and convolution that produce the output image.
    """

    def at(level: int | str) -> str:
        resolution = side >> int(level)
        return f"{resolution}x{resolution}"

    def rising(level: str) -> int:
        return depth - 1 - int(level)

    def rename(name: str) -> str:
        match name.split("."):
            case ["embedding", "features", "frequencies"]:
                return "map_noise.freqs"
            case ["embedding", part, *rest]:
                return _join(_EMBEDDING_PARTS[part], rest)
            case ["encoder", "stem", *rest]:
                return _join(f"enc.{at(0)}_conv", rest)
            case ["encoder", "levels", level, "down", *rest]:
                return _join(f"enc.{at(level)}_down", _in_block(rest))
            case ["encoder", "levels", level, "blocks", index, *rest]:
                return _join(f"enc.{at(level)}_block{index}", _in_block(rest))
            case ["encoder", "levels", level, "pyramid", "conv", *rest]:
                return _join(f"enc.{at(level)}_aux_{encoder_type}", rest)
            case ["decoder", "middle", index, *rest]:
                return _join(f"dec.{at(depth - 1)}_in{index}", _in_block(rest))
            case ["decoder", "levels", level, "up", *rest]:
                return _join(f"dec.{at(rising(level))}_up", _in_block(rest))
            case ["decoder", "levels", level, "blocks", index, *rest]:
                return _join(f"dec.{at(rising(level))}_block{index}", _in_block(rest))
            case ["decoder", "levels", level, "to_image", part, *rest]:
                return _join(last[part == "conv"].format(at(rising(level))), rest)
        raise KeyError(name)

    return rename


def toy_names(lifting: int) -> Renaming:
    """Return a function from our names of a toy network's weights to the original names.

    Args:
        lifting: Number of layers before the convolutions, which increase the dimension of a point.
    """

    def rename(name: str) -> str:
        match name.split("."):
            case [("layer_embedding" | "block_embedding") as which, part, *rest]:
                kind = "fc" if which == "layer_embedding" else "conv"
                if part == "0":
                    return f"map_{kind}_noise.freqs"
                return _join(f"map_{kind}_layer0", rest)
            case ["lift", index, part, *rest]:
                return _join(f"dense{int(index) + 1}{_TOY_LAYER_PARTS[part]}", rest)
            case ["lower", index, part, *rest]:
                return _join(f"dense{lifting + int(index) + 1}{_TOY_LAYER_PARTS[part]}", rest)
            case ["last", *rest]:
                return _join(f"dense{2 * lifting}1", rest)
            case [("down" | "up") as way, index, part, *rest]:
                return _join(f"{way}resblock{int(index) + 1}.{_TOY_BLOCK_PARTS[part]}", rest)
        raise KeyError(name)

    return rename


def toy_song_names(image: Renaming) -> Renaming:
    """Return a function from our names to the original names, for a ToySongUNet.

    It contains an image network, whose names the argument maps.
    """
    layers = {
        ("lift", "0"): "fc1",
        ("lift", "1"): "fc2",
        ("lower", "0"): "fc3",
        ("lower", "1"): "fc4",
    }

    def rename(name: str) -> str:
        part, *rest = name.split(".")
        if part == "unet":
            return image(".".join(rest))
        return _join(layers[part, rest[0]], rest[1:])

    return rename


def _in_block(parts: list[str]) -> list[str]:
    match parts:
        case ["attention", part, *rest]:
            return [_ATTENTION_PARTS[part], *rest]
        case [part, *rest]:
            return [_BLOCK_PARTS.get(part, part), *rest]
    return []


def _join(place: str, rest: list[str]) -> str:
    return ".".join([place, *rest])


_POSITIONS = 10000
LONGEST_ARGUMENT = 32

# For the original's name of each argument: the name in our networks, and the default there.
_COMMON_ARGUMENTS: dict[str, tuple[str, Any]] = {
    "label_dim": ("label_dim", 0),
    "augment_dim": ("augment_dim", 0),
    "dropout": ("dropout", 0.1),
}
_SONG_ARGUMENTS: dict[str, tuple[str, Any]] = {
    **_COMMON_ARGUMENTS,
    "model_channels": ("model_channels", 128),
    "channel_mult": ("channel_mult", [1, 2, 2, 2]),
    "num_blocks": ("num_blocks", 4),
    "attn_resolutions": ("attention_resolutions", [16]),
    "embedding_type": ("noise_features", "positional"),
    "encoder_type": ("encoder_type", "standard"),
    "decoder_type": ("decoder_type", "standard"),
    "resample_filter": ("fir_taps", [1.0, 1.0]),
}
_TOY_SONG_ARGUMENTS = {
    name: argument
    for name, argument in _SONG_ARGUMENTS.items()
    if name not in ("label_dim", "augment_dim")
}
_ADM_ARGUMENTS: dict[str, tuple[str, Any]] = {
    **_COMMON_ARGUMENTS,
    "model_channels": ("model_channels", 192),
    "channel_mult": ("channel_mult", [1, 2, 3, 4]),
    "num_blocks": ("num_blocks", 3),
    "attn_resolutions": ("attention_resolutions", [32, 16, 8]),
}


@dataclass(frozen=True)
class Counterpart:
    """One of our networks that equals a network of the original code, with the original's names.

    Attributes:
        network: A name in ``NETWORKS``.
        arguments: Constructor arguments of the network.
        rename: Function from our names to the original's.
        shapes: Shapes of some of the original's largest weights, by name. They are compared before
            any memory is allocated.
        stated: Attributes that the original's modules must have, by module and name, in addition to
            attributes that follow from our modules.
    """

    network: str
    arguments: dict[str, Any]
    rename: Renaming
    shapes: dict[str, tuple[int, ...]]
    stated: dict[str, dict[str, Any]] = field(default_factory=dict)


def song_unet(layers: Layers, image_shape: tuple[int, int, int]) -> Counterpart:
    """Return our network that equals the original's SongUNet on images ``(C, H, W)``."""
    return _song_unet(layers, _arguments(layers, image_shape, _SONG_ARGUMENTS))


def _song_unet(layers: Layers, arguments: dict[str, Any]) -> Counterpart:
    image_shape = arguments["image_shape"]
    features = arguments["noise_features"]
    kwargs = layers.fields[""].mapping("_init_kwargs")
    if features == "fourier" or "channel_mult_noise" in kwargs.values:
        kwargs.require("channel_mult_noise", 2 if features == "fourier" else 1)
    names = image_names(
        image_shape[1],
        len(arguments["channel_mult"]),
        arguments["encoder_type"],
        ("dec.{}_aux_norm", "dec.{}_aux_conv"),
    )
    shapes = _image_shapes(arguments)
    if features == "fourier":
        return Counterpart("ncsnpp", arguments, names, shapes)
    arguments["float32_frequencies"] = True
    stated = {"map_noise": {"endpoint": True, "max_positions": _POSITIONS}}
    return Counterpart("ddpmpp", arguments, names, shapes, stated)


def dhariwal_unet(layers: Layers, image_shape: tuple[int, int, int]) -> Counterpart:
    """Return our network that equals the original's DhariwalUNet on images ``(C, H, W)``."""
    arguments = _arguments(layers, image_shape, _ADM_ARGUMENTS)
    depth = len(arguments["channel_mult"])
    names = image_names(image_shape[1], depth, "standard", ("out_norm", "out_conv"))
    arguments |= {"float32_frequencies": True, "rounded_heads": True}
    stated = {"map_noise": {"endpoint": False, "max_positions": _POSITIONS}}
    return Counterpart("adm", arguments, names, _image_shapes(arguments), stated)


def toy_song_unet(layers: Layers, dim: int) -> Counterpart:
    """Return our network that equals the original's ToySongUNet on points in ``dim`` dimensions."""
    kwargs = layers.fields[""].mapping("_init_kwargs")
    channels, side = kwargs.size("in_channels"), kwargs.size("img_resolution")
    shape = (channels, side, side)
    arguments = _arguments(layers, shape, _TOY_SONG_ARGUMENTS, {"data_dim": dim})
    unet = _song_unet(layers, arguments)
    pixels = channels * side**2
    middle = pixels // 2
    shapes = {
        "fc1.weight": (middle, dim),
        "fc2.weight": (pixels, middle),
        "fc3.weight": (middle, pixels),
        "fc4.weight": (dim, middle),
    }
    return Counterpart(
        "OriginalToySongUNet",
        {"dim": dim, **arguments},
        toy_song_names(unet.rename),
        {**unet.shapes, **shapes},
        unet.stated,
    )


def toy_unet(layers: Layers, dim: int) -> Counterpart:
    """Return our network that equals the original's ToyConvUNet on points in ``dim`` dimensions.

    Its sizes are read from the shapes of its weights.
    """

    def units(layer: str) -> int:
        weight = layers.weights.get(f"{layer}.weight")
        if weight is None or weight.ndim == 0:
            raise DataError(
                f"{layers.where} does not have the weight '{layer}.weight': give an unmodified file"
            )
        return len(weight)

    count = 0
    while f"dense{count + 1}1.weight" in layers.weights:
        count += 1
    lifting = count // 2
    widths = [units(f"dense{index + 1}1") for index in range(lifting)]
    channels = [units(f"downresblock{index + 1}.conv1") for index in range(len(DOWN_STRIDES))]
    embeddings = {kind: units(f"map_{kind}_layer0") for kind in ("fc", "conv")}
    arguments = {
        "dim": dim,
        "widths": widths,
        "channels": channels,
        "layer_embedding_dim": embeddings["fc"],
        "block_embedding_dim": embeddings["conv"],
    }
    shapes: dict[str, tuple[int, ...]] = {
        **{f"map_{kind}_layer0.weight": (size, size) for kind, size in embeddings.items()},
        **{
            f"dense{index + 1}1.weight": (outputs, inputs)
            for index, (inputs, outputs) in enumerate(pairwise([dim, *widths]))
        },
        **{
            f"downresblock{index + 1}.conv1.weight": (outputs, inputs, 3, 3)
            for index, (inputs, outputs) in enumerate(pairwise([1, *channels]))
        },
    }
    stated = {
        f"{way}resblock{index + 1}.conv1": {"stride": stride, "up": way == "up"}
        for way, strides in (("down", DOWN_STRIDES), ("up", UP_STRIDES))
        for index, stride in enumerate(strides)
    }
    return Counterpart("OriginalToyConvUNet", arguments, toy_names(lifting), shapes, stated)


IMAGE_COUNTERPARTS: dict[str, Callable[[Layers, tuple[int, int, int]], Counterpart]] = {
    "SongUNet": song_unet,
    "DhariwalUNet": dhariwal_unet,
}
TOY_COUNTERPARTS: dict[str, Callable[[Layers, int], Counterpart]] = {
    "ToyConvUNet": toy_unet,
    "ToySongUNet": toy_song_unet,
}
TOY_ENTRIES = {"ToyConvUNet": "dense11", "ToySongUNet": "fc1"}
"""Names of the layers that receive the points."""


def point_dimension(layers: Layers) -> int:
    """Return the dimension of the points that a toy network takes.

    Raises:
        DataError: The layer that receives the points is missing, or is not a matrix.
    """
    name = f"{TOY_ENTRIES[layers.class_name]}.weight"
    weight = layers.weights.get(name)
    if weight is None or weight.ndim != 2:
        raise DataError(
            f"{layers.where} does not have the matrix '{name}': give an unmodified file"
        )
    return int(weight.shape[1])


def _arguments(
    layers: Layers,
    image_shape: tuple[int, int, int],
    known: Mapping[str, tuple[str, Any]],
    more: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return arguments of our network, from those that the original was constructed with.

    Args:
        layers: Layers of the original.
        image_shape: Channels, height and width of its images.
        known: Arguments that our network has too.
        more: Other arguments, with the values that they must have.
    """
    fields = layers.fields[""]
    positional = fields.values.get("_init_args", ())
    if not isinstance(positional, tuple) or positional:
        raise DataError(
            f"{layers.where} was constructed with positional arguments, which are not supported: "
            "give a file of the original training script"
        )
    channels, side, _ = image_shape
    kwargs = fields.mapping("_init_kwargs")
    needed = {"img_resolution": side, "in_channels": channels, "out_channels": channels}
    needed |= {"channel_mult_emb": 4, **more}
    free = ("label_dropout", "channel_mult_noise")
    for name in kwargs.values:
        if name not in (*known, *needed, *free):
            raise DataError(
                f"{kwargs.where} has the argument '{shown(name)}', which is not supported: give a "
                "file of the original training script"
            )
        if name in needed:
            kwargs.require(name, needed[name])
    arguments: dict[str, Any] = {"image_shape": list(image_shape)}
    for name, (ours, default) in known.items():
        value = kwargs.values.get(name, default)
        arguments[ours] = list(value) if isinstance(value, tuple) else value
        if not _is_like(arguments[ours], default):
            raise DataError(
                f"{kwargs.where}: the argument '{name}' has a wrong type or length, expected for "
                f"example {default}: give an unmodified file"
            )
    levels = arguments["channel_mult"]
    if arguments["num_blocks"] * len(levels) > len(layers.weights):
        raise DataError(
            f"{kwargs.where} declares more layers than the network has: give an unmodified file"
        )
    return arguments


def _image_shapes(arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    channels, side = arguments["model_channels"], arguments["image_shape"][1]
    shapes: dict[str, tuple[int, ...]] = {"map_layer1.weight": (4 * channels, 4 * channels)}
    for level, factor in enumerate(arguments["channel_mult"]):
        place, width = f"enc.{side >> level}x{side >> level}", factor * channels
        for index in range(arguments["num_blocks"]):
            shapes[f"{place}_block{index}.conv1.weight"] = (width, width, 3, 3)
    return shapes


def _is_like(value: Any, default: Any) -> bool:
    """Return whether a value is of the same kind as a default, and of a size that networks have."""
    if isinstance(default, list):
        short = isinstance(value, list) and len(value) <= LONGEST_ARGUMENT
        return short and all(_is_like(item, default[0]) for item in value)
    if isinstance(default, str):
        return isinstance(value, str) and len(value) <= LONGEST_ARGUMENT
    kinds = (int,) if isinstance(default, int) else (int, float)
    return type(value) in kinds and abs(value) <= LARGEST_ARGUMENT
