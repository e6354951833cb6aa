"""What is around networks of the paper's original code, as its files state it, and their toys.

An inflationary flow has a basis and a schedule.

``data_eigs`` are the variances ``xi``, and the columns of ``W`` the axes: in float32 as the network
uses them, and in float64 as it was constructed from them. Images had no mean subtracted: their
eigenspace is ``e = W^T u``. Toys went through a PCA of scikit-learn, which subtracts its mean. The
schedule is given by ``rho``, ``gamma0`` and the exponents ``g`` themselves. The noise condition is
``(M - 1) t``, M = 1000, of t in single precision.

The isotropic models of Karras et al. 2022 are between the coefficients of our ``edm``: of images
and toys with one data variance ``sigma_data^2``, no mean and no basis; of toys also in eigenspace,
with the variances ``data_eigs``.

No variance is raised: ours have a floor by which a loss can divide, but evaluation does not.

The original's toys alt_s_curve and alt_swirl are not scaled. The moments in its file say
which of ours its data were.

In more dimensions its points are ``B u``, with ``B [N, D]`` a Gaussian matrix of NumPy's legacy
generator with seed 42, its columns made orthonormal one after the other; ours are ``A u``. So ours
are its points turned by any rotation Q with ``Q B = A``. A network in eigenspace does not
see that. One in image space gets the points ``Q^T z`` for our z, and ``Q F`` is made of its output
F: its first and last layer do both.
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
from training.networks.original_toy_unet import OriginalToyConvUNet, OriginalToySongUNet
from training.original.file import Fields, OriginalFile

# Largest errors of what is in float32.
NOT_ORTHONORMAL, NOT_EQUAL = 1e-3, 1e-5
SMALLEST_STD = 1e-6
STEPS = 1000
"""``M``; the noise condition is then ``999 t``."""


@dataclass(frozen=True)
class OriginalFlow:
    """What is around a network.

    Attributes:
        basis: In the original's coordinates.
        schedule: A name in ``SCHEDULES``.
        schedule_arguments: Its arguments, but for those that the basis gives.
        denoiser_arguments: ``space``, ``noise_cond`` and ``preconditioning``.
        data_variance: ``[D]``, which the preconditioning counts on.
        t_min: First time.
        t_max: Last time that such models have where nothing is said of it, or None.
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
        """Of IFsPreCond and IFsToyPreCond.

        Args:
            fields: Attributes of the network between its preconditioning.
            principal_axes: As ``read_basis`` takes them.
            t_max: See above.

        Raises:
            DataError: It is none of ours.
        """
        steps, space = fields.number("M"), fields.text("space")
        if steps != STEPS or space not in SPACES:
            raise DataError(
                f"{fields.where} has M = {steps:g} and space = '{shown(space)}': M = {STEPS} and "
                f"{' or '.join(SPACES)} are known"
            )
        basis = read_basis(fields, principal_axes)
        arguments = read_schedule(fields, basis)
        kind = {"space": space, "noise_cond": FLOAT32_DDPM, "preconditioning": "ifs"}
        return cls(basis, "ifs", arguments, kind, basis.eigenvalues, 0.0, t_max)

    @classmethod
    def isotropic(cls, fields: Fields, basis: EigenBasis, space: str) -> "OriginalFlow":
        """Of EDMPrecond and EDMToyPreCond, which know no basis: any will do."""
        std = fields.number("sigma_data")
        if not SMALLEST_STD <= std <= 1 / SMALLEST_STD:
            raise DataError(f"{fields.where} has {std:g} as its 'sigma_data', which no data have")
        return cls._edm(basis, space, "edm", torch.full_like(basis.eigenvalues, std**2))

    @classmethod
    def isotropic_in_eigenspace(
        cls, fields: Fields, principal_axes: Fields | None
    ) -> "OriginalFlow":
        """Of EDMToyESPreCond, whose axes are those of the PCA in the file."""
        if principal_axes is None:
            raise DataError(f"{fields.where} is of a file that lacks the 'pca_trf' of its data")
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
    """The eigenbasis of the data, its axes orthonormal in float64.

    Args:
        fields: Attributes of the network between its preconditioning.
        principal_axes: Attributes of the PCA that gave the network its points; None if there was
            none, and no mean was subtracted.

    Raises:
        DataError: Its variances or axes are missing or are none, or the PCA has others.
    """
    variances = torch.from_numpy(fields.numbers("data_eigs", -1))
    dim = len(variances)
    top = float(variances.max()) if dim else 0.0
    if top <= 0 or (variances < -NOT_EQUAL * top).any() or (variances.diff() > 0).any():
        raise DataError(f"{fields.where}: its 'data_eigs' are no variances sorted downward")
    axes = _axes(fields, dim)
    gram = axes.T @ axes
    identity = torch.eye(dim, dtype=torch.float64)
    if (gram - identity).abs().max() > NOT_ORTHONORMAL:
        raise DataError(f"{fields.where}: the columns of its 'W' are not orthonormal")
    # The orthonormal matrix next to W, by a step of Newton's method (Schulz iteration): an error
    # of 1e-6 becomes one of 1e-12.
    axes = axes @ (3 * identity - gram) / 2
    mean = torch.zeros(dim, dtype=torch.float64)
    if principal_axes is not None:
        mean = _mean(principal_axes, variances, axes)
    return EigenBasis(mean, variances.clamp(min=0), axes)


