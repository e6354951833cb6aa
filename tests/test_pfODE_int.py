"""Image integration from the command line: what it writes, densities, and learned latents."""

import os
from functools import cache
from math import log
from unittest import mock

import numpy as np
import pytest
import torch

import pfODE_int
import toy_mesh_exps
import toy_pfODE_int
import toy_train
from tests.support.flows import exact_flow
from tests.support.image_models import END, SHAPE
from tests.support.image_runs import network_file
from tests.support.outcomes import KINDS, TRAJECTORY, Simulations, assert_same
from tests.support.running import contents, good, refused, run_script, unless_given
from torch_utils.results import load_arrays, load_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.dataset import ImageDataset, normalize_pixels
from training.files.trajectory import SavedTrajectory
from training.flow.denoisers import DiscreteDenoiser
from training.flow.latent import LearnedLatents
from training.flow.solvers import SOLVERS
from training.names import DEFAULT_SOLVER
from training.pictures.simulations import latent_law
from training.subjects.images import dequantized
from training.trained.network import TrainedNetwork

COUNT, DIM = 5, 64
TINY = ("--duration=0.0008", "--batch=200", "--no-calibrate")


@pytest.fixture(scope="module")
def command(networks, images):
    """``command(network, ...)``: few images and steps, unless arguments say otherwise."""

    def arguments(network, *more):
        standard = {"--network": networks[network], "--n_iters": 2}
        standard |= {"--data_root": images, "--bs": COUNT, "--batch-gpu": COUNT}
        if {"--sim_type=roundtrip", "--sim_type=gen"} & set(more):
            del standard["--data_root"]
        if "--sim_type=roundtrip" in more:
            del standard["--bs"]
        return unless_given(standard, more)

    return arguments


@pytest.fixture(scope="module")
def simulate(run_once, command):
    """``simulate(network, ...)``, read back."""
    return cache(lambda *given: Simulations(run_once(pfODE_int, *command(*given))[0]))


# Exponential solvers are exact here, so that single precision is all that limits the files.
CASES = {
    "blobs_PRP": ("PRP", "--data_name=blobs"),
    "other_PRRto10D": ("PRR", "--disc=vp_ode", "--vpode_disc_eps=0.3", "--data_name=other"),
    "blobs_PRRto10D": ("gap", "--end_time=2.5", "--end_vars=2", "--start_noise"),
}


@pytest.fixture(params=list(CASES))
def case(request, simulate):
    """All simulations of closed-form Gaussian data; states at steps 0, 3, 6 and 8."""
    got = simulate(*CASES[request.param], "--n_iters=8", "--save_freq=3", "--seed=3")
    assert got.stem == request.param
    return got


def latent_std(arrays):
    """``s(t) sqrt(xi_i + gamma_i(t)) [S, D]``."""
    variance = arrays["eigenvalues"] + arrays["noise_variance"]
    return arrays["scale"][:, None] * np.sqrt(variance)


def test_the_promised_files_have_the_promised_arrays(case):
    names = {f"{case.stem}_{kind}.npz" for kind in KINDS}
    assert set(os.listdir(case.folder)) == {*names, f"{case.stem}_HD_pfODE_int_sim_params.json"}
    for kind, arrays in case.arrays.items():
        which = {"image_index"} if kind != "gen" else set()
        assert set(arrays) == {*TRAJECTORY, "format", "image_shape", "network_sha256", *which}
        assert len(str(arrays["network_sha256"])) == 64
        assert tuple(arrays["image_shape"]) == SHAPE
        assert (arrays["xs"].shape, arrays["xs"].dtype) == ((4, COUNT, DIM), np.float32)


def test_times_and_scale_are_those_asked_for_and_the_roundtrip_comes_home(case):
    first = {"other_PRRto10D": 0.3}.get(case.stem, 0.0)
    times = np.linspace(first, {"blobs_PRRto10D": 2.5}.get(case.stem, END), 9)
    for kind, arrays in case.arrays.items():
        saved = times[[0, 3, 6, 8] if kind == "melt" else [8, 5, 2, 0]]
        np.testing.assert_allclose(arrays["times"], saved, atol=1e-12)
        end_std = {"blobs_PRRto10D": 2.0}.get(case.stem, 1.0)
        np.testing.assert_allclose(latent_std(arrays)[:, 0], end_std, rtol=1e-12)
    np.testing.assert_array_equal(case["roundtrip"]["xs_es"][0], case["melt"]["xs_es"][-1])
    home, start = case["roundtrip"]["tilde_xs"][-1], case["melt"]["tilde_xs"][0]
    np.testing.assert_allclose(home, start, atol=1e-6)
    facts = case.parameters["roundtrip"]
    assert (facts["mse"], facts["exact_pixels"]) == (0, 1)
    # In gray levels: 1e-6 of data is 1.3e-4 of them.
    assert 0 < facts["max_abs_error"] < 1.3e-4
    assert 0 < facts["mse_float"] < facts["max_abs_error"] ** 2


