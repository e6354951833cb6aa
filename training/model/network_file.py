"""Network files: ``network-snapshot-*.pkl``.

A file is written by ``torch.save`` and opened only by ``torch.load(weights_only=True)``, which
rebuilds tensors and plain values and refuses everything else: a file from a stranger cannot run
code. It holds ``{"format": "inflationary-flows network", "version": 1, "parts": {...}, "about":
{...}}``; each part is ``{"class", "arguments", "state"}``:

    schedule    a name in ``SCHEDULES`` (ifs, edm, vp, ve), with the arguments that the basis does
                not give
    basis       EigenBasis: mean [D], eigenvalues [D], eigenvectors [D, D], in float64
    network     a name in ``NETWORKS``, with its arguments and weights; that of questions about
                rows, ``questions``, also has the mixture of M components that it starts from, of D
                numbers and K levels in all: mixture.weights [M], mixture.means [M, D],
                mixture.covariances [M, D, D], mixture.shares [M, K], mixture.reach [D], in float64
    denoiser    NetworkDenoiser, with its arguments (space, noise_cond, preconditioning),
                data_variance [D] and, if there are such,
                output_gain_times [K], output_gains [K, D],
                calibration_times [K], calibration_gains [K, D], calibration_slopes [K, D]
    coordinates of tables: Coordinates, with its arguments (dim, maps, knots; of C conditions also
                conditions, surprise, relevant, skewed, tails, trials, levels by column, and beside,
                the levels of the last conditions) and
                buffers: of discrete columns steps, offsets, least, most [D]; what each map holds,
                levels their networks among them, as levels beside points do; of conditions
                scale.mean, scale.gain [C], surprise.mean [C], surprise.whitening [C, C],
                surprise.quantiles [4]; of sets of trials scale.each of the C of a trial, and
                scale.statistics of the numbers of a set, 2 C + 1, of which the surprise is
    latent_law  of flows that compress, if it was learned: ConditionalMixture, with its arguments
                (kept, compressed, components, width, depth, waves, chained), weights and buffers,
                in float64
    course_USE  how to integrate where nothing else is asked for, for each use (look, points,
                points_and_densities, latents, densities) that one was found for: Course, with its
                arguments (solver, steps, dimensions, melts, quadrature, and the errors that were
                measured: error in standard deviations, nats), times [steps + 1], and if it is
                fitted weights [steps, steps] and integrals [steps], or of a quadrature [steps + 1]
    held_out    of flows that were calibrated: HeldOut, with its arguments (truths n, quantities Q,
                functions, conditions C, oddities K, draws, network, way) and ranks [n, Q],
                contents [n], whitened [n, C], odd [n, K], in float64; network is the digest of all
                other parts, and the file is refused where it is of another

    widths      of posteriors that were trained on simulations: Widths, with its argument (dim D),
                and center, spread [2 D], weights [P, D], bias [D], in float64 (``flow.widths``)

``about`` has data_name, data_dim, dims_to_keep, tmin, tmax and seen; of toys augment_to; of images
image_shape, label_dim, and vectors if labels are no classes; of tables columns, condition_names and
dropped, of likelihoods likelihood (bounds of each parameter by its name, None where there is none);
of images, tables and records in rows the smallest 4,096 of the numbers of 64 bits that rows are
known by, of records by their numbers alone, and of images of so many at random; of records columns,
records (JSON, as data sets of records have it), values (of each column those of its levels; none of
a number, or those that it often has, and then NaN for all others) and ask (the columns of the one
question, none for any); and with ``--disc=adapted --store_grid`` time_grid, a solver and its times.

Classes are looked up by name in a fixed table, and a network is laid out without memory first, so
that a file cannot ask for more than it brings. A file of a newer version, with missing parts, or
with tensors of the wrong shape or not finite, is refused with one line.

``--network`` takes a path or an ``https://`` URL. A URL is downloaded once into
``~/.cache/inflationary-flows`` (or ``$INFLATIONARY_FLOWS_CACHE``), and ``URL#sha256=...`` is
checked.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from torch_utils.arguments import check_arguments
from torch_utils.inert_pickle import shown
from torch_utils.snapshots import MISFITS, Part, build, first_line, read_network
from training.flow.calibration import Calibration
from training.flow.coordinates.coordinates import Coordinates
from training.flow.courses import USES, Course
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.held_out import HeldOut
from training.flow.latent.conditional import ConditionalMixture
from training.flow.output_gain import OutputGain
from training.flow.widths import Widths
from training.model.recipe import SCHEDULES, Recipe, basis_arguments, make_schedule
from training.names import script
from training.networks import NETWORKS

PARTS = {
    "schedule": list(SCHEDULES),
    "basis": ["EigenBasis"],
    "network": list(NETWORKS),
    "denoiser": ["NetworkDenoiser"],
}
"""The classes that each part may be of."""
COORDINATES, LATENT_LAW, HELD_OUT, COURSE = "coordinates", "latent_law", "held_out", "course_{}"
WIDTHS = "widths"
"""Parts that not all files have; of courses one for each use."""
STUDENT = "student"
"""A part of distilled networks of earlier versions, which are refused."""
BASIS_KEYS = ("mean", "eigenvalues", "eigenvectors")
DATA_VARIANCE = "data_variance"
GAIN_KEYS = ("output_gain_times", "output_gains")
CALIBRATION_KEYS = ("calibration_times", "calibration_gains", "calibration_slopes")


@dataclass
class Contents:
    """What a network file holds; attributes are those of ``Model``."""

    denoiser: NetworkDenoiser
    recipe: Recipe
    about: dict[str, Any] = field(default_factory=dict)
    coordinates: Coordinates | None = None
    learned: ConditionalMixture | None = None
    courses: dict[str, Course] = field(default_factory=dict)
    held_out: HeldOut | None = None
    widths: Widths | None = None


ModelT = TypeVar("ModelT", bound=Contents)


def model_digest(model: Contents) -> str:
    """SHA-256 of all that decides what the flow does: not of truths that were held out, and not of
    what the file says about itself."""
    content = hashlib.sha256()
    for name, part in sorted(parts_of(model).items()):
        if name in (HELD_OUT, WIDTHS):
            continue
        content.update(repr((name, part.class_name, sorted(part.arguments.items()))).encode())
        for key, tensor in sorted(part.state.items()):
            content.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # Contiguous has any strides where there is one number, which views mind.
            plain = tensor.clone(memory_format=torch.contiguous_format).view(-1)
            content.update(plain.view(torch.uint8).numpy().data)
    return content.hexdigest()


def parts_of(model: Contents) -> dict[str, Part]:
    """What a network file has of a model, by name, on the CPU."""
    recipe, denoiser = model.recipe, model.denoiser
    state = {DATA_VARIANCE: denoiser.data_variance}
    if denoiser.output_gain is not None:
        gain = denoiser.output_gain
        state |= zip(GAIN_KEYS, (gain.spline.times, gain.gains), strict=True)
    if denoiser.calibration is not None:
        fitted = denoiser.calibration
        values = (fitted.times, fitted.gains, fitted.slopes)
        state |= zip(CALIBRATION_KEYS, values, strict=True)
    parts = {
        "schedule": Part(recipe.schedule, recipe.schedule_arguments),
        "basis": Part("EigenBasis", {}, _on_cpu(denoiser.basis.state_dict())),
        "network": Part(
            recipe.network, recipe.network_arguments, _on_cpu(denoiser.network.state_dict())
        ),
        "denoiser": Part("NetworkDenoiser", recipe.denoiser_arguments, _on_cpu(state)),
    }
    further: dict[str, Any] = {
        COORDINATES: model.coordinates,
        LATENT_LAW: model.learned,
        HELD_OUT: model.held_out,
        WIDTHS: model.widths,
        **{COURSE.format(use): course for use, course in model.courses.items()},
    }
    for name, part in further.items():
        if part is not None:
            state = _on_cpu(part.state_dict())
            parts[name] = Part(type(part).__name__, part.arguments, state)
    return parts


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in state.items()}


def read_model(path: Path, make: type[ModelT], end_std: float) -> ModelT:
    """What a network file holds, on the CPU, as a model of this type; its denoiser is not yet set
    to evaluation. ``end_std`` is ``A0`` of the schedule: how a flow is scaled is not the network's
    business. Raises DataError if the file is missing, broken, foreign, or inconsistent, UsageError
    if ``end_std`` is given for a schedule without a scale."""
    parts, about = read_network(path)
    if STUDENT in parts:
        raise DataError(
            f"{path}: student networks are no longer supported; train again with {script('train')}"
        )
    for name, classes in PARTS.items():
        if name not in parts:
            raise DataError(f"{path} lacks its {name}")
        if parts[name].class_name not in classes:
            raise DataError(
                f"{path}: its {name} is a '{parts[name].class_name}', which this version does not "
                f"know; it knows {', '.join(classes)}"
            )
    schedule, network, denoiser = (parts[name] for name in ("schedule", "network", "denoiser"))
    recipe = Recipe(
        schedule.class_name,
        schedule.arguments,
        network.class_name,
        network.arguments,
        denoiser.arguments,
    )
    if recipe.schedule != "ifs" and end_std != 1:
        raise UsageError(
            f"end_vars is {end_std:g}, but a model of {recipe.schedule} has no such scale"
        )
    basis = read_basis(path, parts["basis"].state)
    module = build(path, "network", network, NETWORKS)
    label_dim = getattr(module, "label_dim", 0)
    coordinates = _coordinates(path, parts.get(COORDINATES), basis.dim, label_dim)
    try:
        made = _denoiser(recipe, module, basis, denoiser.state, end_std)
        made.schedule.t_min, last = _times(about, basis.dim)
        check_network(made, last)
        learned = _latent_law(path, parts.get(LATENT_LAW), basis.dim, about["dims_to_keep"])
        named = {use: parts.get(COURSE.format(use)) for use in USES}
        courses = {use: _course(path, part, use, basis.dim) for use, part in named.items() if part}
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error
    except MISFITS as error:
        raise DataError(f"{path} is inconsistent: {first_line(error)}") from error
    model = make(made, recipe, about, coordinates, learned, courses)
    if HELD_OUT in parts:
        model.held_out = _held_out(path, parts[HELD_OUT], model)
    if WIDTHS in parts:
        model.widths = _widths(path, parts[WIDTHS], basis.dim)
    return model


def _widths(path: Path, part: Part, dim: int) -> Widths:
    """The widths of a file. Raises DataError if they are broken."""
    widths = build(path, WIDTHS, part, {"Widths": Widths})
    try:
        if widths.dim != dim:
            raise ValueError(f"it has widths of {widths.dim} parameters, but {dim} columns")
        widths.check()
    except ValueError as error:
        raise DataError(f"{path} is inconsistent: {error}") from error
    return widths


def _held_out(path: Path, part: Part, model: Contents) -> HeldOut:
    """The held-out truths of a file. Raises DataError if they are broken, or those of another
    network."""
    truths = build(path, HELD_OUT, part, {"HeldOut": HeldOut})
    try:
        truths.check()
    except ValueError as error:
        raise DataError(f"{path} is inconsistent: {error}") from error
    if truths.network != model_digest(model):
        raise DataError(
            f"{path} has held-out truths of another network: make it anew by "
            f"{script('posterior')} calibrate"
        )
    return truths


def _coordinates(path: Path, part: Part | None, dim: int, label_dim: int) -> Coordinates | None:
    """The coordinates of a file of a table. Raises DataError if they are broken."""
    if part is None:
        return None
    coordinates = build(path, COORDINATES, part, {"Coordinates": Coordinates})
    if coordinates.dim != dim:
        raise DataError(f"{path} has coordinates of {coordinates.dim} columns, its basis {dim}")
    try:
        coordinates.check()
    except ValueError as error:
        raise DataError(f"{path} has broken coordinates: {error}") from error
    if coordinates.label_dim != label_dim:
        raise DataError(
            f"{path} has coordinates of {coordinates.label_dim} conditions, its network takes "
            f"{label_dim}"
        )
    return coordinates


def _latent_law(path: Path, part: Part | None, dim: int, kept: int) -> ConditionalMixture | None:
    """The learned law of a file. Raises DataError or ValueError if it is broken."""
    if part is None:
        return None
    if any(tensor.dtype != torch.float64 for tensor in part.state.values()):
        raise ValueError("its law of latents is not in float64")
    law = build(path, LATENT_LAW, part, {"ConditionalMixture": ConditionalMixture})
    if (law.kept, law.kept + law.compressed) != (kept, dim):
        raise ValueError(
            f"its law of latents is of {law.kept} kept and {law.compressed} compressed dimensions, "
            f"but it keeps {kept} of {dim}"
        )
    law.check()
    return law


def _course(path: Path, part: Part, use: str, dim: int) -> Course:
    """A course of a file. Raises DataError or ValueError if it is broken."""
    course = build(path, COURSE.format(use), part, {"Course": Course})
    if course.dimensions != dim or course.melts != USES[use].melts:
        raise ValueError(f"its course for {use} is of another dimension, or goes another way")
    course.check()
    return course


def read_basis(path: Path, state: Mapping[str, Tensor]) -> EigenBasis:
    """The basis of a file. Raises DataError if its tensors are not those of one."""
    if set(state) != set(BASIS_KEYS):
        raise DataError(
            f"{path}: its basis has {shown(sorted(state))}, not {', '.join(BASIS_KEYS)}"
        )
    dim = state["mean"].numel()
    shapes = [tuple(state[key].shape) for key in BASIS_KEYS]
    if shapes != [(dim,), (dim,), (dim, dim)] or dim == 0:
        raise DataError(f"{path}: the shapes of its basis, {shapes}, do not belong together")
    if any(tensor.dtype != torch.float64 for tensor in state.values()):
        raise DataError(f"{path}: its basis must be in float64")
    probe = torch.linspace(-1, 1, dim, dtype=torch.float64)
    turned = state["eigenvectors"] @ (state["eigenvectors"].T @ probe)
    if not torch.allclose(turned, probe, atol=1e-6):
        raise DataError(f"{path}: its eigenvectors are not orthonormal")
    if (state["eigenvalues"] < 0).any() or (state["eigenvalues"].diff() > 0).any():
        raise DataError(f"{path}: its eigenvalues must be sorted downward and not negative")
    if state["eigenvalues"][0] == 0:
        raise DataError(f"{path}: its eigenvalues are all 0: it is of data that do not vary")
    return EigenBasis(state["mean"], state["eigenvalues"], state["eigenvectors"])


def _denoiser(
    recipe: Recipe,
    network: nn.Module,
    basis: EigenBasis,
    state: Mapping[str, Tensor],
    end_std: float,
) -> NetworkDenoiser:
    """The denoiser of a file. Raises ValueError or UsageError if its parts do not fit together."""
    unknown = sorted(set(state) - {DATA_VARIANCE, *GAIN_KEYS, *CALIBRATION_KEYS})
    if unknown:
        raise ValueError(f"its denoiser has '{shown(unknown[0])}', which is not known")
    make, given = SCHEDULES[recipe.schedule], basis_arguments(recipe.schedule, basis)
    check_arguments(make, recipe.schedule_arguments, beside=given)
    given_parts = ("network", "basis", "schedule", "data_variance", "output_gain")
    check_arguments(NetworkDenoiser, recipe.denoiser_arguments, beside=given_parts)
    variance = state.get(DATA_VARIANCE)
    if variance is not None and not (
        variance.shape == basis.eigenvalues.shape and (variance >= 0).all()
    ):
        raise ValueError("its data_variance does not belong to its basis")
    denoiser = NetworkDenoiser(
        network,
        basis,
        make_schedule(recipe.schedule, recipe.schedule_arguments, basis, end_std),
        **recipe.denoiser_arguments,
        data_variance=variance,
        output_gain=_output_gain(state, basis.dim),
    )
    denoiser.calibration = _calibration(state, basis.dim)
    if denoiser.calibration and denoiser.preconditioning != "ifs":
        raise ValueError("it has a calibration, which only models of ifs have")
    return denoiser


def _output_gain(state: Mapping[str, Tensor], dim: int) -> OutputGain | None:
    if not _complete(state, GAIN_KEYS):
        return None
    times, gains = (state[key] for key in GAIN_KEYS)
    output_gain = OutputGain(times, gains)
    if gains.shape[1] != dim:
        raise ValueError(f"output gain of {gains.shape[1]} and basis of {dim} dimensions")
    return output_gain


def _calibration(state: Mapping[str, Tensor], dim: int) -> Calibration | None:
    if not _complete(state, CALIBRATION_KEYS):
        return None
    calibration = Calibration(*(state[key] for key in CALIBRATION_KEYS))
    if calibration.slopes.shape[1] != dim:
        raise ValueError(
            f"calibration of {calibration.slopes.shape[1]} and basis of {dim} dimensions"
        )
    return calibration


def _complete(state: Mapping[str, Tensor], keys: tuple[str, ...]) -> bool:
    """Whether all of the keys are there; ValueError if some are, but not all."""
    missing = [key for key in keys if key not in state]
    if missing and len(missing) < len(keys):
        raise ValueError(f"it lacks {', '.join(missing)}, but has what goes with it")
    return not missing


def _times(about: Mapping[str, Any], dim: int) -> tuple[float, float]:
    """The first and last time; ValueError unless what scripts rely on makes sense."""
    if about.get("data_dim") != dim:
        raise ValueError(f"it says data_dim {about.get('data_dim')}, but its basis has {dim}")
    if about.get("dims_to_keep") not in range(1, dim + 1):
        raise ValueError(f"it keeps {about.get('dims_to_keep')} of {dim} dimensions")
    first, last = about.get("tmin"), about.get("tmax")
    if not (isinstance(first, float | int) and isinstance(last, float | int)):
        raise ValueError("it does not say its first and last time")
    if not 0 <= first < last < math.inf:
        raise ValueError(f"its times run from {first} to {last}")
    return float(first), float(last)


def check_network(denoiser: NetworkDenoiser, t_max: float) -> None:
    """Calls a denoiser on one point at both ends.

    That finds a network that does not fit its basis, and weights, rates or times so large that
    nothing finite comes of them. Raises ValueError if it is such a network, or its schedule has
    other dimensions than its basis, RuntimeError if it cannot be called."""
    if denoiser.schedule.dim != denoiser.basis.dim:
        dims = f"{denoiser.schedule.dim} and basis of {denoiser.basis.dim}"
        raise ValueError(f"schedule of {dims} dimensions")
    point = torch.zeros(1, denoiser.basis.dim, dtype=torch.float64)
    label_dim = getattr(denoiser.network, "label_dim", 0)
    given = {"labels": point.new_zeros(1, label_dim)} if label_dim else {}
    denoiser.eval()
    for time in (denoiser.schedule.t_min, t_max):
        t = torch.tensor(time, dtype=torch.float64)
        with torch.no_grad():
            out = denoiser.residual(point, t, **given)
            if out.shape != point.shape:
                raise ValueError(f"the network gives {tuple(out.shape)} for {tuple(point.shape)}")
            out = denoiser(point, t, **given)
        if not (out.isfinite().all() and denoiser.schedule.scale(t).isfinite()):
            raise ValueError(f"its denoiser or its scale is not finite at t = {time:g}")
