"""Experiments: trainings and parts that are done once, what flows and images are compared by."""

import subprocess
from dataclasses import replace
from math import inf
from unittest.mock import Mock

import pytest
import torch

import toy_train
from dnnlib.errors import DataError
from experiments import against_isotropic, trainings
from experiments.features import SECTORS, Classifier, energy, frechet, orientations
from experiments.lab import Lab
from experiments.participation_ratio import basis_of, measured, settled
from experiments.trainings import Training, side_by_side, trained
from tests.support.draws import normal, seeded
from tests.support.flows import gaussian_flow
from tests.support.running import run_script
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import EDMSchedule, InflationSchedule

OPTIONS = ("--data_name=circles", "--duration=0.0004", "--batch=100", "--no-calibrate")
TRAINING = Training("circles", "toy_train.py", OPTIONS)


@pytest.fixture
def here(monkeypatch):
    """Scripts run in this process. Returns the options of each that did."""
    ran = []

    def run(script, *options, threads=None):
        ran.append(" ".join(options))
        assert run_script(toy_train, *options).code == 0
        return 1.5

    monkeypatch.setattr(trainings, "run", run)
    return ran


def test_a_finished_network_is_not_trained_again_and_a_killed_training_goes_on(tmp_path, here):
    first, other = (Lab(name, "cpu", tmp_path, False) for name in ("one", "another"))
    network = trained(first, TRAINING)
    assert trained(other, TRAINING) == network
    assert len(here) == 1
    # Both know what it took, and neither takes a network of other options for its own.
    assert first.taken == other.taken == 1.5
    with pytest.raises(DataError, match="was trained with"):
        trained(other, replace(TRAINING, options=(*OPTIONS, "--seed=1")))
    # One that was killed goes on.
    whole = network.read_bytes()
    network.unlink()
    network.with_name("finished.json").unlink()
    third = Lab("a third", "cpu", tmp_path, False)
    assert trained(third, TRAINING).read_bytes() == whole
    assert here[1] == f"--resume={network.parent}"