def test_the_melt_starts_at_images_that_the_seed_chooses(case, images):
    pixels, _ = ImageDataset(images, max_size=COUNT, seed=3).read(range(COUNT))
    clean = normalize_pixels(pixels).flatten(1).double().numpy()
    start = case["melt"]["tilde_xs"][0]
    if case.stem == "blobs_PRRto10D":  # with --start_noise
        gamma = case["melt"]["noise_variance"][0]
        noise = (start - clean) @ case["melt"]["eigenvectors"] / np.sqrt(gamma)
        # Four standard deviations of the mean and the variance of normal numbers.
        assert abs(noise.mean()) < 4 / noise.size**0.5
        assert abs(noise.var() - 1) < 4 * (2 / noise.size) ** 0.5
    else:
        np.testing.assert_allclose(start, clean, atol=2e-7)


def test_parameters_tell_all_about_each_simulation(case, images):
    assert list(case.parameters) == list(KINDS)
    known = {"n_iters": 8, "save_freq": 3, "seed": 3, "bs": COUNT, "sim_type": "all"}
    known |= {"data_dim": DIM, "img_size": 8, "img_ch": 1, "data_root": str(images)}
    known |= {"data_name": case.stem.split("_")[0], "end_time": case["melt"]["times"][-1]}
    for kind, facts in case.parameters.items():
        assert {name: facts["options"][name] for name in known} == known
        assert facts["options"]["device_name"].startswith(("cpu", "cuda"))
        assert facts["denoiser_calls"] == 8 * 6
        assert facts["end_time"] == case[kind]["times"][-1]
        np.testing.assert_allclose(facts["closed_form_variance"], latent_std(case[kind])[-1] ** 2)
        measured = (case[kind]["xs_es"][-1].astype(np.float64) ** 2).mean(axis=0)
        np.testing.assert_allclose(facts["end_variance"], measured, rtol=1e-6)
    ratios = np.square(case["melt"]["xs_es"][-1] / latent_std(case["melt"])[-1]).mean(axis=0)
    kept = ratios[: case.parameters["melt"]["options"]["dims_to_keep"]]
    expected = {"mean": kept.mean(), "worst": kept[np.abs(kept - 1).argmax()]}
    assert case.parameters["melt"]["kept_variance_ratio"] == pytest.approx(expected, rel=1e-5)


def test_runs_from_an_earlier_melt_give_what_one_run_gives(command, simulate, tmp_path):
    def add(*given):
        good(run_script(pfODE_int, *command("classes", *given, f"--save_dir={tmp_path}")))
        return Simulations(tmp_path)

    together = simulate("classes", "--gen_source=empirical")
    melt = add("--sim_type=melt")
    assert list(melt.parameters) == ["melt"]
    source = f"--prev_melt={melt.paths['melt']}"
    roundtrip = add("--sim_type=roundtrip", source)
    assert list(roundtrip.parameters) == ["melt", "roundtrip"]
    apart = add("--sim_type=gen", "--gen_source=empirical", source)
    for kind in KINDS:
        assert_same(apart[kind], together[kind], 3e-6)  # they are saved in single precision
    for network, part in (("PRP", "scales"), ("PRR", "another network")):
        other = command(network, "--sim_type=roundtrip", source, f"--save_dir={tmp_path / 'no'}")
        refused(run_script(pfODE_int, *other), 1, "melt.npz", part)
    # The entries of earlier runs stay as they were.
    gen = apart.parameters["gen"]
    assert apart.parameters == {**roundtrip.parameters, "gen": gen}
    assert roundtrip.parameters["melt"] == melt.parameters["melt"]
    assert gen["options"]["prev_melt"] == str(melt.paths["melt"])
    for name in ("mse", "mse_float", "max_abs_error", "exact_pixels"):
        one, other = (got.parameters["roundtrip"][name] for got in (apart, together))
        # In gray levels: starting from single precision costs 1e-5 of them.
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_images_keep_their_classes_or_are_of_the_one_asked_for(simulate, networks, images):
    got, flow = simulate("classes", "--seed=5"), TrainedNetwork.load(networks["classes"]).flow
    _, own = ImageDataset(images, use_labels=True, max_size=COUNT, seed=5).read(range(COUNT))
    for kind in KINDS:
        arrays = got[kind]
        labels = torch.from_numpy(arrays["labels"])
        assert len(set(labels.argmax(dim=1).tolist())) > 1
        assert kind == "gen" or torch.equal(labels, own)
        start = torch.from_numpy(arrays["xs_es"][0]).double()
        times = torch.linspace(*arrays["times"][[0, -1]], 3, dtype=torch.float64)
        expected, without = (
            given.simulate(start, times, SOLVERS[DEFAULT_SOLVER]).end.numpy()
            for given in (flow.given(labels=labels), flow)
        )
        np.testing.assert_allclose(arrays["xs_es"][-1], expected, atol=2e-6)
        assert np.abs(arrays["xs_es"][-1] - without).max() > 1e-3
    got = simulate("classes", "--sim_type=gen", "--class=2")
    assert set(got["gen"]["labels"].argmax(axis=1).tolist()) == {2}
    assert got.parameters["gen"]["options"]["class"] == 2


