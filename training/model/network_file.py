"""Network files: ``network-snapshot-*.pkl``.

A file is written by ``torch.save`` and read as data: the reader rebuilds tensors and plain values
and rejects everything else, so that an untrusted file cannot run code. It contains
``{"format": "inflationary-flows network", "version": 1, "parts": {...}, "about": {...}}``.
Each part is ``{"class", "arguments", "state"}``:

    schedule    a name in ``SCHEDULES`` (ifs, edm, vp, ve), with the arguments that the basis does
                not determine
    basis       EigenBasis: mean [D], eigenvalues [D], eigenvectors [D, D], in float64
    network     a name in ``NETWORKS``, with its arguments and weights. The network for conditional
                queries about rows, ``questions``, also has its initial mixture of M components, for
                D numbers and K levels in total: mixture.weights [M], mixture.means [M, D],
                mixture.covariances [M, D, D], mixture.shares [M, K], mixture.reach [D], in float64
    denoiser    NetworkDenoiser, with its arguments (space, noise_cond, preconditioning),
                data_variance [D] and, if the network has them,
                output_gain_times [K], output_gains [K, D],
                calibration_times [K], calibration_gains [K, D], calibration_slopes [K, D]
    coordinates of tables: Coordinates, with its arguments (dim, maps, knots; with C conditions also
                conditions, surprise, relevant, skewed, tails, trials, levels by column, and beside,
                the levels of the last conditions) and its buffers. Discrete columns have steps,
                offsets, least, most [D]. Each map has its own buffers, including the networks of
                category levels. Conditions have scale.mean, scale.gain [C], surprise.mean [C],
                surprise.whitening [C, C], surprise.quantiles [4]. Sets of trials have scale.each
                for the C numbers of a trial, scale.statistics for the 2 C + 1 numbers of a set, and
                surprise for the latter
    latent_law  of compressing flows, if it was learned: ConditionalMixture, the distribution of the
                compressed latents, with its arguments (kept, compressed, components, width, depth,
                waves, chained), weights and buffers, in float64
    course_USE  the default integration schedule for each use (look, points, points_and_densities,
                latents, densities) for which one was found: Course, with its arguments (solver,
                steps, dimensions, melts, quadrature, and the measured errors: error in standard
                deviations, nats), times [steps + 1], for a fitted solver weights [steps, steps] and
                integrals [steps], for a quadrature integrals [steps + 1]
    held_out    of calibrated flows: HeldOut, with its arguments (truths n, quantities Q, functions,
                conditions C, oddities K, draws, network, way) and ranks [n, Q], contents [n],
                whitened [n, C], odd [n, K], in float64. The argument network is the digest of all
                other parts; a file with another digest is rejected

    widths      of posteriors that were trained on simulations: Widths, with its argument (dim D),
                and center, spread [2 D], weights [P, D], bias [D], in float64 (``flow.widths``)

``about`` has data_name, data_dim, dims_to_keep, tmin, tmax and seen (samples trained on). Toys add
augment_to. Images add image_shape and label_dim, and vectors if labels are vectors instead of
classes. Tables add columns, condition_names and dropped. Likelihoods add likelihood, the bounds of
each parameter by its name, None where there is none. Images, tables and records add rows: the
smallest 4,096 of the 64-bit hashes that identify training rows (of records, the hashes of their
numbers only; of images, those of a random subset of this size). Records add columns, records (JSON,
as in data sets of records), values (for each column its levels, nothing for a number, or a number's
frequently repeated values and then NaN for all others) and ask (the target columns of the one
query, nothing for any query). With ``--disc=adapted --store_grid`` there is time_grid, a solver and
its times.

Classes are looked up by name in a fixed table. The network is first laid out without memory, so
that a file cannot request more memory than its own tensors need. A file of a newer version, with
missing parts, or with tensors of the wrong shape or with non-finite values, is rejected with a
one-line message.

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
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.held_out import HeldOut
from training.flow.integrations import USES, Integration
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
"""Allowed classes of each required part."""
FILE_NAMES: dict[type, str] = {Integration: "Course"}
"""Class names in network files that differ from those of the code."""
COORDINATES, LATENT_LAW, HELD_OUT, COURSE = "coordinates", "latent_law", "held_out", "course_{}"
WIDTHS = "widths"
"""Names of optional parts of a network file; each use has one integration schedule (course)."""
STUDENT = "student"
"""Part of distilled networks of earlier versions, which are rejected."""
BASIS_KEYS = ("mean", "eigenvalues", "eigenvectors")
DATA_VARIANCE = "data_variance"
GAIN_KEYS = ("output_gain_times", "output_gains")
CALIBRATION_KEYS = ("calibration_times", "calibration_gains", "calibration_slopes")


@dataclass
class Contents:
    """Contents of a network file; see ``Model`` for the attributes."""

    denoiser: NetworkDenoiser
    recipe: Recipe
    about: dict[str, Any] = field(default_factory=dict)
    coordinates: Coordinates | None = None
    learned: ConditionalMixture | None = None
    integrations: dict[str, Integration] = field(default_factory=dict)
    held_out: HeldOut | None = None
    widths: Widths | None = None


ModelT = TypeVar("ModelT", bound=Contents)


def model_digest(model: Contents) -> str:
    """Return the SHA-256 of everything that determines the flow.

    Calibration results and metadata are not included.
    """
    content = hashlib.sha256()
    for name, part in sorted(parts_of(model).items()):
        if name in (HELD_OUT, WIDTHS):
            continue
        content.update(repr((name, part.class_name, sorted(part.arguments.items()))).encode())
        for key, tensor in sorted(part.state.items()):
            content.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # A contiguous tensor with one number may have any strides, which views reject.
            plain = tensor.clone(memory_format=torch.contiguous_format).view(-1)
            content.update(plain.view(torch.uint8).numpy().data)
    return content.hexdigest()


def parts_of(model: Contents) -> dict[str, Part]:
    """Return the parts of a model's network file by name, on the CPU."""
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
        **{COURSE.format(use): integration for use, integration in model.integrations.items()},
    }
    for name, part in further.items():
        if part is not None:
            state = _on_cpu(part.state_dict())
            class_name = FILE_NAMES.get(type(part), type(part).__name__)
            parts[name] = Part(class_name, part.arguments, state)
    return parts


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in state.items()}