def _mean(principal_axes: Fields, variances: Tensor, axes: Tensor) -> Tensor:
    """The mean that a PCA subtracts; its variances and axes must be those of the network."""
    dim = len(variances)
    known = {"explained_variance_": variances, "components_": axes.T}
    for name, value in known.items():
        fitted = principal_axes.numbers(name, *value.shape)
        if np.abs(fitted - value.numpy()).max() > NOT_EQUAL * float(value.abs().max()):
            raise DataError(f"{principal_axes.where}: its '{name}' is not that of the network")
    principal_axes.require("whiten", False)
    return torch.from_numpy(principal_axes.numbers("mean_", dim))


def _axes(fields: Fields, dim: int) -> Tensor:
    axes = fields.numbers("W", dim, dim)
    constructed_from = fields.mapping("_init_kwargs")
    if isinstance(constructed_from.values.get("W"), np.ndarray):
        precise = constructed_from.numbers("W", dim, dim)
        if np.abs(precise - axes).max() > NOT_EQUAL:
            raise DataError(f"{fields.where} was constructed with another 'W' than it has")
        axes = precise
    return torch.from_numpy(axes)


def read_schedule(fields: Fields, basis: EigenBasis) -> dict[str, Any]:
    """The arguments of the inflationary schedule, but for those that the basis gives. Raises
    DataError if it is none of ours, or its numbers are missing or out of range."""
    exponents = fields.numbers("g", basis.dim)
    rho, gamma0 = float(fields.number("rho")), float(fields.number("gamma0"))
    arguments: dict[str, Any] = {**INFLATION_DEFAULTS, "rho": rho, "gamma0": gamma0}
    arguments |= _exponent_arguments(exponents)
    try:
        schedule = InflationSchedule.to_dimension(
            data_dim=basis.dim, top_variance=basis.top_variance, **arguments
        )
    except UsageError as error:
        raise DataError(f"{fields.where} has no schedule of ours: {error}") from error
    rates = rho * (1 + exponents)
    if not np.allclose(schedule.growth_rates, rates, rtol=0, atol=NOT_EQUAL * np.abs(rates).max()):
        raise DataError(
            f"{fields.where}: its 'g' does not keep the first dimensions and compress the others "
            "alike"
        )
    return arguments


def _exponent_arguments(exponents: np.ndarray) -> dict[str, Any]:
    """What makes these exponents, if anything does."""
    dim, top = len(exponents), exponents.max()
    kept = int(np.isclose(exponents, top, rtol=0, atol=NOT_EQUAL).sum())
    if kept == dim:
        return {"dims_to_keep": dim}
    compressed, rescaling = _shortest(exponents[-1]), _shortest(top)
    known = {"dims_to_keep": kept, "g_rescaling": rescaling}
    if rescaling <= 0 or compressed >= rescaling:
        return {"dims_to_keep": kept}  # which the comparison of rates will refuse
    if np.isclose(compressed, -rescaling * kept / (dim - kept), rtol=0, atol=NOT_EQUAL):
        return {**known, "g_type": "orig"}
    gap = round(1 - compressed / rescaling, 9)
    return {**known, "g_type": "constant_inflation_gap", "inflation_gap": gap}


def _shortest(number: float) -> float:
    """The shortest decimal that is this number in float32: what was meant before rounding."""
    return float(str(np.float32(number)))


EMBEDDING_SEED = 42
MOST_DIMENSIONS = 2048


