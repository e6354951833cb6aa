"""What experiments compare images by: distances that are 0 for one law, and grow with a shift."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.features import SECTORS, Classifier, energy, frechet, orientations


def normal(count: int, seed: int, shift: float = 0.0) -> Tensor:
    draws = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return draws.double() + shift


@pytest.mark.parametrize("distance", [energy, frechet])
def test_a_distance_is_near_zero_for_one_law_and_grows_with_a_shift(distance: object) -> None:
    same, near, far = (distance(normal(600, 0), normal(600, 1, s)) for s in (0.0, 0.3, 0.6))
    assert abs(same) < 0.1 < near < far


def test_the_energy_distance_is_right_on_average_for_few_samples() -> None:
    found = torch.tensor([energy(normal(5, k), normal(5, 1000 + k)) for k in range(400)])
    assert abs(float(found.mean())) < 3 * float(found.std()) / 20


@pytest.mark.parametrize("sector", range(SECTORS))
def test_edges_that_run_across_are_in_the_sector_of_their_gradient(sector: int) -> None:
    angle = torch.tensor((sector + 0.5) / SECTORS - 0.5) * torch.pi
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = torch.sin(0.4 * (angle.cos() * across + angle.sin() * down))
    pixels = (127 + 100 * waves).round().to(torch.uint8).expand(2, 3, 16, 16)
    assert orientations(pixels).tolist() == [sector, sector]


def test_a_classifier_learns_and_is_the_same_when_it_is_opened_again(tmp_path: Path) -> None:
    labels = torch.arange(200) % 2
    noise = torch.randint(0, 100, (200, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    pixels = (noise + 100 * labels[:, None, None, None]).to(torch.uint8)
    classifier = Classifier.trained(pixels, labels, 60)
    assert classifier.accuracy(pixels, labels) > 0.95
    classifier.save(tmp_path / "features.npz")
    opened = Classifier.load(tmp_path / "features.npz", (1, 8, 8))
    torch.testing.assert_close(opened.of_pixels(pixels), classifier.of_pixels(pixels))