SCRIPT = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1].removeprefix("--outdir="))
folder.mkdir(parents=True)
told = " ".join([os.environ["OMP_NUM_THREADS"], *sys.argv[2:]])
(folder / "network-snapshot-000001.pkl").write_text(told)
sys.exit("--fail" in sys.argv)
"""


def test_side_by_side_trainings_have_one_thread_and_a_process_of_their_own(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(trainings, "idle_cores", lambda unknown: 2.0)
    monkeypatch.setattr(trainings.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(trainings.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    lab = Lab("name", "cpu", tmp_path / "out", False)
    three = [Training(key, str(script), (f"--data={key}",)) for key in "abc"]
    failing = Training("d", str(script), ("--fail",))
    with pytest.raises(subprocess.CalledProcessError):
        side_by_side(lab, [*three, failing])
    # What is there already is taken as it is.
    networks = side_by_side(lab, three)
    assert [path.read_text() for path in networks] == [f"1 --nosubdir --data={k}" for k in "abc"]
    assert lab.taken > 0


def test_a_part_that_is_there_is_not_measured_again(tmp_path):
    one, measure = Lab("name", "cpu", tmp_path, False), Mock(return_value={"number": 3})
    assert one.part("key", measure) == one.part("key", measure) == {"number": 3}
    assert measure.call_count == 1
    assert Lab("name", "gpu", tmp_path, False).part("key", measure)
    assert measure.call_count == 2


def test_states_end_at_the_dimensions_that_are_kept(tmp_path):
    got = measured(basis_of(Lab("name", "cpu", tmp_path, False), "swirl"), 2)
    assert got["PRP"]["ratios"][0] == pytest.approx(got["data"], rel=1e-3)
    assert got["PRP"]["ratios"][-1] == pytest.approx(3, rel=0.01)
    assert 2 < got["PRR"]["ratios"][-1] < 2.3
    assert settled(got["PRP"]["ratios"]) == 0
    assert settled([2.0, 1.2, 1.04, 1.0]) == pytest.approx(2 / 3)


def test_distances_are_near_zero_for_one_law_and_grow_with_a_shift():
    one, other = (normal(600, 8, seed=seed) for seed in (0, 1))
    for distance in (energy, frechet):
        same, near, far = (distance(one, other + shift) for shift in (0.0, 0.3, 0.6))
        assert abs(same) < 0.1 < near < far
    # That of energy is right on average for few samples.
    pairs = [(normal(5, 8, seed=k), normal(5, 8, seed=1000 + k)) for k in range(400)]
    got = torch.tensor([energy(*pair) for pair in pairs])
    assert abs(float(got.mean())) < 3 * float(got.std()) / 20


def test_edges_that_run_across_are_in_the_sector_of_their_gradient():
    angle = ((torch.arange(SECTORS) + 0.5) / SECTORS - 0.5)[:, None, None] * torch.pi
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    waves = torch.sin(0.4 * (angle.cos() * across + angle.sin() * down))
    pixels = (127 + 100 * waves).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    assert orientations(pixels).tolist() == list(range(SECTORS))


def test_a_classifier_learns_and_is_the_same_when_it_is_opened_again(tmp_path):
    labels = torch.arange(200) % 2
    noise = torch.randint(0, 100, (200, 1, 8, 8), generator=seeded())
    pixels = (noise + 100 * labels[:, None, None, None]).to(torch.uint8)
    classifier = Classifier.trained(pixels, labels, 60)
    assert classifier.accuracy(pixels, labels) > 0.95
    classifier.save(tmp_path / "features.npz")
    opened = Classifier.load(tmp_path / "features.npz", (1, 8, 8))
    torch.testing.assert_close(opened.of_pixels(pixels), classifier.of_pixels(pixels))


BASIS = EigenBasis(torch.zeros(3), torch.tensor([4.0, 1.0, 0.25]), torch.eye(3))
SCHEDULES = {
    "PRP": InflationSchedule.to_dimension(3, 3, top_variance=4.0),
    "PRR": InflationSchedule.to_dimension(1, 3, top_variance=4.0),
    "edm": EDMSchedule(3),
}


def linear_flow(schedule, factor=1.0):
    """That of a Gaussian, or one that denoises by another factor."""
    flow = gaussian_flow(BASIS, schedule, factor - 1)
    return ProbabilityFlow(flow.denoiser, schedule, BASIS, 2 * schedule.default_t_max())


def clean(count):
    return normal(count, 3, seed=3) * BASIS.eigenvalues.sqrt()


@pytest.mark.parametrize("name", ["PRP", "edm"])
def test_levels_and_losses_are_those_of_the_best_linear_denoiser(name):
    schedule = SCHEDULES[name]
    times = against_isotropic.levels_of(schedule, BASIS.eigenvalues, 2 * schedule.default_t_max())
    gamma, variance = schedule.noise_variance(times), BASIS.eigenvalues
    left = (variance * gamma / (variance + gamma)).sum(dim=1) / variance.sum()
    torch.testing.assert_close(left.tolist(), list(against_isotropic.LEVELS), rtol=1e-3, atol=1e-3)
    assert against_isotropic.losses(linear_flow(schedule), times, clean(100)) == pytest.approx(
        [1] * len(against_isotropic.LEVELS)
    )
    assert min(against_isotropic.losses(linear_flow(schedule, 0.5), times, clean(2000))) > 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_bits_of_a_gaussian_are_its_own_whatever_the_noise(name):
    noisy = against_isotropic.noisy_images(BASIS, clean(50))
    assert noisy.var() > against_isotropic.GAMMA0
    own = against_isotropic.gaussian_bits(BASIS, noisy)
    # At the end time the Gaussian of the closed form is the law of latents.
    got = against_isotropic.bits(linear_flow(SCHEDULES[name]), noisy)
    assert got == pytest.approx(own, abs=2e-3)


def test_calls_are_those_from_which_the_error_stays_small():
    assert against_isotropic.calls_needed("exp_rk5", [9, 0.9, 2.0, 0.5, 0.1]) == 48
    assert against_isotropic.calls_needed("exp_rk5", [0.5, 0.4, 0.3, 0.2, 0.1]) == 6
    assert against_isotropic.calls_needed("heun", [9, 8, 7, 6, 5, 4]) == inf