def test_parameters_that_cannot_be_read_are_not_written_over(command, tmp_path):
    (tmp_path / "blobs_PRP_HD_pfODE_int_sim_params.json").write_text("{")
    before = contents(tmp_path)
    result = run_script(pfODE_int, *command("PRP", f"--save_dir={tmp_path}", "--overwrite"))
    refused(result, 1, "sim_params.json is not readable JSON")
    assert contents(tmp_path) == before


TOY = ("--data_name=circles", "--total_samples=12", "--steps=8", "--save_freq=3")
HALVES = ("--batch-gpu=2", "--save_freq=2")
LEVELS = 127.5
SCRIPTS = [toy_pfODE_int, pfODE_int]
DENSITIES = {toy_pfODE_int: ("--log_prob",), pfODE_int: ("--log_prob", "--probes=2")}
SOLVER = SOLVERS["exp_rk5"]
WEIGHED = 4
"""Of its six stages, those that have a weight: the others take no trace."""


@pytest.fixture(scope="module")
def written(run_once):
    """``written(script, ...)``, read back."""
    return cache(lambda *given: Simulations(run_once(*given)[0]))


@pytest.mark.parametrize("mode", ["exact", "discrete", "net"])
def test_toys_get_the_density_of_their_points_at_the_first_time(mode, written, toy_network):
    network = toy_network("--data_name=circles", "--tmax=5")
    which = f"--network={network}" if mode == "net" else "--dims_to_keep=1"
    got = written(toy_pfODE_int, mode, *TOY, which, "--log_prob")
    flow = TrainedNetwork.load(network).flow if mode == "net" else exact_flow("circles", 1)[1]
    if mode == "discrete":
        points = torch.from_numpy(got["melt"]["tilde_xs"][0])
        flow.denoiser = DiscreteDenoiser(points, flow.basis, flow.schedule)
    times = flow.times(8)
    for kind in KINDS:
        points = torch.from_numpy(got[kind]["tilde_xs"][0 if kind == "melt" else -1])
        expected, densities = flow.log_prob(points, times, SOLVER), got[kind]["log_prob"]
        assert (densities.shape, densities.dtype) == ((12,), np.float64)
        # Of generated points the way back is another integration, in few steps.
        tolerance = 1e-6 if kind == "melt" else 2e-2
        np.testing.assert_allclose(densities, expected, rtol=0, atol=tolerance)


def assert_facts_fit(facts, arrays, *names):
    for name in names:
        values = arrays[name]
        error = values.std(ddof=1) / len(values) ** 0.5
        assert facts[name] == pytest.approx({"mean": values.mean(), "standard_error": error})


def test_parameters_tell_the_mean_its_error_and_the_cost(written):
    got, calls = written(toy_pfODE_int, "exact", *TOY, "--log_prob"), 8 * SOLVER.calls_per_step
    for kind in KINDS:
        facts = got.facts[kind]
        assert_facts_fit(facts["likelihood"], got[kind], "log_prob")
        assert facts["denoiser_calls"] == facts["likelihood"]["denoiser_calls"] == calls
        products = 2 * WEIGHED * calls // SOLVER.calls_per_step
        assert facts["likelihood"]["jacobian_products"] == products
    one = written(toy_pfODE_int, "exact", *TOY, "--total_samples=1", "--log_prob")
    assert one.facts["gen"]["likelihood"]["log_prob"]["standard_error"] is None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda one: one.__name__)
