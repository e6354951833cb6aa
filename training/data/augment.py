"""Geometric augmentation of images, with labels so that it does not leak into samples.

The transformations are those of Karras et al. 2022 (arXiv 2206.00364, appendix F.2) for CIFAR-10.
Half of all images are mirrored in x. Each of the other transformations is applied with probability
p per image:

    y-flip              a coin
    scaling             by 2^(0.2 n),  n ~ N(0, 1)
    rotation            by phi ~ U(-pi, pi)
    anisotropic scaling by 2^(0.2 n) along the direction a ~ U(-pi, pi), by the inverse across it
    translation         by 0.125 n_x widths and 0.125 n_y heights,  n_x, n_y ~ N(0, 1)

In this order they form one affine map about the center of the image, ``x -> T A R S F x``, in
pixels, with x to the right and y down, so that a positive angle rotates x towards y. A network with
the parameters as labels learns the augmented data given the labels, and the original data where all
labels are 0.

Flips permute pixels. The other transformations resample the image once: Lanczos interpolation to
twice the resolution, bilinear interpolation at twice the resolution of the output, and the Lanczos
low-pass to the output. At its edges the image is continued by reflection. The higher resolution
prevents aliasing in shrunk images. Its cost is small, since both Lanczos steps are separable, hence
two small matrix products.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch, BatchSource

OCTAVES = 0.2
SHIFT = 0.125

LANCZOS_LOBES = 3
# Number of fine pixels beyond the output's edge that the low-pass of edge pixels covers.
MARGIN = 2 * LANCZOS_LOBES - 1


class AugmentDraws(NamedTuple):
    """Random augmentation parameters of B images; transformations with parameter 0 do nothing.

    Attributes:
        flip_x: Whether to flip in x ``[B]``, bool.
        flip_y: Whether to flip in y ``[B]``, bool.
        scaling: Exponent ``n [B]`` of the scaling; images are enlarged if it is positive.
        rotation: Angle ``phi [B]`` in radians.
        stretch: Exponent ``n [B]`` of the anisotropic scaling.
        stretch_angle: Direction ``a [B]`` of the stretch, in radians.
        shift: Translation ``(n_x, n_y) [B, 2]``.
    """

    flip_x: Tensor
    flip_y: Tensor
    scaling: Tensor
    rotation: Tensor
    stretch: Tensor
    stretch_angle: Tensor
    shift: Tensor

    def rows(self, rows: slice) -> "AugmentDraws":
        """Return the parameters of the images in a slice, for example the images of one rank."""
        return AugmentDraws(*(parameter[rows] for parameter in self))

    def to(self, device: torch.device) -> "AugmentDraws":
        """Return the parameters on another device."""
        return AugmentDraws(*(parameter.to(device) for parameter in self))

    def labels(self) -> Tensor:
        """Return the augmentation labels ``[B, 9]`` for the network, float32.

        The nine columns are the two flips, the scaling, two numbers each for the rotation and the
        stretch, and the shift. As in the paper, stretches with exponent and angle ``(n, a)`` and
        ``(-n, a + pi)`` have equal labels.
        """
        columns = [
            self.flip_x.float(),
            self.flip_y.float(),
            self.scaling,
            self.rotation.cos() - 1,
            self.rotation.sin(),
            self.stretch * self.stretch_angle.cos(),
            self.stretch * self.stretch_angle.sin(),
            *self.shift.unbind(-1),
        ]
        return torch.stack(columns, dim=-1)

    def sources(self, height: int, width: int) -> Tensor:
        """Return the affine maps from pixels of the result to pixels of the flipped image.

        The maps are the inverses of ``T A R S``: scaling S, then rotation R, stretch A and
        translation T.

        Args:
            height: Height of the images in pixels.
            width: Width of the images in pixels.

        Returns:
            Maps ``[B, 2, 3]`` of homogeneous pixel coordinates about the center, float64.
        """
        scale = (-OCTAVES * self.scaling.double()).exp2()
        stretch = (-OCTAVES * self.stretch.double()).exp2()
        direction = self.stretch_angle.double()
        unstretch = _rotation(direction) @ _diagonal(stretch, 1 / stretch) @ _rotation(-direction)
        linear = _diagonal(scale, scale) @ _rotation(-self.rotation.double()) @ unstretch
        x, y = (SHIFT * self.shift.double()).unbind(-1)
        shift = torch.stack([width * x, height * y], dim=-1)[..., None]
        return torch.cat([linear, -linear @ shift], dim=-1)


class GeometricAugmentation:
    """Random geometric augmentation of images, which also returns labels of the transformations.

    Args:
        probability: Probability of each transformation except the x-flip, from 0 to 1.

    Raises:
        UsageError: The probability is not between 0 and 1.
    """

    def __init__(self, probability: float):
        if not 0 <= probability <= 1:
            raise UsageError(
                f"the augmentation probability is {probability}: give a number from 0 to 1"
            )
        self.probability = probability
        self._filters: dict[tuple[torch.Size, torch.dtype, torch.device], Filters] = {}

    def draw(self, count: int, generator: torch.Generator) -> AugmentDraws:
        """Draw the augmentation parameters of ``count`` images, on the generator's device.

        If each rank draws for the batch of all ranks and uses its own rows, results do not depend
        on the number of ranks.
        """
        device = generator.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator, device=device)

        def angle() -> Tensor:
            return pi * (2 * uniform() - 1)

        def only(on: Tensor, parameter: Tensor) -> Tensor:
            return torch.where(on, parameter, torch.zeros_like(parameter))

        on = uniform(5) < self.probability
        flip_y, scaling, rotation, stretch, shift = on.unbind(-1)
        return AugmentDraws(
            flip_x=uniform() < 0.5,
            flip_y=flip_y & (uniform() < 0.5),
            scaling=only(scaling, normal()),
            rotation=only(rotation, angle()),
            stretch=only(stretch, normal()),
            stretch_angle=only(stretch, angle()),
            shift=only(shift[:, None], normal(2)),
        )

    @torch.no_grad()
    def apply(self, images: Tensor, draws: AugmentDraws) -> tuple[Tensor, Tensor]:
        """Transform each image by its parameters, keeping exact values where nothing is resampled.

        All images are resampled, and the result is used for images that need it. Selecting these
        images first would make the host wait for the device.

        Args:
            images: Images ``[B, C, H, W]``, floating point.
            draws: Parameters of the B images, on any device.

        Returns:
            Augmented images ``[B, C, H, W]`` and labels ``[B, 9]``, both on the images' device and
            in their dtype, without gradient.
        """
        draws = draws.to(images.device)
        labels = draws.labels()
        augmented = torch.where(draws.flip_x[:, None, None, None], images.flip(-1), images)
        augmented = torch.where(draws.flip_y[:, None, None, None], augmented.flip(-2), augmented)
        warped = labels[:, 2:].any(dim=1)[:, None, None, None]
        moved = _warp(augmented, draws.sources(*images.shape[-2:]), self._filters_for(images))
        return torch.where(warped, moved, augmented), labels.to(images.dtype)

    def _filters_for(self, images: Tensor) -> "Filters":
        """Return the resampling filters for the size of images, cached on their device."""
        size = images.shape[-2:]
        key = size, images.dtype, images.device
        if key not in self._filters:
            matrices = (part for side in size for part in _lanczos_matrices(side))
            y, x = map(_fine_centres, size)
            self._filters[key] = Filters(*(part.to(images) for part in (*matrices, y[:, None], x)))
        return self._filters[key]


def _rotation(angle: Tensor) -> Tensor:
    """Return rotation matrices ``[B, 2, 2]`` that rotate x towards y by angles ``[B]``."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine, -sine, sine, cosine], dim=-1).view(-1, 2, 2)


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y], dim=-1))


