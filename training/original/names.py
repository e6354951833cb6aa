"""What the original code calls the layers of networks.

SongUNet (DDPM++ and NCSN++) and DhariwalUNet (ADM) name a layer by its resolution: ``enc`` and
``dec`` hold ``16x16_block0``, ``16x16_down`` and so on, and a block has ``norm0``, ``conv0``,
``affine``, ``norm1``, ``conv1``, ``skip``, ``norm2``, ``qkv`` and ``proj``, in the order in which
they are used. ToyConvUNet counts its layers from 1: ``dense31`` is what the third does with its
input, and ``dense32`` what it does with the embedding. ToySongUNet has SongUNet's layers, and
``fc1`` to ``fc4`` around them.

Names are those of modules or of their tensors, with dots.
"""

from collections.abc import Callable

Renaming = Callable[[str], str]
"""Gives the original's name for a module or tensor of ours."""

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
    """Names in an image network.

    Args:
        side: Of the images, in pixels.
        depth: Number of levels.
        encoder_type: See ``ImageUNet``.
        last: Normalization and convolution that make the output image.
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
    """Names in a toy network with so many layers that lift a point."""

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
    """Names in a toy network around an image network with these names."""
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
