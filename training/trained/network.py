"""Trained networks, and their files: ``network-snapshot-*.pkl``.

A file is written by ``torch.save`` and opened only by ``torch.load(weights_only=True)``, which
rebuilds tensors and plain values and rejects everything else: an untrusted file cannot run code. It
contains ``{"format": "inflationary-flows network", "version": 1, "parts": {...}, "about": {...}}``.
Each part is ``{"class", "arguments", "state"}``:

    schedule    a name in ``SCHEDULES`` (ifs, edm, vp, ve), with the arguments that the basis does
                not determine
    basis       EigenBasis: mean [D], eigenvalues [D], eigenvectors [D, D], in float64
    network     a name in ``NETWORKS``, with its arguments and weights. For raw data as conditions,
                such as series, the argument raw describes them, and the weights are also those of
                the network that embeds them. The network for conditional
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
                surprise for the latter. Raw data of K channels and S summary statistics have the
                argument raw, scale.mean, scale.gain [K], scale.center [C], scale.axes [C, k],
                scale.statistics [S], and surprise for the latter
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
query, nothing for any query).

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
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.files import made_plain, plain_name
from dnnlib.urls import local_file
from torch_utils.arguments import check_arguments
from torch_utils.inert_pickle import shown
from torch_utils.snapshots import MISFITS, Part, build, first_line, read_network, write_network
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import Calibration, NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.held_out import HeldOut
from training.flow.integrations import USES, Integration
from training.flow.latent import ConditionalMixture
from training.flow.pfode import ProbabilityFlow
from training.flow.preconditioning import OutputGain
from training.flow.widths import Widths
from training.names import KINDS_OF_DATA, MODULE, RECORDS, TABLE, script
from training.networks import NETWORKS
from training.trained.architecture import SCHEDULES, Architecture, basis_arguments, make_schedule

IN_MEMORY = Path("model")
"""Path of a network that is in no file, for messages."""
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


@dataclass(repr=False)
class TrainedNetwork:
    """A trained denoiser, its architecture, and metadata.

    Attributes:
        denoiser: Network with the preconditioning of its schedule.
        architecture: Plain values from which the denoiser was built.
        about: Metadata as plain values: data set, times, amount of training.
        coordinates: Map between data space and the flow's space, for tables; None if both spaces
            are the same.
        learned: Learned distribution of the compressed latents at the last time; None for the
            closed form.
        integrations: Default integration schedules (solver and time grid), by use.
        held_out: Ranks of held-out true values under the network's posteriors; None if the network
            was not calibrated.
        widths: Errors of posteriors relative to their widths, estimated from simulations; None if
            unknown.
        path: Path of the network file, for messages; ``IN_MEMORY`` for a network in memory.

    Example:
        >>> import tempfile, torch
        >>> from training import EigenBasis
        >>> from training.trained.architecture import Architecture
        >>> from training.trained.network import TrainedNetwork
        >>> basis = EigenBasis(torch.zeros(2), torch.tensor([1.0, 0.5]), torch.eye(2))
        >>> network_arguments = {"dim": 2, "noise_range": [-1.0, 0.3], "width": 16}
        >>> architecture = Architecture("ifs", {"dims_to_keep": 2}, "mlp", network_arguments)
        >>> about = {"data_dim": 2, "dims_to_keep": 2, "tmin": 0.0, "tmax": 7.01}
        >>> network = TrainedNetwork(architecture.build(basis), architecture, about)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     network.save(f"{folder}/network.pkl")
        ...     loaded = TrainedNetwork.load(f"{folder}/network.pkl")
        >>> loaded
        TrainedNetwork(mlp, parameters=1826, flow=ProbabilityFlow(PRP, dim=2, end_time=7.01))
        >>> loaded.flow.sample(5).shape
        torch.Size([5, 2])
    """

    denoiser: NetworkDenoiser
    architecture: Architecture
    about: dict[str, Any] = field(default_factory=dict)
    coordinates: Coordinates | None = None
    learned: ConditionalMixture | None = None
    integrations: dict[str, Integration] = field(default_factory=dict)
    held_out: HeldOut | None = None
    widths: Widths | None = None
    path: Path = IN_MEMORY

    def __repr__(self) -> str:
        name = type(self).__name__
        facts = f"parameters={self.parameter_count}, flow={self.flow!r}"
        return f"{name}({self.architecture.network}, {facts})"

    @property
    def flow(self) -> ProbabilityFlow:
        """Flow of the denoiser, up to the end time of its training."""
        schedule, basis = self.denoiser.schedule, self.denoiser.basis
        end = self.about.get("tmax")
        return ProbabilityFlow(
            self.denoiser, schedule, basis, end, self.coordinates, self.learned, self.integrations
        )

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters of the network."""
        return sum(parameter.numel() for parameter in self.denoiser.network.parameters())

    def digest(self) -> str:
        """Return the SHA-256 of everything that determines the flow.

        The digest does not depend on metadata, on calibration results, nor on the scale ``A0``,
        which is chosen when a file is opened.
        """
        content = hashlib.sha256()
        for name, part in sorted(self.parts().items()):
            if name in (HELD_OUT, WIDTHS):
                continue
            content.update(repr((name, part.class_name, sorted(part.arguments.items()))).encode())
            for key, tensor in sorted(part.state.items()):
                content.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                # A contiguous tensor with one number may have any strides, which views reject.
                plain = tensor.clone(memory_format=torch.contiguous_format).view(-1)
                content.update(plain.view(torch.uint8).numpy().data)
        return content.hexdigest()

    def uncalibrated(self) -> Self:
        """Return a copy whose denoiser is not calibrated.

        Integration schedules are left out, since they were fitted to the calibrated flow.
        """
        denoiser = copy(self.denoiser)
        denoiser._modules = dict(self.denoiser._modules)
        denoiser.calibration = None
        return replace(self, denoiser=denoiser, integrations={})

    def parts(self) -> dict[str, Part]:
        """Return the parts of the network file by name, on the CPU."""
        architecture, denoiser = self.architecture, self.denoiser
        # A network of the user's has its weights in the file, but not its class.
        plain = {k: v for k, v in architecture.network_arguments.items() if k != MODULE}
        state = {DATA_VARIANCE: denoiser.data_variance}
        if denoiser.output_gain is not None:
            gain = denoiser.output_gain
            state |= zip(GAIN_KEYS, (gain.spline.times, gain.gains), strict=True)
        if denoiser.calibration is not None:
            fitted = denoiser.calibration
            values = (fitted.times, fitted.gains, fitted.slopes)
            state |= zip(CALIBRATION_KEYS, values, strict=True)
        parts = {
            "schedule": Part(architecture.schedule, architecture.schedule_arguments),
            "basis": Part("EigenBasis", {}, _on_cpu(denoiser.basis.state_dict())),
            "network": Part(
                architecture.network,
                plain,
                _on_cpu(denoiser.network.state_dict()),
            ),
            "denoiser": Part("NetworkDenoiser", architecture.denoiser_arguments, _on_cpu(state)),
        }
        further: dict[str, Any] = {
            COORDINATES: self.coordinates,
            LATENT_LAW: self.learned,
            HELD_OUT: self.held_out,
            WIDTHS: self.widths,
            **{COURSE.format(use): integration for use, integration in self.integrations.items()},
        }
        for name, part in further.items():
            if part is not None:
                state = _on_cpu(part.state_dict())
                class_name = FILE_NAMES.get(type(part), type(part).__name__)
                parts[name] = Part(class_name, part.arguments, state)
        return parts

    def save(self, path: str | Path) -> None:
        """Write the network file atomically."""
        write_network(Path(path), self.parts(), self.about)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        *,
        end_std: float = 1.0,
        calibrated: bool = True,
        embedding: nn.Module | None = None,
    ) -> Self:
        """Open a network file safely, ready for evaluation.

        Args:
            path: The network file.
            device: Device of the model; None for the CPU.
            end_std: ``A0`` of the schedule. The network does not depend on the scale of the flow.
            calibrated: Whether to use the calibration stored in the file, if any.
            embedding: Network that is equal to the one that the user gave for the training, except
                for its weights, which are read from the file; None if there was none.

        Raises:
            DataError: The file is missing, broken, foreign, or inconsistent, or needs an embedding.
            UsageError: ``end_std`` is given for a schedule without a scale, or an embedding for a
                file without one.
        """
        path = Path(path)
        parts, about = read_network(path)
        if STUDENT in parts:
            raise DataError(
                f"{path}: student networks are no longer supported; train again with "
                f"{script('train')}"
            )
        for name, classes in PARTS.items():
            if name not in parts:
                raise DataError(f"{path} lacks the part '{name}'")
            if parts[name].class_name not in classes:
                raise DataError(
                    f"{path}: the part '{name}' is of the unknown class "
                    f"'{parts[name].class_name}'; this version knows {', '.join(classes)}"
                )
        schedule, network, denoiser = (parts[name] for name in ("schedule", "network", "denoiser"))
        require_embedding(path, network.arguments.get("raw"), embedding)
        if embedding is not None:
            network = replace(network, arguments={**network.arguments, MODULE: embedding})
        architecture = Architecture(
            schedule.class_name,
            schedule.arguments,
            network.class_name,
            network.arguments,
            denoiser.arguments,
        )
        if architecture.schedule != "ifs" and end_std != 1:
            raise UsageError(
                f"end_vars is {end_std:g}, but the schedule {architecture.schedule} has no such "
                "parameter: leave it out"
            )
        basis = read_basis(path, parts["basis"].state)
        module = build(path, "network", network, NETWORKS)
        label_dim = getattr(module, "label_dim", 0)
        coordinates = _coordinates(path, parts.get(COORDINATES), basis.dim, label_dim)
        try:
            made = _denoiser(architecture, module, basis, denoiser.state, end_std)
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
        model = cls(made, architecture, about, coordinates, learned, integrations)
        if HELD_OUT in parts:
            model.held_out = _held_out(path, parts[HELD_OUT], model)
        if WIDTHS in parts:
            model.widths = _widths(path, parts[WIDTHS], basis.dim)
        model = model if calibrated else model.uncalibrated()
        return model.frozen(device or "cpu")

    @classmethod
    def open(
        cls,
        location: "str | TrainedNetwork",
        end_std: float = 1.0,
        calibrated: bool = True,
        precision: str = "fp32",
    ) -> "TrainedNetwork":
        """Open a network from a path or an https URL, or take a network in memory.

        Args:
            location: Path, URL or network.
            end_std: Standard deviation ``A0`` of the latents in dimensions that are not compressed.
            calibrated: Whether to use the calibration in the file, if any.
            precision: Floating-point type of the network, such as ``bf16``.

        Raises:
            DataError: The file is missing or broken.
        """
        if isinstance(location, TrainedNetwork):
            return location if calibrated else location.uncalibrated()
        path = local_file(location)
        network = replace(cls.load(path, end_std=end_std, calibrated=calibrated), path=path)
        network.denoiser.precision = precision
        return network

    def frozen(self, device: str | torch.device | None = None) -> Self:
        """Prepare the model for evaluation, on a device, and return it.

        Args:
            device: Device; None for the present device of the model.
        """
        self.denoiser.precision = "fp32"
        for part in (self.denoiser, self.coordinates, self.learned):
            if part is not None:
                part.eval().requires_grad_(False).to(device)
        return self

    def stored(self) -> Self:
        """Return the network with its calibration, even if this one lacks it."""
        return self if self.path == IN_MEMORY else type(self).load(self.path)

    @property
    def name(self) -> str:
        """Name of the file, for messages."""
        return f"the network {self.path.name}"

    @property
    def data_kind(self) -> str:
        """Kind of the training data, a name in ``KINDS_OF_DATA``.

        Raises:
            DataError: The kind is missing or contradicts the model: only networks of tables and
                records have coordinates.
        """
        kind = self.about.get("kind")
        if kind not in KINDS_OF_DATA:
            raise DataError(
                f"{self.path}: unknown kind of data '{kind}', expected one of "
                f"{', '.join(KINDS_OF_DATA)}"
            )
        if (kind in (TABLE, RECORDS)) != (self.coordinates is not None):
            raise DataError(
                f"{self.path}: the kind of data '{kind}' does not match the model in the file"
            )
        return str(kind)

    @property
    def t_max(self) -> float:
        """Largest time of the flow in the training of the network."""
        return float(self.about["tmax"])

    def as_subject(
        self, expected: Mapping[str, Any], typed: str | None, otherwise: str, known: dict[str, Any]
    ) -> dict[str, Any]:
        """Return constructor arguments for a ``Subject`` of this network.

        Args:
            expected: Options that the user gave, by name.
            typed: Name for results that the user gave, or None for the name of the network's data.
            otherwise: Name for results if the network's data has none.
            known: Values that the network file determines, by the names of options.

        Raises:
            UsageError: The name cannot be part of a file name, or an option contradicts a known
                value.
        """
        own = made_plain(self.known.get("data_name"), otherwise)
        known = {**known, "data_name": plain_name(typed) if typed else own}
        self.agreed(expected, {**self.known, **known})
        fields = {"data_name": known["data_name"], "t_max": self.t_max, "known": known}
        return {"flow": self.flow, "network": self, **fields}

    @property
    def known(self) -> dict[str, Any]:
        """Schedule and further settings in the file, by the names of options."""
        return {**self.architecture.schedule_arguments, **self.about}

    def agreed(self, expected: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options that the user gave against known values, and return these values.

        Raises:
            UsageError: An option contradicts a known value; the message states both.
        """
        source = self.name
        return {
            name: agree(name, value, known.get(name), source) for name, value in expected.items()
        }


def require_embedding(path: Path, raw: object, embedding: nn.Module | None) -> None:
    """Check that a network of the user's is given exactly if a network file needs one.

    Raises:
        DataError: The file needs one, or one of another class.
        UsageError: The file needs none.
    """
    own = raw.get("module_class") if isinstance(raw, dict) else None
    if own and (embedding is None or class_name(embedding) != own):
        raise DataError(
            f"{path} embeds its conditions with {shown(own)}: give an equal network as "
            "Model.load(path, embedding=network)"
        )
    if embedding is not None and not own:
        raise UsageError(f"{path} has no network of the user's: leave embedding out")


def class_name(module: nn.Module) -> str:
    """Return the full name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in state.items()}


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


def _held_out(path: Path, part: Part, model: TrainedNetwork) -> HeldOut:
    """Build the ``HeldOut`` part of a file.

    Raises:
        DataError: The part is broken, or belongs to another network.
    """
    truths = build(path, HELD_OUT, part, {"HeldOut": HeldOut})
    try:
        truths.check()
    except ValueError as error:
        raise DataError(f"{path} is inconsistent: {error}") from error
    if truths.network != model.digest():
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
    architecture: Architecture,
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
    make, given = SCHEDULES[architecture.schedule], basis_arguments(architecture.schedule, basis)
    check_arguments(make, architecture.schedule_arguments, beside=given)
    given_parts = ("network", "basis", "schedule", "data_variance", "output_gain")
    check_arguments(NetworkDenoiser, architecture.denoiser_arguments, beside=given_parts)
    variance = state.get(DATA_VARIANCE)
    if variance is not None and not (
        variance.shape == basis.eigenvalues.shape and (variance >= 0).all()
    ):
        raise ValueError("data_variance and the basis have different dimensions")
    denoiser = NetworkDenoiser(
        network,
        basis,
        make_schedule(architecture.schedule, architecture.schedule_arguments, basis, end_std),
        **architecture.denoiser_arguments,
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