class Filters(NamedTuple):
    """Resampling filters for images of one size.

    Attributes:
        rows_up, rows_down, columns_up, columns_down: Lanczos matrices for both axes, which double
            the resolution (up) and halve it again (down).
        y, x: Positions of the output pixels at twice the resolution.
    """

    rows_up: Tensor
    rows_down: Tensor
    columns_up: Tensor
    columns_down: Tensor
    y: Tensor
    x: Tensor


def _warp(images: Tensor, sources: Tensor, filters: Filters) -> Tensor:
    """Return images whose value at ``x`` is that of ``images [B, C, H, W]`` at ``S x``.

    The maps S are ``sources [B, 2, 3]``.
    """
    height, width = images.shape[-2:]
    fine = filters.rows_up @ images @ filters.columns_up.T

    coefficients = sources.to(images.dtype)[..., None, None]
    axes = (axis.unbind(1) for axis in coefficients.unbind(1))
    from_x, from_y = (a * filters.x + b * filters.y + c for a, b, c in axes)
    grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], dim=-1)
    fine = torch.nn.functional.grid_sample(
        fine, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return filters.rows_down @ fine @ filters.columns_down.T


def _fine_centres(size: int) -> Tensor:
    """Return the fine pixels' distances from the center, in pixels, margins included."""
    return (torch.arange(-MARGIN, 2 * size + MARGIN, dtype=torch.float64) + 0.5 - size) / 2


def _lanczos_matrices(size: int) -> tuple[Tensor, Tensor]:
    """Return the Lanczos matrices along one axis, to twice the resolution and back, in float64.

    Returns:
        ``[2 N, N]``, including the reflection at the edges, and ``[N, 2 N + 2 MARGIN]``.
    """
    # Coarse pixels on their reflected continuation, and fine pixels in units of coarse ones.
    continued = torch.arange(-LANCZOS_LOBES, size + LANCZOS_LOBES)
    reflected = continued % (2 * size)
    reflected = torch.minimum(reflected, 2 * size - 1 - reflected)
    coarse = torch.arange(size) + 0.5 - size / 2
    fine = _fine_centres(size)
    inner = fine[MARGIN:-MARGIN]

    taps = _lanczos(inner[:, None] - (continued + 0.5 - size / 2))
    up = taps.new_zeros(2 * size, size).index_add_(1, reflected, taps)
    down = _lanczos(fine - coarse[:, None])
    return up / up.sum(1, keepdim=True), down / down.sum(1, keepdim=True)


def _lanczos(x: Tensor) -> Tensor:
    """Return the Lanczos kernel ``sinc(x) sinc(x / a)`` for ``|x| < a``, with a lobes."""
    x = x.double()
    return (x.abs() < LANCZOS_LOBES) * torch.sinc(x) * torch.sinc(x / LANCZOS_LOBES)


@dataclass(frozen=True, eq=False)
class AugmentedBatches:
    """Training batches of augmented images with augmentation labels.

    Random parameters of a step are drawn for the batch of all ranks. Each rank uses the parameters
    of its own images.

    Attributes:
        source: Batches of flattened images.
        augmentation: Augmentation of each image.
        image_shape: Shape ``(C, H, W)`` of the images.
        batch: Batch size over all ranks.
        seed: Random seed of the parameters.
    """

    source: BatchSource
    augmentation: GeometricAugmentation
    image_shape: tuple[int, ...]
    batch: int
    seed: int

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's part of each augmented batch, endlessly.

        Args:
            first_step: Index of the training step to start from.
        """
        for step, batch in enumerate(self.source.batches(first_step), start=first_step):
            generator = seeded_generator(batch.points.device, self.seed, Stream.AUGMENTATION, step)
            draws = self.augmentation.draw(self.batch, generator)
            mine = draws.rows(distributed.shard(self.batch))
            images = batch.points.reshape(-1, *self.image_shape)
            augmented, labels = self.augmentation.apply(images, mine)
            yield Batch(augmented.flatten(1), batch.labels, labels)


def augmented_points(
    batches: Iterable[Tensor],
    augmentation: GeometricAugmentation,
    image_shape: tuple[int, ...],
    total: int,
    seed: int,
) -> Iterator[Tensor]:
    """Yield this rank's part of augmented images, as points ``[n, D]``.

    The parameters of an image do not depend on the number of ranks.

    Args:
        batches: This rank's flattened images ``[n, D]``, in order.
        augmentation: Augmentation of the images.
        image_shape: Shape ``(C, H, W)`` of the images.
        total: Number of images over all ranks.
        seed: Random seed of the parameters.
    """
    everyone = augmentation.draw(total, seeded_generator("cpu", seed, Stream.AUGMENTATION))
    mine, start = everyone.rows(distributed.shard(total)), 0
    for points in batches:
        draws = mine.rows(slice(start, start + len(points))).to(points.device)
        augmented, _ = augmentation.apply(points.reshape(-1, *image_shape), draws)
        yield augmented.flatten(1)
        start += len(points)
