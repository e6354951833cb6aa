"""Linear maps against what they are made of, their adjoints, and what names make."""

import pytest
import torch
import torch.nn.functional as F

from dnnlib.errors import UsageError
from tests.support.draws import normal
from tests.support.refusals import refusal
from training.files.observations import read_mask, read_operator
from training.inference.operators import LinearMap

SHAPE = (2, 4, 6)
DIM = 48
IMAGES = normal(3, DIM, seed=1)
NAMES = ("blur:0.7", "downsample:2", "crop:1,2,3,4", "random:5")


def named(text: str) -> LinearMap:
    return read_operator(text, DIM, SHAPE)


@pytest.mark.parametrize("text", NAMES)
def test_adjoints_are_those_of_the_inner_product(text: str) -> None:
    seen, values = named(text), normal(3, named(text).size, seed=2)
    there, back = (seen(IMAGES) * values).sum(dim=1), (IMAGES * seen.adjoint(values)).sum(dim=1)
    torch.testing.assert_close(there, back)
    torch.testing.assert_close(IMAGES @ seen.matrix.T, seen(IMAGES))


def test_maps_of_images_are_torchs() -> None:
    images = IMAGES.view(-1, *SHAPE)
    means = F.avg_pool2d(images, 2).flatten(1)
    torch.testing.assert_close(named("downsample:2")(IMAGES), means)
    torch.testing.assert_close(named("crop:1,2,3,4")(IMAGES), images[:, :, 1:4, 2:6].flatten(1))
    blur = named("blur:0.7")
    assert blur.shape == SHAPE
    torch.testing.assert_close(blur(torch.ones(1, DIM)), torch.ones(1, DIM))
    spot = torch.zeros(SHAPE).double()
    spot[0, 2, 3] = 1
    found = blur(spot.view(1, -1)).view(SHAPE)
    # Away from the borders, neighbors have exp(-1 / (2 std^2)) of the middle.
    torch.testing.assert_close(
        found[0, 2, 4] / found[0, 2, 3], torch.tensor(0.36).double(), atol=0.02, rtol=0
    )
    assert not found[1].any()


def test_random_masks_see_their_share_and_always_the_same() -> None:
    names = [f"pixel{place}" for place in range(1000)]
    seen = read_mask("random:0.3", names, None)
    assert 250 < len(seen) < 350
    assert torch.equal(seen, read_mask("random:0.3", names, None))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("blur", "blur:STD"),
        ("blur:0", "blur:STD"),
        ("downsample:1.5", "downsample:FACTOR"),
        ("downsample:4", "does not divide images of 6x4"),
        ("crop:1,2,3", "crop:ROW"),
        ("crop:1,2,4,4", "not within images of 6x4"),
        ("random:nan", "random:COUNT"),
        ("turn:2", "'turn:2'"),
    ],
)
def test_maps_that_there_are_not_are_told(text: str, part: str) -> None:
    assert part in refusal(named, text, kind=UsageError)
    assert "a .npy" in refusal(read_operator, "blur:1", 2, None, kind=UsageError)
