"""Augmentation: exact flips, warps against closed forms, labels, the law of the draws."""

from itertools import combinations, product
from math import inf, log2, nan, pi

import pytest
import torch
import torch.nn.functional as F

from dnnlib.errors import UsageError
from tests.support.draws import double, seeded
from training.data.augment import AugmentDraws, GeometricAugmentation
from training.names import LABEL_DIM

ALWAYS, NEVER = GeometricAugmentation(1), GeometricAugmentation(0)
WARPS = {
    "scaling": {"scaling": 1.0},
    "rotation": {"rotation": 0.7},
    "stretch": {"stretch": 1.0, "stretch_angle": 0.7},
    "shift": {"shift": [0.3, -1.2]},
}
COUNT, PROBABILITY, SIGMAS = 100_000, 0.12, 4.5
MANY = GeometricAugmentation(PROBABILITY).draw(COUNT, seeded(1))


def unchanged(**parameters):
    """Draws of one image that change nothing, but for the parameters given."""
    zeros, off = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    none = AugmentDraws(off, off, zeros, zeros, zeros, zeros, torch.zeros(1, 2))
    shapes = {name: value.shape for name, value in none._asdict().items()}
    given = {k: torch.as_tensor(v).expand(shapes[k]) for k, v in parameters.items()}
    return none._replace(**given)


