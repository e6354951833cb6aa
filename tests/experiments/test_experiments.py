"""Experiments of the paper: networks that are trained once, distances of samples, and effects."""

from unittest.mock import Mock

import pytest
import torch

from benchmarks import paper
from experiments import lab
from experiments.images import SECTORS, Classifier, frechet, orientations
from experiments.lab import energy, trained
from experiments.toys import participation
from tests.support.draws import normal, seeded


def test_a_network_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "FOLDER", tmp_path / "new")
    monkeypatch.setattr(lab.Model, "load", lambda path: path.read_text())
    train = Mock(return_value=Mock(save=lambda path: path.write_text("a network")))
    assert trained("circles", train) == trained("circles", train) == "a network"
    assert train.call_count == 1


def test_states_end_at_the_dimensions_that_are_kept():
    found = participation("swirl")
    assert found["PRP"] == pytest.approx(3, rel=0.01)
    assert 2 < found["PRR"] < 2.3
    assert 0 < found["within"] < 1


def test_distances_are_near_zero_for_one_distribution_and_grow_with_a_shift():
    one, other = (normal(600, 8, seed=seed) for seed in (0, 1))
    for distance in (energy, frechet):
        same, near, far = (distance(one, other + shift) for shift in (0.0, 0.3, 0.6))
        assert abs(same) < 0.1 < near < far
    # The energy distance is unbiased, also for few samples.
    pairs = [(normal(5, 8, seed=k), normal(5, 8, seed=1000 + k)) for k in range(400)]
    got = torch.tensor([energy(*pair) for pair in pairs])
    assert abs(float(got.mean())) < 3 * float(got.std()) / 20


def test_edges_that_run_across_are_in_the_sector_of_their_gradient():
    angle = ((torch.arange(SECTORS) + 0.5) / SECTORS - 0.5)[:, None, None] * torch.pi
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = torch.sin(0.4 * (angle.cos() * across + angle.sin() * down))
    pixels = (127 + 100 * waves).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    assert orientations(pixels).tolist() == list(range(SECTORS))


def test_a_classifier_learns():
    classes = torch.arange(200) % 2
    noise = torch.randint(0, 100, (200, 1, 8, 8), generator=seeded())
    pixels = (noise + 100 * classes[:, None, None, None]).to(torch.uint8)
    assert Classifier.trained(pixels, classes, steps=60).accuracy(pixels, classes) > 0.95


def test_an_effect_without_the_published_direction_fails_the_claim():
    ratios = {"dim": 3, "kept": 2, "PRP": 3.0, "PRR": 2.1}
    results = {"participation swirl once": ratios}
    assert paper.judge(results)[0]
    for gap, distance in ((1.02, 0.5), (1.5, 0.4)):  # it should grow
        results[f"{paper.key_of('digits', 2, gap)} 100"] = {"frechet": distance}
    holds, reason = paper.judge(results)
    assert not holds
    assert "1 of 2 published effects" in reason
    assert "not found: quality falls as the inflation gap grows" in reason