@dataclass(frozen=True)
class ToyData:
    """What a file says about the toy of its network.

    Attributes:
        path: The file.
        names: Toys of ours that it may be.
        augment_to: Number of dimensions that it is embedded in; 0 for none.
    """

    path: Path
    names: tuple[str, ...]
    augment_to: int

    @classmethod
    def of(cls, file: OriginalFile, data_name: str | None, dim: int) -> "ToyData":
        """What a file says.

        Args:
            file: The file.
            data_name: The toy's name, which the file may contradict; None takes the file's.
            dim: Number of dimensions of the network.

        Raises:
            DataError: The toy is not known, or has other dimensions.
            UsageError: The name contradicts the file, or is needed since the file has none.
        """
        known = file.section("dataset_kwargs")
        name = data_name
        if "dset_name" in known.values:
            name = known.text("dset_name")
            plain = data_name.removeprefix(UNSCALED) if data_name else None
            agree("data_name", plain, shown(name), str(file.path))
        if name is None:
            raise UsageError(f"{file.path} does not say which toy it is of: give --data_name")
        if name not in TOY_NAMES:
            raise DataError(
                f"{file.path} is of the toy '{shown(name)}', which is not known: "
                f"{', '.join(TOY_NAMES)}"
            )
        augmented = known.values.get("augment_to") is not None and known.number("augment_to") != 0
        own = Toy(name).dim
        if dim > MOST_DIMENSIONS or (dim < own if augmented else dim != own):
            raise DataError(f"{file.path} has {dim} dimensions, but the toy {name} {own}")
        if augmented and known.number("augment_to") != dim:
            raise DataError(
                f"{known.where} has {known.number('augment_to'):g} as its 'augment_to', but the "
                f"network has {dim} dimensions"
            )
        names = (name, f"{UNSCALED}{name}") if f"{UNSCALED}{name}" in TOY_NAMES else (name,)
        return cls(file.path, names, dim if augmented else 0)

    def rotation(self, toy: Toy) -> Tensor:
        """``Q [D, D]``, from the original's coordinates to ours; the identity without embedding."""
        ours = toy.mixture.embedding
        if not self.augment_to:
            return ours
        return completed(ours) @ completed(original_embedding(*ours.shape)).T

    def matching(self, basis: EigenBasis, with_mean: bool) -> tuple[Toy, EigenBasis]:
        """The toy with the moments of a basis, and the basis in our coordinates.

        Args:
            basis: In the original's coordinates.
            with_mean: Whether its mean is known; else it becomes that of the toy.

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
            f"{self.path}: the variances of its data are {_told(basis.eigenvalues)}, but here "
            f"these are {' and '.join(compared)}"
        )


def original_embedding(rows: int, columns: int) -> Tensor:
    """The matrix ``B [rows, columns]`` that the original code embeds its toys with."""
    gaussian = np.random.RandomState(EMBEDDING_SEED).standard_normal((rows, columns))
    # One after the other is Gram and Schmidt's way: QR with a positive diagonal.
    orthonormal, triangular = np.linalg.qr(gaussian)
    return torch.from_numpy(orthonormal * np.sign(np.diag(triangular)))


def uncentered_basis(toy: Toy) -> EigenBasis:
    """The axes of a toy's second moments about zero, where no mean was subtracted."""
    mean, covariance = toy.moments()
    return EigenBasis.from_moments(torch.zeros_like(mean), covariance + mean.outer(mean))


def completed(columns: Tensor) -> Tensor:
    """An orthogonal matrix ``[D, D]`` that starts with these orthonormal columns ``[D, d]``."""
    whole = torch.linalg.qr(columns, mode="complete").Q
    return torch.cat([columns, whole[:, columns.shape[1] :]], dim=1)


def rotated(basis: EigenBasis, rotation: Tensor) -> EigenBasis:
    """The basis of the points turned by a rotation ``[D, D]``."""
    axes = rotation @ basis.eigenvectors
    return EigenBasis(rotation @ basis.mean, basis.eigenvalues, axes)


@torch.no_grad()
def rotate_network(network: nn.Module, rotation: Tensor) -> None:
    """Makes a toy network take turned points and give turned ones, by a rotation ``[D, D]``."""
    assert isinstance(network, OriginalToyConvUNet | OriginalToySongUNet)
    first, last = network.ends
    first.weight.copy_(first.weight.double() @ rotation.T)
    last.weight.copy_(rotation @ last.weight.double())
    last.bias.copy_(rotation @ last.bias.double())


def _told(variances: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in variances[:3].tolist())
