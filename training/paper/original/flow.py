"""Bases and schedules of the paper's original networks, as stated in their files, and their toys.

An inflationary flow has a basis and a schedule.

``data_eigs`` are the variances ``xi``, and the columns of ``W`` the axes: in float32 as the network
uses them, and in float64 as it was constructed from them. No mean was subtracted from images: their
eigenspace is ``e = W^T u``. Toys were transformed by a PCA of scikit-learn, which subtracts its
mean. The schedule is given by ``rho``, ``gamma0`` and the exponents ``g`` themselves. The noise
condition is ``(M - 1) t``, M = 1000, with t in single precision.

The isotropic models of Karras et al. 2022 use the coefficients of our ``edm``: for images and toys
with one data variance ``sigma_data^2``, no mean and no basis; for toys also in eigenspace, with the
variances ``data_eigs``.

No variance is raised: ours have a floor so that a loss can divide by them, which evaluation does
not need.

The original's toys alt_s_curve and alt_swirl are not scaled. The moments in its file determine
which of our toys its data were.

In more dimensions its points are ``B u``, with ``B [N, D]`` a Gaussian matrix from NumPy's legacy
generator with seed 42, its columns orthonormalized one after the other; ours are ``A u``. Our
points are therefore its points rotated by any Q with ``Q B = A``. A network in eigenspace is not
affected. One in image space gets the points ``Q^T z`` for our z, and its output F is mapped to
``Q F``: its first and last layer do both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError, agree
from torch_utils.inert_pickle import shown
from training.data.toys import LARGEST_MISMATCH, UNSCALED, Toy
from training.flow.denoisers import FLOAT32_DDPM
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import INFLATION_DEFAULTS, EDMSchedule, InflationSchedule
from training.names import SPACES, TOY_NAMES
from training.networks.toy_unet import OriginalToyConvUNet, OriginalToySongUNet
from training.paper.original.file import Fields, OriginalFile

# Largest errors of float32 values.
NOT_ORTHONORMAL, NOT_EQUAL = 1e-3, 1e-5
SMALLEST_STD = 1e-6
STEPS = 1000
"""Number of steps ``M``; the noise condition is then ``999 t``."""


@dataclass(frozen=True)
class OriginalFlow:
    """Eigenbasis, schedule and preconditioning of a network of the original code.

    Attributes:
        basis: Eigenbasis, in the original's coordinates.
        schedule: A name in ``SCHEDULES``.
        schedule_arguments: Arguments of the schedule, except for those that the basis determines.
        denoiser_arguments: ``space``, ``noise_cond`` and ``preconditioning``.
        data_variance: Data variance in the preconditioning ``[D]``.
        t_min: First time.
        t_max: Default last time of models of this kind, or None.
    """

    basis: EigenBasis
    schedule: str
    schedule_arguments: dict[str, Any]
    denoiser_arguments: dict[str, Any]
    data_variance: Tensor
    t_min: float
    t_max: float | None

    @classmethod
    def inflationary(
        cls, fields: Fields, principal_axes: Fields | None, t_max: float | None
    ) -> "OriginalFlow":
        """Read the flow of an original network of class IFsPreCond or IFsToyPreCond.

        Args:
            fields: Attributes of the network's preconditioning.
            principal_axes: Attributes of the PCA that transformed the network's points; None for
                none.
            t_max: Default last time, or None.

        Raises:
            DataError: The flow is not of a known kind.
        """
        steps, space = fields.number("M"), fields.text("space")
        if steps != STEPS or space not in SPACES:
            raise DataError(
                f"{fields.where} has M = {steps:g} and space = '{shown(space)}': expected "
                f"M = {STEPS} and space = {' or '.join(SPACES)}: others cannot be imported"
            )
        basis = read_basis(fields, principal_axes)
        arguments = read_schedule(fields, basis)
        kind = {"space": space, "noise_cond": FLOAT32_DDPM, "preconditioning": "ifs"}
        return cls(basis, "ifs", arguments, kind, basis.eigenvalues, 0.0, t_max)

    @classmethod
    def isotropic(cls, fields: Fields, basis: EigenBasis, space: str) -> "OriginalFlow":
        """Read the flow of an original network of class EDMPrecond or EDMToyPreCond.

        Args:
            fields: Attributes of the network's preconditioning.
            basis: Eigenbasis of the result. Any basis is valid, since the noise is isotropic.
            space: Space of the network's points.
        """
        std = fields.number("sigma_data")
        if not SMALLEST_STD <= std <= 1 / SMALLEST_STD:
            raise DataError(
                f"{fields.where}: the attribute 'sigma_data' is {std:g}, which is not a "
                "valid standard deviation: give an unmodified file"
            )
        return cls._edm(basis, space, "edm", torch.full_like(basis.eigenvalues, std**2))

    @classmethod
    def isotropic_in_eigenspace(
        cls, fields: Fields, principal_axes: Fields | None
    ) -> "OriginalFlow":
        """Read the flow of an original network of class EDMToyESPreCond.

        The axes of its eigenbasis are those of the PCA in the file.
        """
        if principal_axes is None:
            raise DataError(
                f"{fields.where} needs the PCA of its training data, but the file has no "
                "'pca_trf': give an unmodified file"
            )
        dim = len(fields.numbers("data_eigs", -1))
        axes = {"W": principal_axes.numbers("components_", dim, dim).T}
        basis = read_basis(Fields(fields.where, {**fields.values, **axes}), principal_axes)
        return cls._edm(basis, "ES", "ifs", basis.eigenvalues)

    @classmethod
    def _edm(
        cls, basis: EigenBasis, space: str, preconditioning: str, variance: Tensor
    ) -> "OriginalFlow":
        kind = {"space": space, "noise_cond": "log", "preconditioning": preconditioning}
        first, last = EDMSchedule.default_t_min, EDMSchedule.end
        return cls(basis, "edm", {"t_min": first}, kind, variance, first, last)


def read_basis(fields: Fields, principal_axes: Fields | None = None) -> EigenBasis:
    """Read the eigenbasis of the data, with axes that are orthonormal in float64.

    Args:
        fields: Attributes of the network's preconditioning.
        principal_axes: Attributes of the PCA that transformed the network's points; None if there
            was none, and no mean was subtracted.

    Raises:
        DataError: Variances or axes are missing or invalid, or differ from those of the PCA.
    """
    variances = torch.from_numpy(fields.numbers("data_eigs", -1))
    dim = len(variances)
    top = float(variances.max()) if dim else 0.0
    if top <= 0 or (variances < -NOT_EQUAL * top).any() or (variances.diff() > 0).any():
        raise DataError(
            f"{fields.where}: the attribute 'data_eigs' must contain variances in decreasing "
            "order: give an unmodified file"
        )
    axes = _axes(fields, dim)
    gram = axes.T @ axes
    identity = torch.eye(dim, dtype=torch.float64)
    if (gram - identity).abs().max() > NOT_ORTHONORMAL:
        raise DataError(
            f"{fields.where}: the columns of 'W' are not orthonormal: give an unmodified file"
        )
    # Compute the orthonormal matrix nearest to W by a Newton step (Schulz iteration): an error of
    # 1e-6 becomes one of 1e-12.
    axes = axes @ (3 * identity - gram) / 2
    mean = torch.zeros(dim, dtype=torch.float64)
    if principal_axes is not None:
        mean = _mean(principal_axes, variances, axes)
    return EigenBasis(mean, variances.clamp(min=0), axes)


def _mean(principal_axes: Fields, variances: Tensor, axes: Tensor) -> Tensor:
    """Return the mean that a PCA subtracts; its variances and axes must be those of the network."""
    dim = len(variances)
    known = {"explained_variance_": variances, "components_": axes.T}
    for name, value in known.items():
        fitted = principal_axes.numbers(name, *value.shape)
        if np.abs(fitted - value.numpy()).max() > NOT_EQUAL * float(value.abs().max()):
            raise DataError(
                f"{principal_axes.where}: the attribute '{name}' differs from that of the network: "
                "give an unmodified file"
            )
    principal_axes.require("whiten", False)
    return torch.from_numpy(principal_axes.numbers("mean_", dim))


def _axes(fields: Fields, dim: int) -> Tensor:
    axes = fields.numbers("W", dim, dim)
    constructed_from = fields.mapping("_init_kwargs")
    if isinstance(constructed_from.values.get("W"), np.ndarray):
        precise = constructed_from.numbers("W", dim, dim)
        if np.abs(precise - axes).max() > NOT_EQUAL:
            raise DataError(
                f"{fields.where} was constructed with another 'W' than it contains: give an "
                "unmodified file"
            )
        axes = precise
    return torch.from_numpy(axes)


def read_schedule(fields: Fields, basis: EigenBasis) -> dict[str, Any]:
    """Return the arguments of the inflationary schedule of a network of the original code.

    Arguments that the basis determines are omitted.

    Args:
        fields: Attributes of the network's preconditioning.
        basis: Eigenbasis of the data.

    Raises:
        DataError: The schedule is not one of ours, or its numbers are missing or out of range.
    """
    exponents = fields.numbers("g", basis.dim)
    rho, gamma0 = float(fields.number("rho")), float(fields.number("gamma0"))
    arguments: dict[str, Any] = {**INFLATION_DEFAULTS, "rho": rho, "gamma0": gamma0}
    arguments |= _exponent_arguments(exponents)
    try:
        schedule = InflationSchedule.to_dimension(
            data_dim=basis.dim, top_variance=basis.top_variance, **arguments
        )
    except UsageError as error:
        raise DataError(f"{fields.where} has an unsupported schedule: {error}") from error
    rates = rho * (1 + exponents)
    if not np.allclose(schedule.growth_rates, rates, rtol=0, atol=NOT_EQUAL * np.abs(rates).max()):
        raise DataError(
            f"{fields.where}: the exponents in 'g' must be equal for the first (kept) dimensions, "
            "and smaller and equal for all other dimensions: other schedules cannot be imported"
        )
    return arguments


def _exponent_arguments(exponents: np.ndarray) -> dict[str, Any]:
    """Return schedule arguments that produce these exponents, if any do."""
    dim, top = len(exponents), exponents.max()
    kept = int(np.isclose(exponents, top, rtol=0, atol=NOT_EQUAL).sum())
    if kept == dim:
        return {"dims_to_keep": dim}
    compressed, rescaling = _shortest(exponents[-1]), _shortest(top)
    known = {"dims_to_keep": kept, "g_rescaling": rescaling}
    if rescaling <= 0 or compressed >= rescaling:
        return {"dims_to_keep": kept}  # the comparison of rates will reject this
    if np.isclose(compressed, -rescaling * kept / (dim - kept), rtol=0, atol=NOT_EQUAL):
        return {**known, "g_type": "orig"}
    gap = round(1 - compressed / rescaling, 9)
    return {**known, "g_type": "constant_inflation_gap", "inflation_gap": gap}


def _shortest(number: float) -> float:
    """Return the shortest decimal that equals this number in float32: the value before rounding."""
    return float(str(np.float32(number)))


EMBEDDING_SEED = 42
MOST_DIMENSIONS = 2048


@dataclass(frozen=True)
class ToyData:
    """Toy data that the network in a file of the original code was trained on.

    Attributes:
        path: The file.
        names: Names of our toys that may equal the original toy.
        augment_to: Number of dimensions that the toy is embedded in; 0 for no embedding.
    """

    path: Path
    names: tuple[str, ...]
    augment_to: int

    @classmethod
    def from_file(cls, file: OriginalFile, data_name: str | None, dim: int) -> "ToyData":
        """Read which toy the network in a file was trained on.

        Args:
            file: The file.
            data_name: Name of the toy, which must agree with the file; None to use the file's.
            dim: Number of dimensions of the network.

        Raises:
            DataError: The toy is not known, or its dimension differs from the network's.
            UsageError: The name contradicts the file, or neither contains the name.
        """
        known = file.section("dataset_kwargs")
        name = data_name
        if "dset_name" in known.values:
            name = known.text("dset_name")
            plain = data_name.removeprefix(UNSCALED) if data_name else None
            agree("data_name", plain, shown(name), str(file.path))
        if name is None:
            raise UsageError(f"{file.path} does not name its toy: give --data_name")
        if name not in TOY_NAMES:
            raise DataError(
                f"{file.path} names an unknown toy, '{shown(name)}': expected one of "
                f"{', '.join(TOY_NAMES)}"
            )
        augmented = known.values.get("augment_to") is not None and known.number("augment_to") != 0
        own = Toy(name).dim
        if dim > MOST_DIMENSIONS or (dim < own if augmented else dim != own):
            raise DataError(
                f"{file.path} has {dim} dimensions, but the toy {name} has {own}: check --data_name"
            )
        if augmented and known.number("augment_to") != dim:
            raise DataError(
                f"{known.where}: the attribute 'augment_to' is {known.number('augment_to'):g}, but "
                f"the network has {dim} dimensions: give an unmodified file"
            )
        names = (name, f"{UNSCALED}{name}") if f"{UNSCALED}{name}" in TOY_NAMES else (name,)
        return cls(file.path, names, dim if augmented else 0)

    def rotation(self, toy: Toy) -> Tensor:
        """Return the rotation ``Q [D, D]`` from the original's coordinates to ours.

        The two differ only in the matrices that embed a toy in more dimensions.
        """
        ours = toy.mixture.embedding
        if not self.augment_to:
            return ours
        return completed(ours) @ completed(original_embedding(*ours.shape)).T

    def matching(self, basis: EigenBasis, with_mean: bool) -> tuple[Toy, EigenBasis]:
        """Return the toy with the moments of a basis, and the basis in our coordinates.

        Args:
            basis: Basis in the original's coordinates.
            with_mean: Whether the mean of the basis is known; if not, the toy's mean is used.

        Raises:
            DataError: No toy has these moments.
        """
        compared = []
        for name in self.names:
            toy = Toy(name, self.augment_to)
            turned = rotated(basis, self.rotation(toy))
            mean, covariance = toy.moments()
            if not with_mean:
                turned = EigenBasis(mean, turned.eigenvalues, turned.eigenvectors)
            if toy.mismatch(turned.mean, turned.covariance()) <= LARGEST_MISMATCH:
                return toy, turned
            compared.append(f"{_told(torch.linalg.eigvalsh(covariance).flip(0))} of {name}")
        raise DataError(
            f"{self.path}: the variances of its data are {_told(basis.eigenvalues)}, "
            f"expected {' or '.join(compared)}: check --data_name"
        )


def original_embedding(rows: int, columns: int) -> Tensor:
    """Return the matrix ``B`` with which the original code embeds a toy in more dimensions.

    The embedded points are ``B x [rows]``, for points ``x [columns]``.
    """
    gaussian = np.random.RandomState(EMBEDDING_SEED).standard_normal((rows, columns))
    # Orthonormalizing one after the other is Gram-Schmidt: QR with a positive diagonal.
    orthonormal, triangular = np.linalg.qr(gaussian)
    return torch.from_numpy(orthonormal * np.sign(np.diag(triangular)))


def uncentered_basis(toy: Toy) -> EigenBasis:
    """Return the eigenbasis of a toy's second moments about zero.

    Models that subtract no mean need this basis.
    """
    mean, covariance = toy.moments()
    return EigenBasis.from_moments(torch.zeros_like(mean), covariance + mean.outer(mean))


def completed(columns: Tensor) -> Tensor:
    """Return an orthogonal matrix ``[D, D]`` whose first columns are given.

    The given columns ``[D, d]`` are orthonormal.
    """
    whole = torch.linalg.qr(columns, mode="complete").Q
    return torch.cat([columns, whole[:, columns.shape[1] :]], dim=1)


def rotated(basis: EigenBasis, rotation: Tensor) -> EigenBasis:
    """Return the basis of points that were rotated by ``rotation [D, D]``."""
    axes = rotation @ basis.eigenvectors
    return EigenBasis(rotation @ basis.mean, basis.eigenvalues, axes)


@torch.no_grad()
def rotate_network(network: nn.Module, rotation: Tensor) -> None:
    """Change a toy network so that it takes and returns points rotated by ``rotation [D, D]``."""
    assert isinstance(network, OriginalToyConvUNet | OriginalToySongUNet)
    first, last = network.ends
    first.weight.copy_(first.weight.double() @ rotation.T)
    last.weight.copy_(rotation @ last.weight.double())
    last.bias.copy_(rotation @ last.bias.double())


def _told(variances: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in variances[:3].tolist())
