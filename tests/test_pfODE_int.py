"""Image integration from the command line: that it is right, what it writes, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_models import SHAPE, save_image_model, write_image_set

import dnnlib
import pfODE_int
from torch_utils.results import load_arrays
from torch_utils.snapshots import read_network, write_network
from training.data.image_dataset import ImageDataset
from training.data.images import normalize_pixels
from training.flow.solvers import DEFAULT, SOLVERS
from training.model import Model

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
Arrays = dict[str, np.ndarray]

ROOT = Path(pfODE_int.__file__).parent
KINDS = ("melt", "roundtrip", "gen")
CUBES = [
    *("tilde_xs", "xs", "tilde_xs_es", "xs_es"),
    *("net_outs", "unscaled_scores", "dxs", "dxs_es"),
]
COUNT, DIM, KEPT, CLASSES, END = 5, 64, 10, 3, 3.0
ONE_BIT = float(np.finfo(np.float32).eps)
"""What single precision may change of a number; twice the rounding error of one."""

GAP = {"g_type": "constant_inflation_gap", "inflation_gap": 1.3}
NETWORKS: dict[str, dict[str, Any]] = {
    "PRP": {},
    "PRR": {"dims_to_keep": KEPT},
    "gap": {"dims_to_keep": KEPT, "rho": 1.2, "gamma0": 1e-3, **GAP},
    "classes": {"dims_to_keep": KEPT, "label_dim": CLASSES, "output": "random"},
    "late": {"t_min": 0.5, "space": "ES"},
    "VP": {"precond": "vp", "t_max": 1.0},
}


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Network files; the output of all is zero but for the one with classes."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {name: folder / f"{name}.pkl" for name in NETWORKS}
    for name, options in NETWORKS.items():
        save_image_model(paths[name], **{"t_max": END, **options})
    return paths


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images with classes."""
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    write_image_set(path, 30, classes=CLASSES)
    return path


class Found:
    """What one command wrote: arrays by simulation, and its parameters."""

    def __init__(self, folder: Path):
        self.folder = folder
        (parameters,) = folder.glob("*_HD_pfODE_int_sim_params.json")
        self.stem = parameters.name.removesuffix("_HD_pfODE_int_sim_params.json")
        self.parameters = json.loads(parameters.read_text())
        self.arrays = {
            kind: load_arrays(self.path(kind)) for kind in KINDS if self.path(kind).exists()
        }

    def path(self, kind: str) -> Path:
        return self.folder / f"{self.stem}_{kind}.npz"

    def __getitem__(self, kind: str) -> Arrays:
        return self.arrays[kind]