def centres(height, width):
    """The pixels' ``(x, y)`` from the centre of the image, ``[H, W, 2]``."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 - n / 2 for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def homogeneous(*rows):
    return double([*rows, [0.0, 0.0, 1.0]])


def rotation(cosine, sine):
    return homogeneous([cosine, -sine, 0], [sine, cosine, 0])


def map_of(labels, height, width):
    """The map of pixel coordinates that nine labels describe, with a stretch of ``n >= 0``."""
    flip_x, flip_y, n, cosine, sine, *rest = labels.double().tolist()
    along_x, along_y, shift_x, shift_y = rest
    stretch = torch.tensor([along_x, along_y]).norm().item()
    direction = rotation(along_x / stretch, along_y / stretch) if stretch else torch.eye(3).double()
    flips = homogeneous([1 - 2 * flip_x, 0, 0], [0, 1 - 2 * flip_y, 0])
    scaling = homogeneous([2 ** (0.2 * n), 0, 0], [0, 2 ** (0.2 * n), 0])
    strain = homogeneous([2 ** (0.2 * stretch), 0, 0], [0, 2 ** (-0.2 * stretch), 0])
    shift = homogeneous([1, 0, shift_x * width / 8], [0, 1, shift_y * height / 8])
    stretching = direction @ strain @ torch.linalg.inv(direction)
    return shift @ stretching @ rotation(cosine + 1, sine) @ scaling @ flips


def waves(places, height, width):
    """Smooth functions of ``(x, y) [..., 2]`` that are even about all edges, ``[5, ...]``."""
    x, y = places[..., 0] / width + 0.5, places[..., 1] / height + 0.5
    frequencies = [(1, 0), (0, 1), (2, 3), (3, 1), (4, 4)]
    return torch.stack([torch.cos(pi * k * x) * torch.cos(pi * m * y) for k, m in frequencies])


def warped_waves(labels, size):
    """Where the labels say that the waves have gone, ``[5, H, W]``."""
    back = torch.linalg.inv(map_of(labels, *size))
    return waves(centres(*size) @ back[:2, :2].T + back[:2, 2], *size)


def test_warps_move_an_image_to_where_its_labels_say_and_negative_stretches_across():
    for size in ((32, 32), (24, 40)):
        images = waves(centres(*size), *size)[None]
        for parameters in WARPS.values():
            augmented, labels = ALWAYS.apply(images, unchanged(**parameters))
            expected = warped_waves(labels[0], size)
            torch.testing.assert_close(augmented[0], expected, rtol=0, atol=0.015)
            assert (images[0] - expected).abs().max() > 0.3
    # All of them together.
    draws = ALWAYS.draw(32, seeded())
    draws = draws._replace(stretch=draws.stretch.abs())
    size = (48, 40)
    augmented, labels = ALWAYS.apply(waves(centres(*size), *size).expand(32, -1, -1, -1), draws)
    for image, label in zip(augmented, labels, strict=True):
        assert (image - warped_waves(label, size)).square().mean().sqrt() < 0.003
    images = waves(centres(32, 32), 32, 32)[None]
    ways = (unchanged(stretch=n, stretch_angle=a) for n, a in ((-1.0, 0.4), (1.0, 0.4 + pi / 2)))
    along, across = (ALWAYS.apply(images, way)[0] for way in ways)
    torch.testing.assert_close(along, across, rtol=0, atol=1e-5)


def test_shrinking_removes_what_the_image_can_no_longer_hold():
    shrink = 1.5
    places = centres(64, 64)
    stripes = torch.cos(2 * pi * 0.45 * places[..., 0])[None, None]
    shrunk, _ = ALWAYS.apply(stripes, unchanged(scaling=-log2(shrink) / 0.2))
    grid = (places * shrink / 32)[None]
    aliased = F.grid_sample(stripes, grid, padding_mode="reflection", align_corners=False)
    assert aliased[..., 16:48, 16:48].std() > 0.3
    assert shrunk[..., 16:48, 16:48].std() < 0.03


def test_constant_images_stay_constant(generator):
    for size, channels, dtype in (((8, 8), 1, torch.float64), ((8, 12), 3, torch.float32)):
        levels = torch.linspace(-1, 1, channels, dtype=dtype)[:, None, None]
        images = levels.expand(50, channels, *size)
        augmented, labels = ALWAYS.apply(images, ALWAYS.draw(50, generator))
        assert labels.shape == (50, LABEL_DIM)
        assert augmented.dtype == labels.dtype == dtype
        torch.testing.assert_close(augmented, images, rtol=0, atol=2e-6)


def test_images_that_are_only_flipped_are_exact(generator):
    images = torch.randn(1000, 3, 8, 8, generator=generator)
    before = images.clone()
    for probability in (0.0, 0.3):
        augmentation = GeometricAugmentation(probability)
        augmented, labels = augmentation.apply(images, augmentation.draw(1000, generator))
        assert torch.equal(images, before)
        warped = labels[:, 2:].any(dim=1)
        for flip in product((0, 1), repeat=2):
            rows = ~warped & (labels[:, :2] == torch.tensor(flip)).all(dim=1)
            dims = [dim for dim, on in zip((-1, -2), flip, strict=True) if on]
            assert rows.any() or (flip[1] and not probability)
            torch.testing.assert_close(augmented[rows], images[rows].flip(dims), rtol=0, atol=0)
        assert ((augmented - images)[warped] != 0).flatten(1).any(dim=1).all()
        assert warped.any() == bool(probability)
    # Without augmentation, half of the images are mirrored.
    mirrored = NEVER.apply(images, NEVER.draw(1000, generator))[1][:, 0].double().mean()
    assert abs(mirrored - 0.5) < 4 * 0.5 / 1000**0.5
    kept = ALWAYS.apply(images[:3].requires_grad_(), ALWAYS.draw(3, generator))
    assert not any(got.requires_grad for got in kept)


def test_labels_are_in_their_documented_order():
    both = {"flip_x": True, "flip_y": True, "stretch": -2.0, "stretch_angle": pi / 3}
    draws = unchanged(**both, scaling=0.1, rotation=pi / 6, shift=[0.5, -0.7])
    expected = [1, 1, 0.1, 3**0.5 / 2 - 1, 0.5, -1, -(3**0.5), 0.5, -0.7]
    torch.testing.assert_close(draws.labels(), torch.tensor([expected]))
    assert not unchanged().labels().any()


def on_or_off(draws):
    """Whether each transformation does something, ``[B]`` by name."""
    flags = {name: value != 0 for name, value in draws._asdict().items()}
    return {**flags, "shift": flags["shift"].any(dim=1)}


def test_transformations_are_independent_and_as_frequent_as_said():
    for name, hits in on_or_off(MANY).items():
        frequency = {"flip_x": 0.5, "flip_y": PROBABILITY / 2}.get(name, PROBABILITY)
        error = (frequency * (1 - frequency) / COUNT) ** 0.5
        assert abs(hits.double().mean().item() - frequency) < SIGMAS * error, name
    flags = on_or_off(MANY)
    assert torch.equal(flags.pop("stretch_angle"), flags["stretch"])
    for one, other in combinations(flags, 2):
        pair = torch.stack([flags[one], flags[other]]).double()
        assert abs(torch.corrcoef(pair)[0, 1].item()) < SIGMAS / COUNT**0.5, (one, other)


def test_parameters_have_the_moments_of_their_laws_and_are_uncorrelated():
    normal, angle = (1.0, 3.0), (pi**2 / 3, pi**4 / 5)
    distributions = {
        "scaling": (MANY.scaling, normal),
        "rotation": (MANY.rotation, angle),
        "stretch": (MANY.stretch, normal),
        "stretch_angle": (MANY.stretch_angle, angle),
        "shift x": (MANY.shift[:, 0], normal),
        "shift y": (MANY.shift[:, 1], normal),
    }
    for name, (values, (second, fourth)) in distributions.items():
        drawn = values[values != 0].double()
        errors = (second / len(drawn)) ** 0.5, ((fourth - second**2) / len(drawn)) ** 0.5
        assert abs(drawn.mean().item()) < SIGMAS * errors[0], name
        assert abs(drawn.square().mean().item() - second) < SIGMAS * errors[1], name
    assert max(MANY.rotation.abs().max(), MANY.stretch_angle.abs().max()) <= pi + 1e-6
    parameters = torch.stack([*MANY[:-1], *MANY.shift.unbind(-1)]).double()
    correlations = torch.corrcoef(parameters) - torch.eye(len(parameters))
    # The most that it can be for two that are on together, as are the two shifts.
    assert correlations.abs().max() < SIGMAS * ((PROBABILITY * COUNT) ** -0.5)


def test_the_probability_turns_on_and_changes_no_parameter():
    some, all_on = (GeometricAugmentation(p).draw(500, seeded(3)) for p in (0.4, 1))
    for few, full in zip(some[2:], all_on[2:], strict=True):
        assert torch.equal(few, torch.where(few != 0, full, 0.0))
    assert torch.equal(some.flip_x, all_on.flip_x)


def test_ranks_that_take_their_rows_of_the_draws_augment_the_whole_batch():
    generator = seeded()
    augmentation = GeometricAugmentation(0.5)
    images = torch.randn(61, 3, 16, 16, generator=generator)
    draws = augmentation.draw(61, generator)
    whole, labels = augmentation.apply(images, draws)
    shards = [slice(0, 20), slice(20, 21), slice(21, 61)]
    parts = [augmentation.apply(images[rows], draws.rows(rows)) for rows in shards]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), whole, rtol=0, atol=1e-5)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_the_generator_decides_all_and_probabilities_are_checked():
    images = torch.randn(20, 1, 8, 8, generator=seeded())
    some = GeometricAugmentation(0.5)
    draws = [some.draw(20, seeded(seed)) for seed in (1, 1, 2)]
    first, again, other = (some.apply(images, each) for each in draws)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    for probability in (-0.1, 1.1, nan, inf):
        with pytest.raises(UsageError, match=f"{probability}: give a number from 0 to 1"):
            GeometricAugmentation(probability)