def read_model(path: Path, make: type[ModelT], end_std: float) -> ModelT:
    """Read a network file as a model of a given type, on the CPU.

    The denoiser is still in training mode.

    Args:
        path: The network file.
        make: Class of the model.
        end_std: ``A0`` of the schedule. The network does not depend on the scale of the flow.

    Raises:
        DataError: The file is missing, broken, foreign, or inconsistent.
        UsageError: ``end_std`` is given for a schedule without a scale.
    """
    parts, about = read_network(path)
    if STUDENT in parts:
        raise DataError(
            f"{path}: student networks are no longer supported; train again with {script('train')}"
        )
    for name, classes in PARTS.items():
        if name not in parts:
            raise DataError(f"{path} lacks the part '{name}'")
        if parts[name].class_name not in classes:
            raise DataError(
                f"{path}: the part '{name}' is of the unknown class '{parts[name].class_name}'; "
                f"this version knows {', '.join(classes)}"
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
            f"end_vars is {end_std:g}, but the schedule {recipe.schedule} has no such "
            "parameter: leave it out"
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
        integrations = {
            use: _course(path, part, use, basis.dim) for use, part in named.items() if part
        }
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error
    except MISFITS as error:
        raise DataError(f"{path} is inconsistent: {first_line(error)}") from error
    model = make(made, recipe, about, coordinates, learned, integrations)
    if HELD_OUT in parts:
        model.held_out = _held_out(path, parts[HELD_OUT], model)
    if WIDTHS in parts:
        model.widths = _widths(path, parts[WIDTHS], basis.dim)
    return model


def _widths(path: Path, part: Part, dim: int) -> Widths:
    """Build the ``Widths`` part of a file.

    Raises:
        DataError: The part is broken.
    """
    widths = build(path, WIDTHS, part, {"Widths": Widths})
    try:
        if widths.dim != dim:
            raise ValueError(
                f"the part 'widths' has {widths.dim} parameters, but the data have {dim} columns"
            )
        widths.check()
    except ValueError as error:
        raise DataError(f"{path} is inconsistent: {error}") from error
    return widths


def _held_out(path: Path, part: Part, model: Contents) -> HeldOut:
    """Build the ``HeldOut`` part of a file.

    Raises:
        DataError: The part is broken, or belongs to another network.
    """
    truths = build(path, HELD_OUT, part, {"HeldOut": HeldOut})
    try:
        truths.check()
    except ValueError as error:
        raise DataError(f"{path} is inconsistent: {error}") from error
    if truths.network != model_digest(model):
        raise DataError(
            f"{path} has a calibration of another network: calibrate again with "
            f"{script('posterior')} calibrate"
        )
    return truths


def _coordinates(path: Path, part: Part | None, dim: int, label_dim: int) -> Coordinates | None:
    """Build the coordinates of a table's network.

    Raises:
        DataError: The part is broken.
    """
    if part is None:
        return None
    coordinates = build(path, COORDINATES, part, {"Coordinates": Coordinates})
    if coordinates.dim != dim:
        raise DataError(
            f"{path} has coordinates of {coordinates.dim} columns, but a basis of {dim}"
        )
    try:
        coordinates.check()
    except ValueError as error:
        raise DataError(f"{path} has damaged coordinates: {error}") from error
    if coordinates.label_dim != label_dim:
        raise DataError(
            f"{path} has coordinates with {coordinates.label_dim} conditions, but its "
            f"network has {label_dim}"
        )
    return coordinates


def _latent_law(path: Path, part: Part | None, dim: int, kept: int) -> ConditionalMixture | None:
    """Build the learned distribution of compressed latents.

    Raises:
        DataError: The part is broken.
        ValueError: The part is broken.
    """
    if part is None:
        return None
    if any(tensor.dtype != torch.float64 for tensor in part.state.values()):
        raise ValueError("the latent distribution is not float64")
    distribution = build(path, LATENT_LAW, part, {"ConditionalMixture": ConditionalMixture})
    if (distribution.kept, distribution.kept + distribution.compressed) != (kept, dim):
        raise ValueError(
            f"the latent distribution has {distribution.kept} kept and "
            f"{distribution.compressed} compressed "
            f"dimensions, but the network keeps {kept} of {dim}"
        )
    distribution.check()
    return distribution


def _course(path: Path, part: Part, use: str, dim: int) -> Integration:
    """Build an integration schedule.

    Raises:
        DataError: The part is broken.
        ValueError: The part is broken.
    """
    integration = build(path, COURSE.format(use), part, {"Course": Integration})
    if integration.dimensions != dim or integration.melts != USES[use].melts:
        raise ValueError(f"the integration schedule for {use} has another dimension or direction")
    integration.check()
    return integration


def read_basis(path: Path, state: Mapping[str, Tensor]) -> EigenBasis:
    """Build the eigenbasis from the tensors of a network file.

    Raises:
        DataError: The tensors are not those of a basis.
    """
    if set(state) != set(BASIS_KEYS):
        raise DataError(
            f"{path}: the basis has {shown(sorted(state))} instead of {', '.join(BASIS_KEYS)}"
        )
    dim = state["mean"].numel()
    shapes = [tuple(state[key].shape) for key in BASIS_KEYS]
    if shapes != [(dim,), (dim,), (dim, dim)] or dim == 0:
        raise DataError(f"{path}: the shapes of the basis do not match: {shapes}")
    if any(tensor.dtype != torch.float64 for tensor in state.values()):
        raise DataError(f"{path}: the basis must be float64")
    probe = torch.linspace(-1, 1, dim, dtype=torch.float64)
    turned = state["eigenvectors"] @ (state["eigenvectors"].T @ probe)
    if not torch.allclose(turned, probe, atol=1e-6):
        raise DataError(f"{path}: the eigenvectors of the basis are not orthonormal")
    if (state["eigenvalues"] < 0).any() or (state["eigenvalues"].diff() > 0).any():
        raise DataError(
            f"{path}: the eigenvalues of the basis must be in decreasing order and not negative"
        )
    if state["eigenvalues"][0] == 0:
        raise DataError(f"{path}: the eigenvalues of the basis are all 0: the data were constant")
    return EigenBasis(state["mean"], state["eigenvalues"], state["eigenvectors"])


def _denoiser(
    recipe: Recipe,
    network: nn.Module,
    basis: EigenBasis,
    state: Mapping[str, Tensor],
    end_std: float,
) -> NetworkDenoiser:
    """Build the denoiser of a file.

    Raises:
        ValueError: The parts do not match.
        UsageError: The parts do not match.
    """
    unknown = sorted(set(state) - {DATA_VARIANCE, *GAIN_KEYS, *CALIBRATION_KEYS})
    if unknown:
        raise ValueError(f"the denoiser has an unknown tensor, '{shown(unknown[0])}'")
    make, given = SCHEDULES[recipe.schedule], basis_arguments(recipe.schedule, basis)
    check_arguments(make, recipe.schedule_arguments, beside=given)
    given_parts = ("network", "basis", "schedule", "data_variance", "output_gain")
    check_arguments(NetworkDenoiser, recipe.denoiser_arguments, beside=given_parts)
    variance = state.get(DATA_VARIANCE)
    if variance is not None and not (
        variance.shape == basis.eigenvalues.shape and (variance >= 0).all()
    ):
        raise ValueError("data_variance and the basis have different dimensions")
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
        raise ValueError(
            "the file has a calibration, which only inflationary models (ifs) can have"
        )
    return denoiser


def _output_gain(state: Mapping[str, Tensor], dim: int) -> OutputGain | None:
    if not _complete(state, GAIN_KEYS):
        return None
    times, gains = (state[key] for key in GAIN_KEYS)
    output_gain = OutputGain(times, gains)
    if gains.shape[1] != dim:
        raise ValueError(
            f"the output gain has {gains.shape[1]} dimensions, but the basis has {dim}"
        )
    return output_gain


def _calibration(state: Mapping[str, Tensor], dim: int) -> Calibration | None:
    if not _complete(state, CALIBRATION_KEYS):
        return None
    calibration = Calibration(*(state[key] for key in CALIBRATION_KEYS))
    if calibration.slopes.shape[1] != dim:
        raise ValueError(
            f"the calibration has {calibration.slopes.shape[1]} dimensions, but the basis has {dim}"
        )
    return calibration


def _complete(state: Mapping[str, Tensor], keys: tuple[str, ...]) -> bool:
    """Return whether all of the keys are present.

    Raises:
        ValueError: Some of the keys are present, but not all.
    """
    missing = [key for key in keys if key not in state]
    if missing and len(missing) < len(keys):
        raise ValueError(f"the file has parts that need {', '.join(missing)}, which are missing")
    return not missing


def _times(about: Mapping[str, Any], dim: int) -> tuple[float, float]:
    """Return the first and the last time.

    Raises:
        ValueError: Metadata that scripts rely on is invalid.
    """
    if about.get("data_dim") != dim:
        raise ValueError(f"data_dim is {about.get('data_dim')}, but the basis has {dim}")
    if about.get("dims_to_keep") not in range(1, dim + 1):
        raise ValueError(
            f"dims_to_keep is {about.get('dims_to_keep')}, but the data have {dim} dimensions"
        )
    first, last = about.get("tmin"), about.get("tmax")
    if not (isinstance(first, float | int) and isinstance(last, float | int)):
        raise ValueError("the file does not contain the first and last time")
    if not 0 <= first < last < math.inf:
        raise ValueError(f"the times run from {first} to {last}")
    return float(first), float(last)


def check_network(denoiser: NetworkDenoiser, t_max: float) -> None:
    """Evaluate a denoiser on one point at both end times.

    The evaluation detects a network that does not match its basis, and weights, rates or times that
    are so large that results are not finite.

    Raises:
        ValueError: The network does not match, its results are not finite, or schedule and basis
            have different dimensions.
        RuntimeError: The network cannot be evaluated.
    """
    if denoiser.schedule.dim != denoiser.basis.dim:
        dims = f"{denoiser.schedule.dim} and {denoiser.basis.dim}"
        raise ValueError(f"the schedule and the basis have different dimensions, {dims}")
    point = torch.zeros(1, denoiser.basis.dim, dtype=torch.float64)
    label_dim = getattr(denoiser.network, "label_dim", 0)
    given = {"labels": point.new_zeros(1, label_dim)} if label_dim else {}
    denoiser.eval()
    for time in (denoiser.schedule.t_min, t_max):
        t = torch.tensor(time, dtype=torch.float64)
        with torch.no_grad():
            out = denoiser.residual(point, t, **given)
            if out.shape != point.shape:
                raise ValueError(
                    f"the network returns shape {tuple(out.shape)} for {tuple(point.shape)}"
                )
            out = denoiser(point, t, **given)
        if not (out.isfinite().all() and denoiser.schedule.scale(t).isfinite()):
            raise ValueError(f"the denoiser or its scale is not finite at t = {time:g}")
