"""Augmentation: exact flips, warps against closed forms, labels, the law of the draws."""

from itertools import combinations
from math import inf, log2, nan, pi

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.data.augment import LABEL_DIM, AugmentDraws, GeometricAugmentation

ALWAYS, NEVER = GeometricAugmentation(1), GeometricAugmentation(0)
WARPS: dict[str, dict[str, object]] = {
    "scaling": {"scaling": 1.0},
    "rotation": {"rotation": 0.7},
    "stretch": {"stretch": 1.0, "stretch_angle": 0.7},
    "shift": {"shift": [0.3, -1.2]},
}


def unchanged(**parameters: object) -> AugmentDraws:
    """Draws of one image that change nothing, but for the parameters given."""
    zeros, off = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    none = AugmentDraws(off, off, zeros, zeros, zeros, zeros, torch.zeros(1, 2))
    given = {
        name: torch.as_tensor(value).expand(getattr(none, name).shape)
        for name, value in parameters.items()
    }
    return none._replace(**given)


def centres(height: int, width: int) -> Tensor:
    """The pixels' ``(x, y)`` from the centre of the image, ``[H, W, 2]``."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 - n / 2 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def homogeneous(*rows: list[float]) -> Tensor:
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def rotation(cosine: float, sine: float) -> Tensor:
    return homogeneous([cosine, -sine, 0], [sine, cosine, 0])


def map_told_by(labels: Tensor, height: int, width: int) -> Tensor:
    """The map of pixel coordinates that nine labels speak of, with a stretch of ``n >= 0``."""
    flip_x, flip_y, n, cosine, sine, *rest = labels.double().tolist()
    along_x, along_y, shift_x, shift_y = rest
    stretch = torch.tensor([along_x, along_y]).norm().item()
    direction = rotation(along_x / stretch, along_y / stretch) if stretch else torch.eye(3).double()
    flips = homogeneous([1 - 2 * flip_x, 0, 0], [0, 1 - 2 * flip_y, 0])
    scaling = homogeneous([2 ** (0.2 * n), 0, 0], [0, 2 ** (0.2 * n), 0])
    strain = homogeneous([2 ** (0.2 * stretch), 0, 0], [0, 2 ** (-0.2 * stretch), 0])
    shift = homogeneous([1, 0, shift_x * width / 8], [0, 1, shift_y * height / 8])
    stretching = direction @ strain @ torch.linalg.inv(direction)
    told: Tensor = shift @ stretching @ rotation(cosine + 1, sine) @ scaling @ flips
    return told


def waves(places: Tensor, height: int, width: int) -> Tensor:
    """Smooth functions of ``(x, y) [..., 2]`` that are even about all edges, ``[5, ...]``."""
    x, y = places[..., 0] / width + 0.5, places[..., 1] / height + 0.5
    frequencies = [(1, 0), (0, 1), (2, 3), (3, 1), (4, 4)]
    return torch.stack([torch.cos(pi * k * x) * torch.cos(pi * m * y) for k, m in frequencies])


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_each_warp_moves_an_image_to_where_its_labels_tell(
    name: str, size: tuple[int, int]
) -> None:
    images = waves(centres(*size), *size)[None]
    augmented, labels = ALWAYS.apply(images, unchanged(**WARPS[name]))
    back = torch.linalg.inv(map_told_by(labels[0], *size))
    expected = waves(centres(*size) @ back[:2, :2].T + back[:2, 2], *size)
    torch.testing.assert_close(augmented[0], expected, rtol=0, atol=0.015)
    assert (images[0] - expected).abs().max() > 0.3


def test_all_together_move_an_image_by_the_composition_that_the_labels_tell(
    generator: torch.Generator,
) -> None:
    size = (48, 40)
    draws = ALWAYS.draw(64, generator)
    draws = draws._replace(stretch=draws.stretch.abs())
    images = waves(centres(*size), *size).expand(64, -1, -1, -1)
    augmented, labels = ALWAYS.apply(images, draws)
    for image, label in zip(augmented, labels, strict=True):
        back = torch.linalg.inv(map_told_by(label, *size))
        expected = waves(centres(*size) @ back[:2, :2].T + back[:2, 2], *size)
        assert (image - expected).square().mean().sqrt() < 0.003


def test_a_blob_is_moved_and_deformed_as_its_labels_tell(generator: torch.Generator) -> None:
    size, start, std = (64, 56), torch.tensor([3.0, -2.0], dtype=torch.float64), 2.0
    draws = ALWAYS.draw(50, generator)
    # Mild ones keep the blob inside and its mirror images away from it.
    draws = draws._replace(
        scaling=draws.scaling.clamp(-0.5, 0.5),
        stretch=draws.stretch.abs().clamp(max=0.5),
        shift=draws.shift.clamp(-0.5, 0.5),
    )
    places = centres(*size)
    blob = (-(places - start).square().sum(-1) / (2 * std**2)).exp()
    augmented, labels = ALWAYS.apply(blob.expand(50, 1, -1, -1), draws)
    for image, label in zip(augmented[:, 0], labels, strict=True):
        forth = map_told_by(label, *size)
        linear = forth[:2, :2]
        end = linear @ start + forth[:2, 2]
        near = image * ((places - end).norm(dim=-1) < 12)
        weights = (near / near.sum())[..., None]
        mean = (weights * places).sum((0, 1))
        centered = places - mean
        covariance = torch.einsum("yxi,yxj->ij", weights * centered, centered)
        torch.testing.assert_close(mean, end, rtol=0, atol=0.02)
        torch.testing.assert_close(covariance, std**2 * linear @ linear.T, rtol=0, atol=0.1)


def test_a_stretch_of_negative_n_is_one_across_its_direction() -> None:
    images = waves(centres(32, 32), 32, 32)[None]
    along, across = (
        ALWAYS.apply(images, unchanged(stretch=n, stretch_angle=a))[0]
        for n, a in [(-1.0, 0.4), (1.0, 0.4 + pi / 2)]
    )
    torch.testing.assert_close(along, across, rtol=0, atol=1e-5)


def test_a_shift_by_whole_pixels_shifts_the_pixels() -> None:
    images = waves(centres(32, 32), 32, 32)[None]
    shifted, _ = ALWAYS.apply(images, unchanged(shift=[1.25, -0.75]))
    inside = images[..., 3:, :-5], shifted[..., :-3, 5:]
    torch.testing.assert_close(*inside, rtol=0, atol=0.003)


@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_quarter_turns_are_those_of_torch(quarters: int) -> None:
    images = waves(centres(32, 32), 32, 32)[None]
    turned, labels = ALWAYS.apply(images, unchanged(rotation=quarters * pi / 2))
    torch.testing.assert_close(turned, images.rot90(-quarters, (-2, -1)), rtol=0, atol=0.003)
    expected = {-1: [-1.0, -1.0], 1: [-1.0, 1.0], 2: [-2.0, 0.0]}[quarters]
    torch.testing.assert_close(labels[0, 3:5].tolist(), expected, rtol=0, atol=1e-6)


def test_shrinking_removes_what_the_image_can_no_longer_hold() -> None:
    shrink = 1.5
    places = centres(64, 64)
    stripes = torch.cos(2 * pi * 0.45 * places[..., 0])[None, None]
    shrunk, _ = ALWAYS.apply(stripes, unchanged(scaling=-log2(shrink) / 0.2))
    grid = (places * shrink / 32)[None]
    aliased = torch.nn.functional.grid_sample(
        stripes, grid, padding_mode="reflection", align_corners=False
    )
    assert aliased[..., 16:48, 16:48].std() > 0.3
    assert shrunk[..., 16:48, 16:48].std() < 0.03


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (8, 12)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_images_stay_constant(
    channels: int, size: tuple[int, int], dtype: torch.dtype, generator: torch.Generator
) -> None:
    levels = torch.linspace(-1, 1, channels, dtype=dtype)[:, None, None]
    images = levels.expand(50, channels, *size)
    augmented, labels = ALWAYS(images, generator)
    assert augmented.shape == images.shape
    assert labels.shape == (50, LABEL_DIM)
    assert augmented.dtype == labels.dtype == dtype
    torch.testing.assert_close(augmented, images, rtol=0, atol=2e-6)


def test_without_augmentation_half_of_the_images_are_mirrored_and_the_rest_is_exact(
    generator: torch.Generator,
) -> None:
    images = torch.randn(2000, 3, 8, 8, generator=generator)
    augmented, labels = NEVER(images, generator)
    mirrored = labels[:, 0] == 1
    assert abs(mirrored.double().mean() - 0.5) < 4 * 0.5 / 2000**0.5
    torch.testing.assert_close(augmented[mirrored], images[mirrored].flip(-1), rtol=0, atol=0)
    torch.testing.assert_close(augmented[~mirrored], images[~mirrored], rtol=0, atol=0)
    assert not labels[~mirrored].any()
    assert not labels[:, 1:].any()


def test_images_that_are_only_flipped_are_exact_among_warped_ones(
    generator: torch.Generator,
) -> None:
    images = torch.randn(400, 3, 8, 8, generator=generator)
    augmented, labels = GeometricAugmentation(0.3)(images, generator)
    warped = labels[:, 2:].any(dim=1)
    flips = [(x, y) for x in (0, 1) for y in (0, 1)]
    for flip in flips:
        rows = ~warped & (labels[:, :2] == torch.tensor(flip)).all(dim=1)
        dims = [dim for dim, on in zip((-1, -2), flip, strict=True) if on]
        assert rows.any()
        torch.testing.assert_close(augmented[rows], images[rows].flip(dims), rtol=0, atol=0)
    assert warped.any()
    assert ((augmented - images)[warped] != 0).flatten(1).any(dim=1).all()


def test_labels_are_in_their_documented_order() -> None:
    draws = unchanged(
        flip_x=True,
        flip_y=True,
        scaling=0.1,
        rotation=pi / 6,
        stretch=-2.0,
        stretch_angle=pi / 3,
        shift=[0.5, -0.7],
    )
    expected = [1, 1, 0.1, 3**0.5 / 2 - 1, 0.5, -1, -(3**0.5), 0.5, -0.7]
    torch.testing.assert_close(draws.labels(), torch.tensor([expected]))
    assert not unchanged().labels().any()


COUNT, PROBABILITY, SIGMAS = 100_000, 0.12, 4.5


@pytest.fixture(scope="module")
def many() -> AugmentDraws:
    generator = torch.Generator().manual_seed(1)
    return GeometricAugmentation(PROBABILITY).draw(COUNT, generator)


def on_or_off(draws: AugmentDraws) -> dict[str, Tensor]:
    """Whether each transformation does something, ``[B]`` by name."""
    flags = {name: value != 0 for name, value in draws._asdict().items()}
    return {**flags, "shift": flags["shift"].any(dim=1)}


def test_transformations_are_on_as_often_as_they_should_be(many: AugmentDraws) -> None:
    for name, flags in on_or_off(many).items():
        frequency = {"flip_x": 0.5, "flip_y": PROBABILITY / 2}.get(name, PROBABILITY)
        error = (frequency * (1 - frequency) / COUNT) ** 0.5
        assert abs(flags.double().mean().item() - frequency) < SIGMAS * error, name


def test_transformations_are_independent(many: AugmentDraws) -> None:
    flags = on_or_off(many)
    assert torch.equal(flags.pop("stretch_angle"), flags["stretch"])
    for one, other in combinations(flags, 2):
        pair = torch.stack([flags[one], flags[other]]).double()
        assert abs(torch.corrcoef(pair)[0, 1].item()) < SIGMAS / COUNT**0.5, (one, other)


def test_parameters_have_the_moments_of_their_laws(many: AugmentDraws) -> None:
    normal, angle = (1.0, 3.0), (pi**2 / 3, pi**4 / 5)
    laws = {
        "scaling": (many.scaling, normal),
        "rotation": (many.rotation, angle),
        "stretch": (many.stretch, normal),
        "stretch_angle": (many.stretch_angle, angle),
        "shift x": (many.shift[:, 0], normal),
        "shift y": (many.shift[:, 1], normal),
    }
    for name, (values, (second, fourth)) in laws.items():
        drawn = values[values != 0].double()
        errors = (second / len(drawn)) ** 0.5, ((fourth - second**2) / len(drawn)) ** 0.5
        assert abs(drawn.mean().item()) < SIGMAS * errors[0], name
        assert abs(drawn.square().mean().item() - second) < SIGMAS * errors[1], name
    assert max(many.rotation.abs().max(), many.stretch_angle.abs().max()) <= pi + 1e-6


def test_parameters_are_uncorrelated(many: AugmentDraws) -> None:
    parameters = torch.stack([*many[:-1], *many.shift.unbind(-1)]).double()
    correlations = torch.corrcoef(parameters) - torch.eye(len(parameters))
    # The most that it can be for two that are on together, as are the two shifts.
    error = (PROBABILITY * COUNT) ** -0.5
    assert correlations.abs().max() < SIGMAS * error


def test_the_probability_turns_on_and_changes_no_parameter() -> None:
    some, all_on = (
        GeometricAugmentation(p).draw(500, torch.Generator().manual_seed(3)) for p in (0.4, 1)
    )
    for few, full in zip(some[2:], all_on[2:], strict=True):
        assert torch.equal(few, torch.where(few != 0, full, 0.0))
    assert torch.equal(some.flip_x, all_on.flip_x)


def test_ranks_that_take_their_rows_of_the_draws_augment_the_whole_batch(
    generator: torch.Generator,
) -> None:
    augmentation = GeometricAugmentation(0.5)
    images = torch.randn(61, 3, 16, 16, generator=generator)
    draws = augmentation.draw(61, generator)
    whole, labels = augmentation.apply(images, draws)
    shards = [slice(0, 20), slice(20, 21), slice(21, 61)]
    parts = [augmentation.apply(images[rows], draws.rows(rows)) for rows in shards]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), whole, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_the_generator_decides_all(generator: torch.Generator) -> None:
    images = torch.randn(20, 1, 8, 8, generator=generator)
    first, again, other = (
        GeometricAugmentation(0.5)(images, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_images_are_left_alone_and_no_gradient_is_kept(generator: torch.Generator) -> None:
    images = torch.randn(20, 1, 8, 8, generator=generator).requires_grad_()
    before = images.detach().clone()
    augmented, labels = ALWAYS(images, generator)
    assert torch.equal(images, before)
    assert not augmented.requires_grad
    assert not labels.requires_grad


@pytest.mark.parametrize("probability", [-0.1, 1.1, nan, inf])
def test_a_wrong_probability_is_told(probability: float) -> None:
    with pytest.raises(UsageError, match=f"{probability}.*between 0 and 1"):
        GeometricAugmentation(probability)
