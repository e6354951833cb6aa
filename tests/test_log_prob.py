"""``--log_prob`` of the simulation scripts: what they write, that it is right, what they refuse."""

import json
from collections.abc import Callable
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pfODE_int
import toy_pfODE_int
from tests.support.image_models import CLASSES, write_image_set
from tests.support.running import Run
from torch_utils.results import load_arrays
from training.data.images.batches import normalize_pixels
from training.data.toys import Toy
from training.flow.denoisers import DiscreteDenoiser, MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.model.model import Model
from training.model.recipe import make_schedule
from training.subjects.images import dequantized

Arrays = dict[str, np.ndarray]

KINDS = ("melt", "roundtrip", "gen")
TOY = ("--data_name=circles", "--total_samples=12", "--steps=8", "--save_freq=3")
COUNT, DIM = 3, 64
LEVELS = 127.5
SCRIPTS = [toy_pfODE_int, pfODE_int]
DENSITIES = {toy_pfODE_int: ("--log_prob",), pfODE_int: ("--log_prob", "--probes=2")}
SOLVER = SOLVERS["exp_rk5"]
WEIGHED = 4
"""Of its six stages, those that have a weight: the others take no trace."""


class Found:
    """Arrays by simulation, and the facts of each."""

    def __init__(self, folder: Path):
        (parameters,) = folder.glob("*_sim_params.json")
        told = json.loads(parameters.read_text())
        self.facts = told.get("simulations", told)
        self.arrays = {
            kind: load_arrays(path) for kind in KINDS for path in folder.glob(f"*_{kind}*.npz")
        }

    def __getitem__(self, kind: str) -> Arrays:
        return self.arrays[kind]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    return path, write_image_set(path, COUNT, classes=CLASSES)


@pytest.fixture(scope="module")
def simulate(run_once: Run) -> Callable[..., Found]:
    """``simulate(script, ...)``, read back."""
    return cache(lambda *given: Found(run_once(*given)[0]))


@pytest.fixture(scope="module")
def arguments(networks: dict[str, Path], images: tuple[Path, np.ndarray]) -> Run:
    """``arguments(script, network)``: few samples and steps; toys are exact."""

    def choose(script: Any, network: str) -> list[str]:
        if script is toy_pfODE_int:
            return ["exact", *TOY]
        few = [f"--bs={COUNT}", "--n_iters=2", "--batch-gpu=2", "--save_freq=2"]
        return [f"--network={networks[network]}", f"--data_root={images[0]}", *few]

    return choose


def toy_flow(mode: str, network: Path) -> tuple[ProbabilityFlow, float]:
    """The flow that a mode of the script integrates, and its T."""
    if mode == "net":
        model = Model.load(network)
        return model.flow, model.about["tmax"]
    toy = Toy("circles")
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = make_schedule("ifs", {"dims_to_keep": 1}, basis)
    denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    return ProbabilityFlow(denoiser, schedule, basis), schedule.default_t_max()


@pytest.mark.parametrize("mode", ["exact", "discrete", "net"])
def test_toys_get_the_density_of_their_points_at_the_first_time(
    mode: str, simulate: Run, toy_network: Run
) -> None:
    network = toy_network("--data_name=circles", "--tmax=5")
    which = f"--network={network}" if mode == "net" else "--dims_to_keep=1"
    found = simulate(toy_pfODE_int, mode, *TOY, which, "--log_prob")
    flow, end = toy_flow(mode, network)
    if mode == "discrete":
        points = torch.from_numpy(found["melt"]["tilde_xs"][0])
        flow.denoiser = DiscreteDenoiser(points, flow.basis, flow.schedule)
    times = flow.schedule.times(8, end)
    for kind in KINDS:
        points = torch.from_numpy(found[kind]["tilde_xs"][0 if kind == "melt" else -1])
        expected, densities = flow.log_prob(points, times, SOLVER), found[kind]["log_prob"]
        assert (densities.shape, densities.dtype) == ((12,), np.float64)
        # Of generated points the way back is another integration, in few steps.
        tolerance = 1e-6 if kind == "melt" else 2e-2
        np.testing.assert_allclose(densities, expected, rtol=0, atol=tolerance)


def assert_facts_fit(facts: dict[str, Any], arrays: Arrays, *names: str) -> None:
    for name in names:
        values = arrays[name]
        error = values.std(ddof=1) / len(values) ** 0.5
        assert facts[name] == pytest.approx({"mean": values.mean(), "standard_error": error})


