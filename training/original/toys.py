"""Which toy of ours a network of the original code was trained on, and in which coordinates.

The original's alt_s_curve and alt_swirl are not scaled. Which of ours its data were is told by the
moments that its file states.

In more dimensions its points are ``B u``, with ``B [N, D]`` a Gaussian matrix of NumPy's legacy
generator with seed 42, its columns made orthonormal one after the other; ours are ``A u``. So ours
are its points turned by any rotation Q with ``Q B = A``. A network in eigenspace is told nothing
of that. One in image space gets the points ``Q^T z`` for our z, and ``Q F`` is made of its output
F: its first and last layer do both.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError, agree
from torch_utils.inert_pickle import shown
from training.data.toys import LARGEST_MISMATCH, UNSCALED, Toy
from training.flow.eigenbasis import EigenBasis
from training.names import TOY_NAMES
from training.networks.original_toy_unet import OriginalToyConvUNet, OriginalToySongUNet
from training.original.file import OriginalFile

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