def test_densities_alone_are_added_if_asked(script, written, command):
    given = ["exact", *TOY] if script is toy_pfODE_int else command("classes in ES", *HALVES)
    along, alone = written(script, *given, *DENSITIES[script]), written(script, *given)
    images = {"log_prob", "log_prob_error", "bits_per_dim"}
    densities = {"log_prob"} if script is toy_pfODE_int else images
    for kind in KINDS:
        assert set(along[kind]) - set(alone[kind]) == densities
        for name, array in alone[kind].items():
            np.testing.assert_array_equal(along[kind][name], array)
        assert "likelihood" not in alone.facts[kind]


def test_images_get_the_density_of_their_dequantized_copies(simulate, networks, images):
    more = (*DENSITIES[pfODE_int], "--seed=3", "--start_noise")  # which is not theirs
    got = simulate("PRR", *HALVES, *more)
    pixels, _ = ImageDataset(images, max_size=COUNT, seed=3).read(range(COUNT))
    data = normalize_pixels(pixels).flatten(1)
    # The best linear denoiser's flow is that of data plus noise, as if Gaussian.
    flow = TrainedNetwork.load(networks["PRR"]).flow
    spread = flow.basis.eigenvalues + flow.schedule.noise_variance(torch.tensor(0.0).double())
    axes = flow.basis.eigenvectors
    distribution = torch.distributions.MultivariateNormal(flow.basis.mean, axes * spread @ axes.T)
    for kind in KINDS:
        arrays, facts = got[kind], got.facts[kind]["likelihood"]
        points = torch.from_numpy(arrays["tilde_xs"][-1]).double()
        points = dequantized(data, seed=3).double() if kind == "melt" else points
        # Others are saved in single precision.
        tolerance = 1e-6 if kind == "melt" else 1e-2
        expected = distribution.log_prob(points)
        np.testing.assert_allclose(arrays["log_prob"], expected, rtol=0, atol=tolerance)
        levels = -(arrays["log_prob"] / DIM - log(LEVELS)) / log(2)
        np.testing.assert_allclose(arrays["bits_per_dim"], levels, rtol=1e-12)
        assert_facts_fit(facts, arrays, "log_prob", "bits_per_dim")
        assert facts["denoiser_calls"] == 2 * SOLVER.calls_per_step
        assert facts["jacobian_products"] == 2 * 2 * WEIGHED


def test_noise_of_dequantization_fills_the_bin_of_each_level():
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A hardly trained network of circles that keeps one dimension, with the law of the other."""
    folder = tmp_path_factory.mktemp("laws")
    found = {}
    given = (*TINY, "--data_name=circles", "--dims_to_keep=1", "--nosubdir")
    with mock.patch("training.learning.finishing.FEWEST", 1000):
        good(run_script(toy_train, *given, f"--outdir={folder}", whole=True))
    found["law"] = network_file(folder)
    return found


def test_generation_draws_from_the_learned_law(distributions, tmp_path):
    count = 64
    for name, options, text in (
        ("learned", (), "learned distribution"),
        ("auto", ("--eps=auto",), "closed-form Gaussian"),
    ):
        place = (f"--save_dir={tmp_path / name}", f"--total_samples={count}", "--steps=4")
        good(
            run_script(toy_pfODE_int, "net", f"--network={distributions['law']}", *place, *options)
        )
        parameters = load_json(tmp_path / name / "circles_PRRto1D_net_sim_params.json")
        assert parameters["options"]["eps"] == name
        path = tmp_path / name / "circles_PRRto1D_net_gen_results.npz"
        assert text in latent_law(SavedTrajectory.load(path))
        flow = TrainedNetwork.load(distributions["law"]).flow
        distribution = flow.latent if name == "learned" else flow.with_distribution(None).latent
        assert isinstance(distribution, LearnedLatents) == (name == "learned")
        drawn = distribution.sample(count, seeded_generator("cpu", 0, Stream.LATENT))
        np.testing.assert_allclose(load_arrays(path)["xs_es"][0], drawn.numpy(), rtol=1e-12)


@pytest.mark.slow
def test_coverage_carries_white_spheres(distributions, tmp_path):
    options = ("--test_pts=2000", "--boundary_pts=400", "--steps=8")
    place = (f"--network={distributions['law']}", f"--save_dir={tmp_path}")
    good(run_script(toy_mesh_exps, *place, *options))
    got = load_json(tmp_path / "circles_PRRto1D_coverage.json")
    assert got["options"]["eps"] == "learned"
    arrays = load_arrays(tmp_path / "circles_PRRto1D_coverage.npz")
    assert np.abs(arrays["coverage"][0] - arrays["exact"]).max() < 0.05
    # The network has learned nothing, but its law knows where it puts the data.
    assert np.abs(arrays["coverage_fresh"] - arrays["exact"]).max() < 0.06
    assert np.abs(np.square(arrays["test_latent"]).mean(axis=0) - 1).max() < 0.15
