"""Image integration from the command line: what it writes, and that it is right."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_models import SHAPE
from image_simulations import (
    CLASSES,
    COUNT,
    CUBES,
    DIM,
    END,
    GAP,
    KEPT,
    KINDS,
    ONE_BIT,
    Arrays,
    Contents,
    Found,
    Run,
    close_to,
)

import dnnlib
import pfODE_int
from training.data.images.batches import normalize_pixels
from training.data.images.dataset import ImageDataset
from training.flow.solvers import DEFAULT, SOLVERS
from training.model.model import Model

# Exponential solvers are exact here, so that single precision is all that limits the files.
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
    """All simulations of closed-form Gaussian data; states at steps 0, 3, 6 and 8."""
    stem, arguments = CASES[request.param]
    folder = tmp_path_factory.mktemp("case") / "new" / "folder"
    place = (f"--network={networks[request.param]}", f"--save_dir={folder}")
    steps = ("--n_iters=8", "--save_freq=3", f"--bs={COUNT}", f"--batch_gpu={COUNT}", "--seed=3")
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
        numbers = dict(arrays)
        assert str(numbers.pop("format")) == "inflationary-flows trajectory 1"
        assert len(str(numbers.pop("network_sha256"))) == 64
        places = numbers.pop("image_index", None)  # of melts, and of roundtrips that know theirs
        assert places is None or places.shape == (COUNT,)
        assert {name: array.shape for name, array in numbers.items()} == shapes
        for name, array in numbers.items():
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
    saved = np.linspace(first, last, 9)
    np.testing.assert_allclose(case["melt"]["times"], saved[[0, 3, 6, 8]], atol=1e-12)
    for kind in ("roundtrip", "gen"):
        np.testing.assert_allclose(case[kind]["times"], saved[[8, 5, 2, 0]], atol=1e-12)


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
        before = gamma[-1] * np.exp(-rate * (times[-1] - times[0]) / 8)
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
        assert (options["n_iters"], options["save_freq"], options["seed"]) == (8, 3, 3)
        assert (options["bs"], options["sim_type"]) == (COUNT, "all")
        assert (options["data_dim"], options["img_size"], options["img_ch"]) == (64, 8, 1)
        assert options["data_name"] == case.stem.split("_")[0]
        assert options["data_root"] == str(images)
        assert options["end_time"] == case["melt"]["times"][-1]
        assert options["device_name"].startswith(("cpu", "cuda"))
        assert facts["denoiser_calls"] == 8 * 6
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
def test_every_solver_integrates_and_its_calls_are_counted(simulate: Run, name: str) -> None:
    solver = SOLVERS[name]
    found = simulate("PRR", "--sim_type=melt", f"--solver={name}", "--n_iters=6")
    std = latent_std(found["melt"])
    expected = found["melt"]["xs_es"][0] * (std[-1] / std[0])
    error = np.abs(found["melt"]["xs_es"][-1] / expected - 1).max()
    if solver.calls_per_step:
        calls = 6 * solver.calls_per_step + solver.multistep
        assert found.parameters["melt"]["denoiser_calls"] == calls
    # The network's flow is linear: what is left may be the roundings of the saved states.
    assert error < (1e-6 if solver.standardized else 0.5**solver.order)


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
    found = simulate("PRP", "--sim_type=roundtrip", source, "--n_iters=6")
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