@pytest.fixture
def command(networks: dict[str, Path], images: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """``command(network, ...)``: few images and steps, unless arguments say otherwise."""

    def arguments(network: str, *more: object) -> list[str]:
        standard = {
            "--network": networks[network],
            "--save_dir": tmp_path / "out",
            "--data_root": images,
            "--bs": COUNT,
            "--n_iters": 2,
            "--batch-gpu": COUNT,
        }
        given = {str(argument).partition("=")[0] for argument in more}
        left = [f"{name}={value}" for name, value in standard.items() if name not in given]
        return [*left, *map(str, more)]

    return arguments


@pytest.fixture
def simulate(run_script: Run, command: Callable[..., list[str]], tmp_path: Path) -> Run:
    """Runs a command as ``command`` makes it in a folder of its own, and reads what it wrote."""
    numbers = iter(range(100))

    def start(network: str, *more: object) -> Found:
        given = [str(argument) for argument in more]
        if not any(argument.startswith("--save_dir") for argument in given):
            given.append(f"--save_dir={tmp_path / f'simulated{next(numbers)}'}")
        result = run_script(pfODE_int, *command(network, *given))
        assert (result.code, result.err) == (0, ""), result.err
        (folder,) = (Path(text[11:]) for text in given if text.startswith("--save_dir="))
        return Found(folder)

    return start


# Forty steps of rk4 are right to 1e-8 here, so that single precision is all that limits the files.
CASES = {
    "PRP": ("blobs_PRP", ["--data_name=blobs"]),
    "PRR": ("other_PRRto10D", ["--disc=vp_ode", "--vpode_disc_eps=0.3", "--data_name=other"]),
    "gap": ("blobs_PRRto10D", ["--end_time=2.5", "--end_vars=2", "--start_noise"]),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(
    request: pytest.FixtureRequest,
    run_script: Run,
    networks: dict[str, Path],
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Found:
    """All simulations of closed-form Gaussian data; states at steps 0, 15, 30 and 40."""
    stem, arguments = CASES[request.param]
    folder = tmp_path_factory.mktemp("case") / "new" / "folder"
    place = (f"--network={networks[request.param]}", f"--save_dir={folder}")
    steps = ("--n_iters=40", "--save_freq=15", f"--bs={COUNT}", f"--batch_gpu={COUNT}", "--seed=3")
    result = run_script(pfODE_int, *place, f"--data_root={images}", *steps, *arguments)
    assert (result.code, result.err) == (0, ""), result.err
    found = Found(folder)
    assert found.stem == stem
    return found


def chosen_points(images: Path, seed: int) -> np.ndarray:
    """The images that a seed chooses, as points."""
    pixels, _ = ImageDataset(images, max_size=COUNT, seed=seed).read(range(COUNT))
    return normalize_pixels(pixels).flatten(1).double().numpy()


def test_the_promised_files_are_written_and_nothing_else(case: Found) -> None:
    names = {f"{case.stem}_{kind}.npz" for kind in KINDS}
    assert set(os.listdir(case.folder)) == {*names, f"{case.stem}_HD_pfODE_int_sim_params.json"}


def test_arrays_have_the_promised_names_shapes_and_types(case: Found) -> None:
    shapes = {
        **dict.fromkeys(CUBES, (4, COUNT, DIM)),
        "times": (4,),
        "scale": (4,),
        "noise_variance": (4, DIM),
        "mean": (DIM,),
        "eigenvalues": (DIM,),
        "eigenvectors": (DIM, DIM),
        "image_shape": (3,),
    }
    for arrays in case.arrays.values():
        assert {name: array.shape for name, array in arrays.items()} == shapes
        for name, array in arrays.items():
            expected = "float32" if name in CUBES else "float64"
            assert array.dtype == ("int64" if name == "image_shape" else expected)
            assert np.isfinite(array).all()
        assert tuple(arrays["image_shape"]) == SHAPE


def latent_std(arrays: Arrays) -> np.ndarray:
    """``s(t) sqrt(xi_i + gamma_i(t)) [S, D]``."""
    variance = arrays["eigenvalues"] + arrays["noise_variance"]
    return arrays["scale"][:, None] * np.sqrt(variance)


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_where_the_closed_form_says(case: Found, kind: str) -> None:
    """``x_i(t) = x_i(t_0) s(t)/s(t_0) sqrt((xi_i + gamma_i(t)) / (xi_i + gamma_i(t_0)))``."""
    arrays = case[kind]
    growth = latent_std(arrays) / latent_std(arrays)[0]
    assert np.abs(np.log(growth[-1])).max() > 0.1
    expected = growth[:, None] * arrays["xs_es"][0].astype(np.float64)
    np.testing.assert_allclose(arrays["xs_es"], expected, rtol=2 * ONE_BIT, atol=0)


def test_the_schedule_is_that_of_the_paper(case: Found) -> None:
    rate, gamma0, end_std = 1.0, 5e-4, 1.0
    growth = np.full(DIM, 1.0)
    if case.stem != "blobs_PRP":
        growth[:KEPT], growth[KEPT:] = 2, 1 - KEPT / (DIM - KEPT)
    if case.stem == "blobs_PRRto10D":
        rate, gamma0, end_std = 1.2, 1e-3, 2.0
        growth[KEPT:] = 2 - GAP["inflation_gap"]
    for arrays in case.arrays.values():
        gamma = gamma0 * np.exp(rate * growth * arrays["times"][:, None])
        np.testing.assert_allclose(arrays["noise_variance"], gamma, rtol=1e-12)
        scale = end_std / np.sqrt(arrays["eigenvalues"][0] + gamma[:, 0])
        np.testing.assert_allclose(arrays["scale"], scale, rtol=1e-12)


def test_times_run_up_in_a_melt_and_down_in_the_others(case: Found) -> None:
    first = {"other_PRRto10D": 0.3}.get(case.stem, 0.0)
    last = {"blobs_PRRto10D": 2.5}.get(case.stem, END)
    saved = np.linspace(first, last, 41)
    np.testing.assert_allclose(case["melt"]["times"], saved[[0, 15, 30, 40]], atol=1e-12)
    for kind in ("roundtrip", "gen"):
        np.testing.assert_allclose(case[kind]["times"], saved[[40, 25, 10, 0]], atol=1e-12)


def test_both_spaces_and_both_scalings_tell_the_same(case: Found) -> None:
    close = {"rtol": 1e-6, "atol": 1e-6}
    for arrays in case.arrays.values():
        scale, axes = arrays["scale"][:, None, None], arrays["eigenvectors"]
        np.testing.assert_allclose(arrays["xs"], scale * arrays["tilde_xs"], **close)
        np.testing.assert_allclose(arrays["xs_es"], scale * arrays["tilde_xs_es"], **close)
        rotated = arrays["mean"] + arrays["tilde_xs_es"] @ axes.T
        np.testing.assert_allclose(arrays["tilde_xs"], rotated, **close)
        np.testing.assert_allclose(arrays["dxs"], arrays["dxs_es"] @ axes.T, **close)


def test_denoiser_and_score_are_those_of_gaussian_data(case: Found) -> None:
    for arrays in case.arrays.values():
        noisy = (arrays["eigenvalues"] + arrays["noise_variance"])[:, None]
        tilde = arrays["tilde_xs_es"].astype(np.float64)
        denoised, scores = arrays["eigenvalues"] / noisy * tilde, -tilde / noisy
        np.testing.assert_allclose(arrays["net_outs"], denoised, rtol=2 * ONE_BIT)
        np.testing.assert_allclose(arrays["unscaled_scores"], scores, rtol=2 * ONE_BIT)


def test_updates_are_the_changes_of_the_last_step(case: Found) -> None:
    for arrays in case.arrays.values():
        assert (arrays["dxs_es"][0] == 0).all()
        # One step before the end; the logarithm of the noise is linear in time.
        gamma, xi, times = arrays["noise_variance"], arrays["eigenvalues"], arrays["times"]
        rate = np.log(gamma[-1] / gamma[0]) / (times[-1] - times[0])
        before = gamma[-1] * np.exp(-rate * (times[-1] - times[0]) / 40)
        noisy, noisy_before = xi + gamma[-1], xi + before
        growth = np.sqrt(noisy_before / noisy * noisy[0] / noisy_before[0])
        expected = (1 - growth) * arrays["xs_es"][-1]
        np.testing.assert_allclose(arrays["dxs_es"][-1], expected, rtol=1e-6, atol=1e-8)


def test_the_melt_starts_at_the_images_that_the_seed_chooses(case: Found, images: Path) -> None:
    start, clean = case["melt"]["tilde_xs"][0], chosen_points(images, seed=3)
    if case.stem == "blobs_PRRto10D":  # with --start_noise
        gamma = case["melt"]["noise_variance"][0]
        noise = (start - clean) @ case["melt"]["eigenvectors"] / np.sqrt(gamma)
        # Four standard deviations of the mean and the variance of normal numbers.
        assert abs(noise.mean()) < 4 / noise.size**0.5
        assert abs(noise.var() - 1) < 4 * (2 / noise.size) ** 0.5
    else:
        np.testing.assert_allclose(start, clean, atol=2e-7)


def test_the_roundtrip_starts_where_the_melt_ended_and_comes_home(case: Found) -> None:
    np.testing.assert_array_equal(case["roundtrip"]["xs_es"][0], case["melt"]["xs_es"][-1])
    home, start = case["roundtrip"]["tilde_xs"][-1], case["melt"]["tilde_xs"][0]
    np.testing.assert_allclose(home, start, atol=1e-6)
    facts = case.parameters["roundtrip"]
    assert facts["mse"] == 0
    assert facts["exact_pixels"] == 1
    # In gray levels: 1e-6 of data is 1.3e-4 of them.
    assert 0 < facts["max_abs_error"] < 1.3e-4
    assert 0 < facts["mse_float"] < facts["max_abs_error"] ** 2


def standard(found: Found) -> np.ndarray:
    """The normal numbers that the latents of a generation are made of."""
    return found["gen"]["xs_es"][0] / latent_std(found["gen"])[0]


def test_latents_have_the_closed_form_and_follow_from_the_seed(case: Found, simulate: Run) -> None:
    numbers = standard(case)
    assert abs(numbers.mean()) < 4 / numbers.size**0.5
    assert abs(numbers.var() - 1) < 4 * (2 / numbers.size) ** 0.5
    other = simulate("PRP", "--sim_type=gen", "--seed=3", "--n_iters=1")
    np.testing.assert_allclose(standard(other), numbers, rtol=1e-6)
    assert not np.isclose(standard(simulate("PRP", "--sim_type=gen", "--n_iters=1")), numbers).any()


def test_parameters_tell_all_about_each_simulation(case: Found, images: Path) -> None:
    assert list(case.parameters) == list(KINDS)
    names = {param.name.rstrip("_") for param in pfODE_int.main.params}
    for kind, facts in case.parameters.items():
        options = facts["options"]
        assert set(options) == names
        assert (options["n_iters"], options["save_freq"], options["seed"]) == (40, 15, 3)
        assert (options["bs"], options["sim_type"]) == (COUNT, "all")
        assert (options["data_dim"], options["img_size"], options["img_ch"]) == (64, 8, 1)
        assert options["data_name"] == case.stem.split("_")[0]
        assert options["data_root"] == str(images)
        assert options["end_time"] == case["melt"]["times"][-1]
        assert options["device_name"].startswith(("cpu", "cuda"))
        assert facts["denoiser_calls"] == 40 * 6
        assert facts["seconds"] > 0
        assert facts["end_time"] == case[kind]["times"][-1]
        np.testing.assert_allclose(facts["closed_form_variance"], latent_std(case[kind])[-1] ** 2)
        measured = (case[kind]["xs_es"][-1].astype(np.float64) ** 2).mean(axis=0)
        np.testing.assert_allclose(facts["end_variance"], measured, rtol=1e-6)
        assert facts["code_version"] == dnnlib.__version__
        assert facts["libraries"]["torch"] == torch.__version__
        assert facts["command"][0] == "pfODE_int.py"
    ratios = np.square(case["melt"]["xs_es"][-1] / latent_std(case["melt"])[-1]).mean(axis=0)
    ratios = ratios[: case.parameters["melt"]["options"]["dims_to_keep"]]
    told = case.parameters["melt"]["kept_variance_ratio"]
    assert told["mean"] == pytest.approx(ratios.mean(), rel=1e-5)
    assert told["worst"] == pytest.approx(ratios[np.abs(ratios - 1).argmax()], rel=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_error_of_a_solver_falls_by_its_order_or_is_none(simulate: Run, name: str) -> None:
    errors, solver = [], SOLVERS[name]
    for steps in (5, 10):
        found = simulate("PRR", "--sim_type=melt", f"--solver={name}", f"--n_iters={steps}")
        std = latent_std(found["melt"])
        expected = found["melt"]["xs_es"][0] * (std[-1] / std[0])
        errors.append(np.abs(found["melt"]["xs_es"][-1] / expected - 1).max())
        if solver.calls_per_step:
            calls = steps * solver.calls_per_step + solver.multistep
            assert found.parameters["melt"]["denoiser_calls"] == calls
    if solver.standardized:
        # The network's flow is linear: what is left are the roundings of the saved states.
        assert max(errors) < 1e-6
    else:
        assert np.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.25)


@pytest.mark.parametrize(
    ("save_freq", "saved"), [(1, [0, 1, 2, 3, 4]), (3, [0, 3, 4]), (4, [0, 4]), (99, [0, 4])]
)
def test_states_are_saved_at_the_start_every_save_freq_steps_and_the_end(
    simulate: Run, save_freq: int, saved: list[int]
) -> None:
    found = simulate("PRP", "--n_iters=4", f"--save_freq={save_freq}")
    step = END / 4
    np.testing.assert_allclose(found["melt"]["times"], step * np.array(saved))
    for kind in ("roundtrip", "gen"):
        np.testing.assert_allclose(found[kind]["times"], END - step * np.array(saved), atol=1e-12)
    if save_freq == 1:
        for arrays in found.arrays.values():
            steps = np.diff(arrays["xs_es"].astype(np.float64), axis=0)
            np.testing.assert_allclose(arrays["dxs_es"][1:], steps, atol=1e-6)


def test_ifs_times_start_where_training_did(simulate: Run) -> None:
    found = simulate("late", "--n_iters=5", "--save_freq=1")
    np.testing.assert_allclose(found["melt"]["times"], np.linspace(0.5, END, 6))


def test_a_baseline_is_integrated_too(simulate: Run) -> None:
    found = simulate("VP", "--n_iters=40", "--data-name=x")
    assert found.stem == "x_VP"
    # No noise is predicted: what is left of the velocity is the scale's. It is 7e-5 off.
    for arrays in found.arrays.values():
        growth = arrays["scale"] / arrays["scale"][0]
        expected = growth[:, None, None] * arrays["xs_es"][0]
        np.testing.assert_allclose(arrays["xs_es"], expected, rtol=1e-4)


def test_a_number_for_eps_is_the_variance_of_the_compressed_latents_only(simulate: Run) -> None:
    auto = simulate("PRR", "--sim_type=gen", "--n_iters=1")
    told = simulate("PRR", "--sim_type=gen", "--n_iters=1", "--eps=0.04")
    ours, others = told["gen"]["xs_es"][0], auto["gen"]["xs_es"][0]
    np.testing.assert_array_equal(ours[:, :KEPT], others[:, :KEPT])
    np.testing.assert_allclose(ours[:, KEPT:], 0.2 * standard(auto)[:, KEPT:], rtol=1e-6)


def test_empirical_latents_have_the_variances_of_the_melt(simulate: Run) -> None:
    diagonal, empirical = simulate("PRR"), simulate("PRR", "--gen_source=empirical")
    melted = (empirical["melt"]["xs_es"][-1].astype(np.float64) ** 2).mean(axis=0)
    expected = standard(diagonal) * np.sqrt(melted)
    np.testing.assert_allclose(empirical["gen"]["xs_es"][0], expected, rtol=1e-6)
    for kind in ("melt", "roundtrip"):
        np.testing.assert_array_equal(empirical[kind]["xs"], diagonal[kind]["xs"])


def close_to(found: Arrays, expected: Arrays) -> None:
    """Asserts that results are the same, but for the precision that they are saved in."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        tolerance = 3e-6 * max(1, np.abs(array).max())
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("network", ["PRR", "classes"])
def test_runs_from_an_earlier_melt_give_what_one_run_gives(
    simulate: Run, tmp_path: Path, network: str
) -> None:
    together = simulate(network, "--gen_source=empirical", "--n_iters=5")
    folder = f"--save_dir={tmp_path / 'apart'}"
    melt = simulate(network, folder, "--sim_type=melt", "--n_iters=5")
    assert list(melt.parameters) == ["melt"]
    source = f"--prev_melt={melt.path('melt')}"
    roundtrip = simulate(network, folder, "--sim_type=roundtrip", source, "--n_iters=5")
    assert list(roundtrip.parameters) == ["melt", "roundtrip"]
    empirical = (folder, "--sim_type=gen", "--gen_source=empirical", source, "--n_iters=5")
    apart = simulate(network, *empirical)
    for name in CUBES:
        np.testing.assert_array_equal(apart["melt"][name], together["melt"][name])
    for kind in KINDS:
        close_to(apart[kind], together[kind])
    # The entries of earlier runs stay as they were.
    assert list(apart.parameters) == list(KINDS)
    assert apart.parameters["melt"] == melt.parameters["melt"]
    assert apart.parameters["roundtrip"] == roundtrip.parameters["roundtrip"]
    assert apart.parameters["gen"]["options"]["prev_melt"] == str(melt.path("melt"))
    for name in ("mse", "mse_float", "max_abs_error", "exact_pixels"):
        told = (found.parameters["roundtrip"][name] for found in (apart, together))
        # In gray levels: starting from single precision costs 1e-5 of them.
        np.testing.assert_allclose(*told, rtol=1e-3, atol=1e-4)


def test_an_earlier_melt_may_have_been_integrated_in_other_steps(
    simulate: Run, tmp_path: Path
) -> None:
    melt = simulate("PRP", "--sim_type=melt", "--n_iters=3", "--solver=heun")
    source = f"--prev_melt={melt.path('melt')}"
    found = simulate("PRP", "--sim_type=roundtrip", source, "--n_iters=6", "--bs=1")
    np.testing.assert_array_equal(found["roundtrip"]["xs_es"][0], melt["melt"]["xs_es"][-1])


def test_a_lone_generation_needs_no_images_and_is_the_same(
    run_script: Run, networks: dict[str, Path], simulate: Run, tmp_path: Path
) -> None:
    alone = ("--sim_type=gen", f"--save_dir={tmp_path}", f"--bs={COUNT}", "--n_iters=2")
    result = run_script(pfODE_int, f"--network={networks['PRR']}", *alone, f"--batch_gpu={COUNT}")
    assert (result.code, result.err) == (0, "")
    found, together = Found(tmp_path), simulate("PRR")
    assert list(found.arrays) == ["gen"]
    close_to(found["gen"], together["gen"])


def conditioned(
    network: Path, arrays: Arrays, labels: torch.Tensor, n_iters: int
) -> tuple[np.ndarray, np.ndarray]:
    """The last state from the first one of a file, by the library, and without the labels."""
    model = Model.load(network)
    start = torch.from_numpy(arrays["xs_es"][0]).double()
    first, last = arrays["times"][[0, -1]]
    times = torch.linspace(first, last, n_iters + 1, dtype=torch.float64)
    flows = model.flow.given(labels=labels), model.flow
    with_labels, without = (flow.simulate(start, times, SOLVERS[DEFAULT]).end for flow in flows)
    return with_labels.numpy(), without.numpy()


def test_images_are_melted_and_brought_back_under_their_own_class(
    simulate: Run, networks: dict[str, Path], images: Path
) -> None:
    found = simulate("classes", "--n_iters=5", "--seed=5")
    dataset = ImageDataset(images, use_labels=True, max_size=COUNT, seed=5)
    _, labels = dataset.read(range(COUNT))
    assert len(set(labels.argmax(dim=1).tolist())) > 1
    for kind in ("melt", "roundtrip"):
        np.testing.assert_array_equal(found[kind]["labels"], labels, strict=True)
        end = found[kind]["xs_es"][-1]
        expected, without = conditioned(networks["classes"], found[kind], labels, 5)
        np.testing.assert_allclose(end, expected, atol=2e-6)
        assert np.abs(end - without).max() > 1e-3


@pytest.mark.parametrize("class_", [None, 0, 2])
def test_images_are_generated_of_the_class_asked_for_or_of_random_ones(
    simulate: Run, networks: dict[str, Path], class_: int | None
) -> None:
    more = [] if class_ is None else [f"--class={class_}"]
    found = simulate("classes", "--sim_type=gen", "--n_iters=5", *more)
    labels = found["gen"]["labels"]
    assert (labels.dtype, labels.shape) == (np.float32, (COUNT, CLASSES))
    assert ((labels == 0) | (labels == 1)).all()
    assert (labels.sum(axis=1) == 1).all()
    drawn = set(labels.argmax(axis=1).tolist())
    assert len(drawn) > 1 if class_ is None else drawn == {class_}
    expected, without = conditioned(networks["classes"], found["gen"], torch.from_numpy(labels), 5)
    np.testing.assert_allclose(found["gen"]["xs_es"][-1], expected, atol=2e-6)
    assert np.abs(found["gen"]["xs_es"][-1] - without).max() > 1e-3
    assert found.parameters["gen"]["options"]["class"] == class_


def test_the_size_of_network_calls_changes_nothing(simulate: Run) -> None:
    one = simulate("classes", "--n_iters=4")
    for rows in (1, 16):
        other = simulate("classes", "--n_iters=4", f"--batch-gpu={rows}")
        for kind in KINDS:
            close_to(other[kind], one[kind])


def test_half_precision_is_of_the_network_only(simulate: Run) -> None:
    full, half = simulate("classes"), simulate("classes", "--precision=bf16")
    for kind in KINDS:
        assert half[kind]["xs_es"].dtype == np.float32
    difference = np.abs(half["melt"]["net_outs"] - full["melt"]["net_outs"]).max()
    assert 0 < difference < 0.05


def test_a_seed_repeats_a_run_bit_for_bit(simulate: Run) -> None:
    one, again, other = (simulate("classes", f"--seed={seed}") for seed in (1, 1, 2))
    for kind in KINDS:
        for name, array in one[kind].items():
            np.testing.assert_array_equal(again[kind][name], array)
        assert not np.isclose(other[kind]["xs_es"][0], one[kind]["xs_es"][0]).any()


def test_existing_results_are_not_replaced_unless_asked(
    run_script: Run, command: Callable[..., list[str]], contents: Contents, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert run_script(pfODE_int, *command("PRP")).code == 0
    (folder / "notes.txt").write_text("mine")
    for kind in KINDS:
        for other in set(KINDS) - {kind}:
            (folder / f"blobs_PRP_{other}.npz").unlink(missing_ok=True)
        before = contents(folder)
        refused = run_script(pfODE_int, *command("PRP", "--seed=1"))
        assert (refused.code, refused.out) == (2, "")
        assert f"blobs_PRP_{kind}.npz exists" in refused.error
        assert "--overwrite" in refused.error
        assert contents(folder) == before
        assert run_script(pfODE_int, *command("PRP", "--seed=1", "--overwrite")).code == 0
    assert len(contents(folder)) == 5
    assert (folder / "notes.txt").read_text() == "mine"


def test_other_simulations_may_be_added_to_a_folder(
    run_script: Run, command: Callable[..., list[str]], contents: Contents, tmp_path: Path
) -> None:
    before: dict[str, bytes] = {}
    for arguments in (("PRP",), ("PRR",), ("PRP", "--data_name=other")):
        assert run_script(pfODE_int, *command(*arguments)).code == 0
        after = contents(tmp_path / "out")
        assert before.items() <= after.items()
        assert len(after) == len(before) + 4
        before = after


@pytest.mark.parametrize(
    ("network", "arguments", "parts"),
    [
        ("PRP", ["--sim_type=roundtrip"], ["--sim_type=roundtrip", "--prev_melt"]),
        ("PRP", ["--sim_type=gen", "--gen_source=empirical"], ["--sim_type=gen", "--prev_melt"]),
        ("PRP", ["--prev_melt=x.npz"], ["--prev_melt", "roundtrip", "empirical"]),
        ("PRP", ["--prev_melt=x.npz", "--sim_type=melt"], ["--prev_melt"]),
        ("PRP", ["--prev_melt=x.npz", "--sim_type=gen"], ["--prev_melt"]),
        ("PRP", ["--eps=empirical"], ["--eps", "--gen_source=empirical"]),
        ("PRP", ["--eps=auto", "--gen_source=empirical"], ["--eps", "diag"]),
        *(
            ("PRP", [f"--eps={eps}"], ["eps", eps, "auto"])
            for eps in ("garbage", "nan", "inf", "0", "-1", "=xx", "")
        ),
        ("PRP", ["--class=0"], ["class is 0", "PRP.pkl has no classes"]),
        ("classes", ["--class=3"], ["class is 3", "classes 0 to 2"]),
        ("classes", ["--class=-1"], ["class", "-1"]),
        ("PRP", ["--end_time=3.01"], ["3.01", "T = 3"]),
        ("PRP", ["--end_time=0"], ["end_time", "0"]),
        ("PRP", ["--end_time=nan"], ["end_time", "nan"]),
        ("PRP", ["--disc=vp_ode", "--vpode_disc_eps=3"], ["vpode_disc_eps is 3", "T = 3"]),
        ("late", ["--disc=vp_ode", "--vpode_disc_eps=0.4"], ["vpode_disc_eps is 0.4", "0.5"]),
        ("late", ["--end_time=0.4"], ["0.4", "0.5"]),
        ("PRP", ["--vpode_disc_eps=-1"], ["vpode_disc_eps", "-1"]),
        ("PRP", ["--disc=edm"], ["disc", "edm", "vp_ode"]),
        ("PRP", ["--data_dim=3072"], ["data_dim is 3072", "64"]),
        ("PRP", ["--dims_to_keep=10"], ["dims_to_keep is 10", "64", "PRP.pkl"]),
        ("PRR", ["--dims_to_keep=64"], ["dims_to_keep is 64", "10", "PRR.pkl"]),
        ("PRP", ["--img_size=32"], ["img_size is 32", "8"]),
        ("PRP", ["--img_ch=3"], ["img_ch is 3", "1"]),
        ("PRP", ["--data_name=a/b"], ["data_name", "a/b"]),
        ("PRP", ["--solver=rk5"], ["rk5", "rk4", "heun", "euler"]),
        ("PRP", ["--sim_type=melts"], ["melts", "melt", "roundtrip", "gen", "all"]),
        ("PRP", ["--gen_source=full"], ["full", "diag", "empirical"]),
        ("PRP", ["--precision=fp8"], ["fp8", "bf16"]),
        ("PRP", ["--n_iters=0"], ["n_iters", "0"]),
        ("PRP", ["--bs=0"], ["bs", "0"]),
        ("PRP", ["--bs=many"], ["bs", "many"]),
        ("PRP", ["--batch-gpu=0"], ["batch", "0"]),
        ("PRP", ["--save_freq=0"], ["save_freq", "0"]),
        ("PRP", ["--seed=-1"], ["seed", "-1"]),
        ("PRP", ["--end_vars=0"], ["end_vars", "0"]),
        ("PRP", ["--device_name=tpu"], ["tpu", "cpu"]),
        ("PRP", ["--steps=5"], ["--steps"]),
        ("PRP", ["surplus"], ["surplus"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    tmp_path: Path,
    network: str,
    arguments: list[str],
    parts: list[str],
) -> None:
    result = run_script(pfODE_int, *command(network, *arguments))
    assert (result.code, result.out) == (2, "")
    for part in parts:
        assert part in result.error
    # At most the empty folder of the results is there.
    assert set(contents(tmp_path)) <= {"out/"}


@pytest.mark.parametrize("missing", ["--network", "--save_dir", "--data_root"])
@pytest.mark.parametrize("kind", ["melt", "all"])
def test_missing_options_are_named(
    run_script: Run,
    command: Callable[..., list[str]],
    tmp_path: Path,
    missing: str,
    kind: str,
) -> None:
    arguments = [text for text in command("PRP") if not text.startswith(f"{missing}=")]
    result = run_script(pfODE_int, *arguments, f"--sim_type={kind}")
    assert (result.code, result.out) == (2, "")
    assert f"Missing option '{missing}'" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none_is_a_usage_error(
    run_script: Run, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    result = run_script(pfODE_int, *command("PRP", "--device_name=cuda"))
    assert result.code == 2
    assert "cuda" in result.error
    assert list(tmp_path.iterdir()) == []


def broken_image(path: Path) -> None:
    """A data set with one image that cannot be decoded."""
    write_image_set(path / "data.zip", COUNT)
    content = (path / "data.zip").read_bytes()
    place = content.index(b"IDAT", content.index(b"img00000003"))
    (path / "data.zip").write_bytes(content[:place] + b"I?AT" + content[place + 4 :])


DATA: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "missing": ("PRP", lambda path: None, ["data.zip", "does not exist"]),
    "no zip": ("PRP", lambda path: (path / "data.zip").write_text("x"), ["data.zip"]),
    "few": ("PRP", lambda path: write_image_set(path / "data.zip", 4), ["has 4 images", "5 were"]),
    "color": (
        "PRP",
        lambda path: write_image_set(path / "data.zip", 6, (3, 8, 8)),
        ["3 channel", "1 channel"],
    ),
    "large": (
        "PRP",
        lambda path: write_image_set(path / "data.zip", 6, (1, 16, 16)),
        ["16x16", "8x8"],
    ),
    "unlabelled": ("classes", lambda path: write_image_set(path / "data.zip", 6), ["labels"]),
    "classes": (
        "classes",
        lambda path: write_image_set(path / "data.zip", 6, classes=4),
        ["length 4", "takes 3"],
    ),
    "broken": ("PRP", broken_image, ["data.zip", "img00000003"]),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_do_not_fit_end_with_one_line_and_nothing_written(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    tmp_path: Path,
    case: str,
) -> None:
    network, make, parts = DATA[case]
    make(tmp_path)
    source = f"--data_root={tmp_path / 'data.zip'}"
    result = run_script(pfODE_int, *command(network, source))
    assert (result.code, result.out) == (1, "")
    for part in parts:
        assert part in result.error
    assert contents(tmp_path / "out") == {}


@pytest.fixture
def melted(simulate: Run) -> Callable[..., Path]:
    """``melted(network, ...)``: the file of a melt."""
    return lambda network, *more: simulate(network, "--sim_type=melt", *more).path("melt")


@pytest.mark.parametrize(
    ("made", "used", "arguments", "parts"),
    [
        (["PRP"], "PRR", [], ["melt.npz", "scales"]),
        (["PRP"], "gap", [], ["melt.npz"]),
        (["PRP"], "PRP", ["--end_time=2"], ["times are 0, 3", "0, 2"]),
        (["PRP"], "PRP", ["--disc=vp_ode"], ["times are 0, 3", "0.01, 3"]),
        (["PRP"], "PRP", ["--end_vars=2"], ["scales"]),
        (["PRR"], "classes", [], ["labels of length 0", "classes.pkl takes 3"]),
        (["classes"], "PRR", [], ["labels of length 3", "PRR.pkl takes 0"]),
    ],
)
@pytest.mark.parametrize("kind", ["roundtrip", "gen"])
def test_a_melt_of_something_else_is_refused_in_one_line(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    melted: Callable[..., Path],
    tmp_path: Path,
    made: list[str],
    used: str,
    arguments: list[str],
    parts: list[str],
    kind: str,
) -> None:
    source = f"--prev_melt={melted(*made)}"
    more = ["--gen_source=empirical"] if kind == "gen" else []
    result = run_script(pfODE_int, *command(used, f"--sim_type={kind}", source, *more, *arguments))
    assert (result.code, result.out) == (1, "")
    for part in parts:
        assert part in result.error
    assert contents(tmp_path / "out") == {}


def test_a_file_that_is_no_melt_is_refused_in_one_line(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    simulate: Run,
    tmp_path: Path,
) -> None:
    found = simulate("PRP")
    (tmp_path / "text.npz").write_text("no archive")
    shutil.copy(found.folder / "blobs_PRP_HD_pfODE_int_sim_params.json", tmp_path / "json.npz")
    for path, part in (
        (tmp_path / "none.npz", "does not exist"),
        (tmp_path, "not a readable .npz"),
        (tmp_path / "text.npz", "not a readable .npz"),
        (tmp_path / "json.npz", "not a readable .npz"),
        (found.path("roundtrip"), "no melt"),
        (found.path("gen"), "no melt"),
    ):
        lone = command("PRP", "--sim_type=roundtrip", f"--prev_melt={path}")
        result = run_script(pfODE_int, *lone)
        assert (result.code, result.out) == (1, "")
        assert str(path) in result.error
        assert part in result.error
        assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize("content", [None, b"", b"garbage", bytes(3000)])
def test_a_network_that_cannot_be_read_is_told_in_one_line(
    run_script: Run, command: Callable[..., list[str]], tmp_path: Path, content: bytes | None
) -> None:
    network = tmp_path / "network.pkl"
    if content is not None:
        network.write_bytes(content)
    result = run_script(pfODE_int, *command("PRP", f"--network={network}"))
    assert (result.code, result.out) == (1, "")
    assert str(network) in result.error
    assert not (tmp_path / "out").exists()


def test_a_network_of_toys_is_told_in_one_line(
    run_script: Run, command: Callable[..., list[str]], networks: dict[str, Path], tmp_path: Path
) -> None:
    parts, about = read_network(networks["PRP"])
    del about["image_shape"]
    write_network(tmp_path / "toy.pkl", parts, {**about, "data_name": "circles"})
    result = run_script(pfODE_int, *command("PRP", f"--network={tmp_path / 'toy.pkl'}"))
    assert (result.code, result.out) == (1, "")
    assert "toy.pkl was not trained on images, but on 'circles'" in result.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_save_dir_that_is_a_file_is_refused(
    run_script: Run, command: Callable[..., list[str]], tmp_path: Path, below: str
) -> None:
    (tmp_path / "x").write_text("precious")
    result = run_script(pfODE_int, *command("PRP", f"--save_dir={tmp_path / 'x' / below}"))
    assert (result.code, result.out) == (1, "")
    assert str(tmp_path / "x") in result.error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_parameters_that_cannot_be_read_are_not_written_over(
    run_script: Run, command: Callable[..., list[str]], contents: Contents, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "blobs_PRP_HD_pfODE_int_sim_params.json").write_text("{")
    before = contents(tmp_path)
    result = run_script(pfODE_int, *command("PRP", "--overwrite"))
    assert (result.code, result.out) == (1, "")
    assert "sim_params.json is not readable JSON" in result.error
    assert contents(tmp_path) == before


def test_a_simulation_that_leaves_the_finite_numbers_leaves_no_file(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    networks: dict[str, Path],
    tmp_path: Path,
) -> None:
    parts, about = read_network(networks["PRP"])
    bias = next(name for name in parts["network"].state if name.endswith("to_image.conv.bias"))
    parts["network"].state[bias].fill_(1e38)
    parts["network"].state[bias.replace("bias", "weight")].fill_(1e38)
    for name, tensor in parts["network"].state.items():
        if name.endswith("to_image.norm.bias"):
            tensor.fill_(1e38)
    write_network(tmp_path / "wild.pkl", parts, about)
    result = run_script(pfODE_int, *command("PRP", f"--network={tmp_path / 'wild.pkl'}"))
    assert (result.code, result.out) == (1, "")
    assert "not finite at t = 0" in result.error
    assert contents(tmp_path / "out") == {}


def test_a_full_disk_leaves_no_file(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    full_disk: Callable[[int], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    with full_disk(10_000):
        result = run_script(pfODE_int, *command("PRP"))
    assert result.code == 1
    assert "too large" in result.error
    assert contents(tmp_path / "out") == {}


def test_two_ranks_give_what_one_gives(
    simulate: Run, networks: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    few = ("--bs=7", "--n_iters=3", "--save_freq=2", "--batch-gpu=4", "--device_name=cpu")
    alone = simulate("classes", *few)
    place = (f"--network={networks['classes']}", f"--data_root={images}", "--save_dir=two")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(str(ROOT / "pfODE_int.py"), *place, *few),
        ],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") == 3
    shared = Found(tmp_path / "two")
    assert set(shared.arrays) == set(KINDS)
    for kind in KINDS:
        close_to(shared[kind], alone[kind])
        for name in ("denoiser_calls", "end_time"):
            assert shared.parameters[kind][name] == alone.parameters[kind][name]