def test_parameters_tell_the_mean_its_error_and_the_cost(simulate: Run) -> None:
    found, calls = simulate(toy_pfODE_int, "exact", *TOY, "--log_prob"), 8 * SOLVER.calls_per_step
    for kind in KINDS:
        facts = found.facts[kind]
        assert_facts_fit(facts["likelihood"], found[kind], "log_prob")
        assert facts["denoiser_calls"] == facts["likelihood"]["denoiser_calls"] == calls
        products = 2 * WEIGHED * calls // SOLVER.calls_per_step
        assert facts["likelihood"]["jacobian_products"] == products
    one = simulate(toy_pfODE_int, "exact", *TOY, "--total_samples=1", "--log_prob")
    assert one.facts["gen"]["likelihood"]["log_prob"]["standard_error"] is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.__name__)
def test_densities_alone_are_added_if_asked(script: Any, simulate: Run, arguments: Run) -> None:
    along = simulate(script, *arguments(script, "classes in ES"), *DENSITIES[script])
    alone = simulate(script, *arguments(script, "classes in ES"))
    images = {"log_prob", "log_prob_error", "bits_per_dim"}
    densities = {"log_prob"} if script is toy_pfODE_int else images
    for kind in KINDS:
        assert set(along[kind]) - set(alone[kind]) == densities
        for name, array in alone[kind].items():
            np.testing.assert_array_equal(along[kind][name], array)
        assert "likelihood" not in alone.facts[kind]


def gaussian(network: Path, points: np.ndarray) -> np.ndarray:
    """Log densities of the best linear denoiser's flow: data plus noise, as if Gaussian."""
    flow = Model.load(network).flow
    spread = flow.basis.eigenvalues + flow.schedule.noise_variance(torch.tensor(0.0).double())
    axes = flow.basis.eigenvectors
    law = torch.distributions.MultivariateNormal(flow.basis.mean, axes * spread @ axes.T)
    return law.log_prob(torch.from_numpy(points).double()).numpy()


def test_images_get_the_density_of_their_dequantized_copies(
    simulate: Run, arguments: Run, networks: dict[str, Path], images: tuple[Path, np.ndarray]
) -> None:
    more = (*DENSITIES[pfODE_int], "--seed=3", "--start_noise")  # which is not theirs
    found = simulate(pfODE_int, *arguments(pfODE_int, "PRR"), *more)
    data = normalize_pixels(torch.from_numpy(images[1])).flatten(1)
    for kind in KINDS:
        arrays, facts = found[kind], found.facts[kind]["likelihood"]
        points = arrays["tilde_xs"][-1]
        points = dequantized(data, seed=3).numpy() if kind == "melt" else points
        # Others are saved in single precision.
        tolerance = 1e-6 if kind == "melt" else 1e-2
        expected = gaussian(networks["PRR"], points)
        np.testing.assert_allclose(arrays["log_prob"], expected, rtol=0, atol=tolerance)
        levels = -(arrays["log_prob"] / DIM - log(LEVELS)) / log(2)
        np.testing.assert_allclose(arrays["bits_per_dim"], levels, rtol=1e-12)
        assert_facts_fit(facts, arrays, "log_prob", "bits_per_dim")
        assert facts["denoiser_calls"] == 2 * SOLVER.calls_per_step
        assert facts["jacobian_products"] == 2 * 2 * WEIGHED


def test_noise_of_dequantization_fills_the_bin_of_each_level() -> None:
    levels = torch.arange(256.0).expand(300, -1)
    data = normalize_pixels(levels.to(torch.uint8))
    noisy = (dequantized(data, seed=0) + 1) * LEVELS
    offset = noisy - levels
    # Normalized pixels are in single precision.
    assert -0.5 - 1e-4 <= offset.min() < -0.49
    assert 0.49 < offset.max() <= 0.5 + 1e-4
    assert abs(offset.mean()) < 4 * (1 / 12 / offset.numel()) ** 0.5
    assert offset.var() == pytest.approx(1 / 12, rel=0.02)
    assert torch.equal(dequantized(data[:7], seed=0), dequantized(data, seed=0)[:7])
    assert not torch.equal(dequantized(data, seed=1), dequantized(data, seed=0))
