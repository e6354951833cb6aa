"""Models of the paper's original code as models of ours.

The original's denoiser is ours (see ``training.flow.denoisers``) with the noise condition
``(M - 1) t``, M = 1000, of t in single precision. No variance is raised: ours has a floor by which
a loss can divide, but evaluation does not. The file says in ``loss_fn`` up to which time it was
trained, and in ``dataset_kwargs`` on what.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from dnnlib.errors import DataError, UsageError, agree
from torch_utils.inert_pickle import shown
from training.data.toys import TOY_NAMES, Toy
from training.flow.denoisers import FLOAT32_DDPM, SPACES, NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.model.model import Model, Recipe, check_network
from training.original.counterparts import IMAGE_COUNTERPARTS, TOY_COUNTERPARTS, Counterpart
from training.original.file import ALLOWED, Fields, Layers, OriginalFile, read_original
from training.original.flow import read_basis, read_schedule
from training.original.networks import MODULE_CLASSES, build
from training.simulation.images import plain_name

IMAGE_MODEL, TOY_MODEL = "IFsPreCond", "IFsToyPreCond"
IMAGE_T_MAX = 15.01
"""Last time of the paper's image networks."""
STEPS = 1000
"""``M``; the noise condition is then ``999 t``."""
LONGEST_NAME = 80


@dataclass(frozen=True)
class Imported:
    """A model, and where it is from.

    Attributes:
        model: Ready for evaluation.
        origin: Plain values: what the original calls its classes, and the file's SHA-256.
    """

    model: Model
    origin: dict[str, Any]


def import_original(
    path: Path, data_name: str | None = None, t_max: float | None = None
) -> Imported:
    """The model in a file of the original code.

    Args:
        path: The file.
        data_name: What the network was trained on; None takes what the file says.
        t_max: Last time; None takes what the file says, or the paper's of image networks.

    Raises:
        DataError: The file is missing, broken or unsafe, or its network is not one that is known.
        UsageError: An option contradicts the file, or is needed since the file does not say.
    """
    file = read_original(path)
    record = file.network
    if record.class_name not in (IMAGE_MODEL, TOY_MODEL):
        raise DataError(f"{path} holds a '{shown(record.class_name)}' as its 'ema': {ALLOWED}")
    fields = Fields(f"{path}: its {record.class_name}", record.state)
    steps, space = fields.number("M"), fields.text("space")
    if steps != STEPS or space not in SPACES:
        raise DataError(
            f"{fields.where} has M = {steps:g} and space = '{shown(space)}': M = {STEPS} and "
            f"{' or '.join(SPACES)} are known"
        )
    basis = read_basis(fields, file.principal_axes())
    arguments, schedule = read_schedule(fields, basis)
    read_network = _toy if record.class_name == TOY_MODEL else _images
    layers, counterpart, about = read_network(file, fields, basis, data_name)
    default_t_max = None if record.class_name == TOY_MODEL else IMAGE_T_MAX
    about |= {
        "data_dim": basis.dim,
        "dims_to_keep": arguments["dims_to_keep"],
        "tmin": 0.0,
        "tmax": _last_time(file, t_max, default_t_max),
    }
    denoiser_arguments: dict[str, Any] = {
        "space": space,
        "noise_cond": FLOAT32_DDPM,
        "preconditioning": "ifs",
    }
    denoiser = NetworkDenoiser(
        build(layers, counterpart),
        basis,
        schedule,
        **denoiser_arguments,
        data_variance=basis.eigenvalues,
    )
    recipe = Recipe(
        "ifs", arguments, counterpart.network, counterpart.arguments, denoiser_arguments
    )
    try:
        check_network(denoiser, about["tmax"])
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    model = Model(denoiser.eval().requires_grad_(False), recipe, about)
    origin = {"classes": [record.class_name, layers.class_name], "sha256": file.sha256}
    return Imported(model, origin)


def _toy(
    file: OriginalFile, fields: Fields, basis: EigenBasis, data_name: str | None
) -> tuple[Layers, Counterpart, dict[str, Any]]:
    known = file.section("dataset_kwargs")
    if "dset_name" in known.values:
        name = known.text("dset_name")
        agree("data_name", data_name, shown(name), f"{file.path}")
    elif data_name is None:
        raise UsageError(f"{file.path} does not say which toy it is of: give --data_name")
    else:
        name = data_name
    if name not in TOY_NAMES:
        raise DataError(
            f"{file.path} is of the toy '{shown(name)}', which is not known: {', '.join(TOY_NAMES)}"
        )
    if known.values.get("augment_to") is not None and known.number("augment_to"):
        raise DataError(
            f"{file.path} is of a toy embedded in more dimensions, by a matrix that is not in it"
        )
    toy = Toy(name)
    if toy.dim != basis.dim:
        raise DataError(f"{file.path} has {basis.dim} dimensions, but the toy {name} {toy.dim}")
    layers = _layers(file, fields, set(TOY_COUNTERPARTS))
    counterpart = TOY_COUNTERPARTS[layers.class_name](layers, basis.dim)
    return layers, counterpart, {"data_name": name, "augment_to": 0}


def _images(
    file: OriginalFile, fields: Fields, basis: EigenBasis, data_name: str | None
) -> tuple[Layers, Counterpart, dict[str, Any]]:
    side, channels = fields.number("img_resolution"), fields.number("img_channels")
    if channels not in (1, 3) or channels * side**2 != basis.dim:
        raise DataError(
            f"{fields.where} has images of {side:g} x {side:g} pixels in {channels:g} channel(s), "
            f"but {basis.dim} variances"
        )
    image_shape = (int(channels), int(side), int(side))
    layers = _layers(file, fields, set(IMAGE_COUNTERPARTS))
    counterpart = IMAGE_COUNTERPARTS[layers.class_name](layers, image_shape)
    about: dict[str, Any] = {
        "image_shape": list(image_shape),
        "label_dim": counterpart.arguments["label_dim"],
    }
    source = file.section("dataset_kwargs").values.get("path")
    if data_name is not None:
        about["data_name"] = plain_name(data_name)
    elif isinstance(source, str):
        # The path is of another machine, of any system; its stem becomes part of file names.
        stem = re.sub(r"[^\w.+-]+", "_", PureWindowsPath(source).stem)[:LONGEST_NAME].strip("_")
        about["data_name"] = stem if re.search(r"\w", stem) else "images"
    return layers, counterpart, about


def _layers(file: OriginalFile, fields: Fields, known: set[str]) -> Layers:
    network = fields.mapping("_modules").record("model")
    if network.class_name not in known:
        raise DataError(
            f"{fields.where} has the network '{shown(network.class_name)}': of its kind, "
            f"{' and '.join(sorted(known))} can be imported"
        )
    where = f"{file.path}: its {network.class_name}"
    return Layers.of(network, where, MODULE_CLASSES, file.size)


def _last_time(file: OriginalFile, given: float | None, default: float | None) -> float:
    loss = file.section("loss_fn")
    trained = float(loss.number("t_max")) if "t_max" in loss.values else None
    if trained is not None and not 0 < trained < math.inf:
        raise DataError(f"{loss.where}: its 't_max' is {trained:g}, and no time")
    if given is not None and trained is not None and given > trained:
        raise UsageError(
            f"--tmax is {given:g}, but {file.path} was trained up to {trained:g}: give less"
        )
    last = given if given is not None else trained if trained is not None else default
    if last is None:
        raise UsageError(f"{file.path} does not say its last time: give --tmax")
    return last
