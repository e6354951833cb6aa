"""Toy integration from the command line: what it writes, and that it is right."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from running import refused
from toy_simulations import (
    CUBES,
    OTHERS,
    SIMULATIONS,
    Contents,
    Run,
    Simulated,
    read,
)

import dnnlib
import toy_pfODE_int

CASES = {
    "exact PRP": (["exact"], "circles_PRP_exact"),
    "exact PRR": (["exact", "--data_name=s_curve", "--dims_to_keep=2"], "s_curve_PRRto2D_exact"),
    "exact gap": (
        [
            "exact",
            "--data_name=moons",
            "--dims_to_keep=1",
            "--g_type=constant_inflation_gap",
            "--inflation_gap=0.7",
            "--rho=1.5",
            "--gamma0=0.002",
        ],
        "moons_PRRto1D_exact",
    ),
    "exact embedded": (
        ["exact", "--augment_to=3", "--dims_to_keep=2", "--end_vars=2"],
        "circles_PRRto2D_exact",
    ),
    "discrete PRP": (["discrete", "--data_name=sine2"], "sine2_PRP_discrete"),
    "discrete PRR": (
        ["discrete", "--data_name=alt_swirl", "--dims_to_keep=1"],
        "alt_swirl_PRRto1D_discrete",
    ),
    "net PRP": (["net", "PRP"], "circles_PRP_net"),
    "net PRR": (["net", "PRR"], "swirl_PRRto2D_net"),
    "net gap": (["net", "gap"], "moons_PRRto1D_net"),
    "net embedded": (["net", "embedded"], "circles_PRRto2D_net"),
    "net edm": (["net", "edm"], "circles_EDM_net"),
}


@dataclass(frozen=True)
class Case:
    folder: Path
    stem: str
    found: Simulated


@pytest.fixture(scope="module", params=list(CASES))
def case(
    request: pytest.FixtureRequest,
    run_script: Run,
    networks: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Case:
    """Seven samples, five steps, every second saved: states at steps 0, 2, 4 and 5."""
    (mode, *arguments), stem = CASES[request.param]
    if mode == "net":
        arguments = [f"--network={networks[arguments[0]]}"]
    elif not any(argument.startswith("--data_name") for argument in arguments):
        arguments = ["--data_name=circles", *arguments]
    folder = tmp_path_factory.mktemp("case") / "new" / "folder"
    few = ("--total_samples=7", "--steps=5", "--save_freq=2", "--seed=3")
    result = run_script(toy_pfODE_int, mode, f"--save_dir={folder}", *few, *arguments)
    assert (result.code, result.err) == (0, ""), result.err
    return Case(folder, stem, read(folder))


def test_the_promised_files_are_written_and_nothing_else(case: Case) -> None:
    expected = [f"{case.stem}_{name}_results.npz" for name in SIMULATIONS]
    assert sorted(path.name for path in case.folder.iterdir()) == sorted(
        [*expected, f"{case.stem}_sim_params.json"]
    )


def test_arrays_have_the_promised_names_shapes_and_finite_numbers(case: Case) -> None:
    for arrays in case.found.all:
        digest = {"network_sha256"} & set(arrays)  # of networks only
        assert bool(digest) == case.stem.endswith("_net")
        assert str(arrays["format"]) == "inflationary-flows trajectory 1"
        assert set(arrays) - digest == {*CUBES, *OTHERS, "format"}
        dim = len(arrays["mean"])
        shapes = dict.fromkeys(CUBES, (4, 7, dim)) | {
            "times": (4,),
            "scale": (4,),
            "mean": (dim,),
            "eigenvalues": (dim,),
            "eigenvectors": (dim, dim),
            "noise_variance": (4, dim),
        }
        for name, shape in shapes.items():
            array = arrays[name]
            assert array.shape == shape
            assert array.dtype == np.float64
            assert np.isfinite(array).all()


def test_both_spaces_and_both_scalings_tell_the_same(case: Case) -> None:
    for arrays in case.found.all:
        scale = arrays["scale"][:, None, None]
        close = {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(arrays["xs"], scale * arrays["tilde_xs"], **close)
        np.testing.assert_allclose(arrays["xs_es"], scale * arrays["tilde_xs_es"], **close)
        rotated = arrays["tilde_xs_es"] @ arrays["eigenvectors"].T
        np.testing.assert_allclose(arrays["tilde_xs"], arrays["mean"] + rotated, **close)
        np.testing.assert_allclose(
            arrays["dxs"], arrays["dxs_es"] @ arrays["eigenvectors"].T, **close
        )


def test_scores_follow_from_the_denoiser(case: Case) -> None:
    for arrays in case.found.all:
        scores = (arrays["net_outs"] - arrays["tilde_xs_es"]) / arrays["noise_variance"][:, None]
        np.testing.assert_allclose(arrays["unscaled_scores"], scores, rtol=1e-9, atol=1e-12)


def test_the_basis_is_orthonormal_and_sorted(case: Case) -> None:
    for arrays in case.found.all:
        axes = arrays["eigenvectors"]
        np.testing.assert_allclose(axes.T @ axes, np.eye(len(axes)), atol=1e-12)
        assert (np.diff(arrays["eigenvalues"]) <= 0).all()
        for name in ("mean", "eigenvalues", "eigenvectors"):
            np.testing.assert_array_equal(arrays[name], case.found.melt[name])


def test_times_run_up_in_a_melt_and_down_in_the_others(case: Case) -> None:
    end = case.found.parameters["end_time"]
    melt, roundtrip, gen = case.found.all
    assert melt["times"][-1] == pytest.approx(end)
    assert (np.diff(melt["times"]) > 0).all()
    if "EDM" not in case.stem:
        np.testing.assert_allclose(melt["times"], end / 5 * np.array([0, 2, 4, 5]), atol=1e-12)
        np.testing.assert_allclose(gen["times"], end / 5 * np.array([5, 3, 1, 0]), atol=1e-12)
    np.testing.assert_array_equal(roundtrip["times"], gen["times"])
    assert gen["times"][0] == melt["times"][-1]
    assert gen["times"][-1] == melt["times"][0]


def test_there_is_no_update_at_the_start_and_one_after(case: Case) -> None:
    for arrays in case.found.all:
        for name in ("dxs", "dxs_es"):
            assert (arrays[name][0] == 0).all()
            assert (arrays[name][1:] != 0).all()
        # The last two saved states, 4 and 5, are one step apart.
        step = arrays["xs_es"][3] - arrays["xs_es"][2]
        np.testing.assert_allclose(arrays["dxs_es"][3], step, rtol=1e-9, atol=1e-12)


def test_a_roundtrip_starts_where_the_melt_ended(case: Case) -> None:
    np.testing.assert_array_equal(case.found.roundtrip["xs_es"][0], case.found.melt["xs_es"][-1])


def test_parameters_tell_every_option_and_how_the_result_was_made(case: Case) -> None:
    parameters = case.found.parameters
    mode = case.stem.rsplit("_", 1)[1]
    names = {param.name for param in toy_pfODE_int.main.commands[mode].params}
    assert set(parameters["options"]) == names
    assert parameters["options"]["seed"] == 3
    assert (parameters["options"]["steps"], parameters["options"]["total_samples"]) == (5, 7)
    assert parameters["options"]["h"] == pytest.approx(parameters["end_time"] / 5)
    assert parameters["code_version"] == dnnlib.__version__
    assert set(parameters["libraries"]) >= {"torch", "numpy"}
    assert parameters["command"][:2] == ["toy_pfODE_int.py", mode]
    for name in SIMULATIONS:
        assert parameters["simulations"][name]["denoiser_calls"] == 5 * 6
        assert parameters["simulations"][name]["seconds"] > 0


def test_parameters_tell_the_values_that_were_used_not_that_none_were_given(case: Case) -> None:
    options = case.found.parameters["options"]
    arrays = case.found.melt
    assert options["data_name"] == case.stem.rsplit("_", 2)[0]
    assert options["data_dim"] == len(arrays["mean"])
    assert options["augment_to"] == (4 if "net" in case.stem else 3) * (
        len(arrays["mean"]) > 2 and "circles" in case.stem
    )
    if "EDM" not in case.stem:
        assert options["gamma0"] == pytest.approx(arrays["noise_variance"][0, 0])
        assert options["g_type"] in ("orig", "constant_inflation_gap")
        kept, dim = options["dims_to_keep"], options["data_dim"]
        exponents = np.zeros(dim)
        if kept < dim:
            exponents[:kept] = 1
            exponents[kept:] = (
                -kept / (dim - kept)
                if options["g_type"] == "orig"
                else 1 - options["inflation_gap"]
            )
        rates = (
            np.diff(np.log(arrays["noise_variance"]), axis=0) / np.diff(arrays["times"])[:, None]
        )
        np.testing.assert_allclose(rates, options["rho"] * (1 + exponents) * np.ones((3, 1)))


def test_parameters_tell_the_device_that_was_used(simulate: Callable[..., Simulated]) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert device in str(simulate("exact").parameters["options"]["device_name"])


@pytest.mark.parametrize(
    ("arguments", "rates"),
    [
        (["--rho=1.5", "--gamma0=0.002"], [1.5, 1.5]),
        (["--dims_to_keep=1", "--rho=0.7"], [1.4, 0.0]),
        (
            ["--dims_to_keep=1", "--g_type=constant_inflation_gap", "--inflation_gap=0.6"],
            [2.0, 1.4],
        ),
        (["--dims_to_keep=1", "--g_type=constant_inflation_gap"], [2.0, 0.98]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
@pytest.mark.parametrize("end_vars", [1.0, 2.5])
def test_noise_and_scale_are_those_of_the_paper(
    simulate: Callable[..., Simulated], arguments: list[str], rates: list[float], end_vars: float
) -> None:
    arrays = simulate("exact", *arguments, f"--end_vars={end_vars}").melt
    gamma0 = 0.002 if "--gamma0=0.002" in arguments else 5e-4
    gamma = gamma0 * np.exp(np.array(rates) * arrays["times"][:, None])
    np.testing.assert_allclose(arrays["noise_variance"], gamma, rtol=1e-9)
    scale = end_vars / np.sqrt(arrays["eigenvalues"].max() + gamma.max(axis=1))
    np.testing.assert_allclose(arrays["scale"], scale, rtol=1e-9)


def test_the_discrete_denoiser_is_the_softmax_over_its_points(
    simulate: Callable[..., Simulated],
) -> None:
    found = simulate("discrete", "--data_name=moons", "--total_samples=30")
    points = found.melt["tilde_xs_es"][0]
    for arrays in found.all:
        for x, gamma, denoised in zip(
            arrays["tilde_xs_es"], arrays["noise_variance"], arrays["net_outs"], strict=True
        ):
            logits = -0.5 * ((x[:, None] - points) ** 2 / gamma).sum(axis=2)
            softmax = np.exp(logits - logits.max(axis=1, keepdims=True))
            softmax /= softmax.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(denoised, softmax @ points, atol=1e-8)


def test_with_more_and_more_points_the_discrete_denoiser_nears_the_exact_one(
    simulate: Callable[..., Simulated],
) -> None:
    errors = []
    for count in (30, 3000):
        few = (f"--total_samples={count}", "--steps=1", "--h=7", "--solver=euler")
        discrete, exact = (simulate(mode, *few).melt["net_outs"] for mode in ("discrete", "exact"))
        errors.append(np.sqrt(np.mean((discrete[1] - exact[1]) ** 2)))
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.05


@pytest.mark.parametrize(
    "arguments", [["--data_name=moons"], ["--data_name=s_curve", "--dims_to_keep=2"]]
)
def test_an_exact_roundtrip_ends_where_the_melt_began(
    simulate: Callable[..., Simulated], arguments: list[str]
) -> None:
    found = simulate("exact", *arguments, "--steps=60", "--total_samples=50")
    start, end = found.melt["tilde_xs"][0], found.roundtrip["tilde_xs"][-1]
    error = np.sqrt(np.mean((end - start) ** 2))
    assert error < 1e-3
    facts = found.parameters["simulations"]["roundtrip"]
    assert facts["rms_error"] == pytest.approx(error)
    assert facts["max_abs_error"] == pytest.approx(
        np.abs(found.roundtrip["tilde_xs_es"][-1] - found.melt["tilde_xs_es"][0]).max()
    )


def test_a_melt_ends_in_the_latent_law(simulate: Callable[..., Simulated]) -> None:
    found = simulate("exact", "--total_samples=4000", "--steps=20", "--save_freq=100")
    variance = found.melt["xs_es"][-1].var(axis=0)
    expected = found.parameters["simulations"]["melt"]["closed_form_variance"]
    np.testing.assert_allclose(variance, expected, rtol=0.1)
    np.testing.assert_allclose(expected, 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("save_freq", "steps", "saved"),
    [(1, 3, [0, 1, 2, 3]), (2, 4, [0, 2, 4]), (3, 4, [0, 3, 4]), (4, 4, [0, 4]), (99, 3, [0, 3])],
)
def test_states_are_saved_at_the_start_every_save_freq_steps_and_the_end(
    simulate: Callable[..., Simulated], save_freq: int, steps: int, saved: list[int]
) -> None:
    found = simulate("exact", f"--steps={steps}", "--h=0.5", f"--save_freq={save_freq}")
    np.testing.assert_allclose(found.melt["times"], 0.5 * np.array(saved))
    np.testing.assert_allclose(found.gen["times"], 0.5 * (steps - np.array(saved)))


def test_every_update_is_the_step_when_every_step_is_saved(
    simulate: Callable[..., Simulated],
) -> None:
    for arrays in simulate("exact", "--save_freq=1").all:
        steps = np.diff(arrays["xs_es"], axis=0)
        np.testing.assert_allclose(arrays["dxs_es"][1:], steps, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "steps", "end"),
    [
        ([], 20, 7.01),
        (["--steps=4"], 4, 7.01),
        (["--steps=4", "--h=0.5"], 4, 2.0),
        (["--h=0.701"], 10, 7.01),
        (["--steps=701", "--h=1e-2", "--solver=euler"], 701, 7.01),
    ],
)
def test_the_last_time_is_steps_times_h_and_the_networks_if_left_out(
    run_script: Run,
    networks: dict[str, Path],
    tmp_path: Path,
    arguments: list[str],
    steps: int,
    end: float,
) -> None:
    result = run_script(
        toy_pfODE_int,
        "net",
        f"--network={networks['PRP']}",
        f"--save_dir={tmp_path}",
        "--total_samples=3",
        "--save_freq=1",
        *arguments,
    )
    assert (result.code, result.err) == (0, "")
    found = read(tmp_path)
    assert len(found.melt["times"]) == steps + 1
    assert found.melt["times"][-1] == pytest.approx(end, rel=1e-12)
    assert found.parameters["options"]["steps"] == steps
    assert found.parameters["options"]["h"] == pytest.approx(end / steps)
    assert found.parameters["end_time"] == pytest.approx(end)


def test_a_step_size_that_does_not_divide_the_last_time_is_refused(
    run_script: Run, networks: dict[str, Path], tmp_path: Path
) -> None:
    place = (f"--network={networks['PRP']}", f"--save_dir={tmp_path}", "--total_samples=3")
    refused(run_script(toy_pfODE_int, "net", *place, "--h=0.4"), 2, "--h=0.4", "7.01", "--steps=17")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("solver", "calls"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_every_solver_integrates_and_its_calls_are_counted(
    simulate: Callable[..., Simulated], solver: str, calls: int
) -> None:
    found = simulate("exact", f"--solver={solver}", "--steps=40", "--total_samples=100")
    for name in SIMULATIONS:
        assert found.parameters["simulations"][name]["denoiser_calls"] == 40 * calls
    assert found.parameters["simulations"]["roundtrip"]["rms_error"] < 0.1


def test_end_vars_scales_what_is_scaled_and_nothing_else(
    simulate: Callable[..., Simulated],
) -> None:
    for mode in (["exact", "--dims_to_keep=1"], ["net", "PRP"]):
        one, three = (simulate(*mode, f"--end_vars={value}") for value in (1, 3))
        for small, large in zip(one.all, three.all, strict=True):
            for name in ("xs", "xs_es", "dxs", "dxs_es", "scale"):
                np.testing.assert_allclose(large[name], 3 * small[name], rtol=1e-6, atol=1e-9)
            for name in ("tilde_xs", "tilde_xs_es", "times", "noise_variance"):
                np.testing.assert_allclose(large[name], small[name], rtol=1e-6, atol=1e-9)


def latents(found: Simulated) -> np.ndarray:
    return found.gen["xs_es"][0]


def test_a_number_for_eps_is_the_variance_of_the_compressed_latents_only(
    simulate: Callable[..., Simulated],
) -> None:
    auto, small, large = (
        latents(simulate("exact", "--data_name=swirl", "--dims_to_keep=2", f"--eps={eps}"))
        for eps in ("auto", "0.01", "0.04")
    )
    np.testing.assert_array_equal(small[:, :2], auto[:, :2])
    np.testing.assert_allclose(large[:, 2], 2 * small[:, 2])
    many = latents(
        simulate(
            "exact",
            "--dims_to_keep=1",
            "--eps=0.04",
            "--total_samples=5000",
            "--steps=1",
            "--h=0.1",
            "--solver=euler",
        )
    )
    assert many[:, 1].var() == pytest.approx(0.04, rel=0.1)
    assert abs(many.mean(axis=0)).max() < 0.06


@pytest.mark.parametrize("mode", [["exact", "--dims_to_keep=1"], ["net", "PRR"]])
def test_auto_latents_have_the_closed_form_and_empirical_ones_the_melts_variances(
    simulate: Callable[..., Simulated], mode: list[str]
) -> None:
    auto, empirical = (
        simulate(*mode, f"--eps={eps}", "--total_samples=40") for eps in ("auto", "empirical")
    )
    closed = auto.melt["scale"][-1] ** 2 * (
        auto.melt["eigenvalues"] + auto.melt["noise_variance"][-1]
    )
    facts = auto.parameters["simulations"]["melt"]
    np.testing.assert_allclose(facts["closed_form_variance"], closed)
    melted = np.mean(empirical.melt["xs_es"][-1] ** 2, axis=0)
    np.testing.assert_allclose(
        latents(auto) / np.sqrt(closed), latents(empirical) / np.sqrt(melted), rtol=1e-9
    )


def same(one: Simulated, other: Simulated) -> bool:
    return all(
        np.array_equal(first[name], second[name])
        for first, second in zip(one.all, other.all, strict=True)
        for name in first
    )


@pytest.mark.parametrize("mode", [["exact"], ["discrete"], ["net", "PRR"]])
def test_a_seed_repeats_a_simulation_and_another_does_not(
    simulate: Callable[..., Simulated], mode: list[str]
) -> None:
    one, again, other = (simulate(*mode, f"--seed={seed}") for seed in (0, 0, 1))
    assert same(one, again)
    for first, second in zip(one.all, other.all, strict=True):
        assert not np.isclose(first["xs"][0], second["xs"][0]).any()


def test_data_and_latents_are_drawn_apart(simulate: Callable[..., Simulated]) -> None:
    found = simulate("exact", "--total_samples=500", "--steps=2")
    both = np.concatenate([found.melt["xs_es"][0], latents(found)], axis=1)
    correlation = np.corrcoef(both.T)
    assert np.abs(correlation[:2, 2:]).max() < 0.2


def test_the_network_says_what_the_options_leave_out(
    simulate: Callable[..., Simulated],
) -> None:
    silent = simulate("net", "gap")
    spoken = simulate(
        "net",
        "gap",
        "--data_name=moons",
        "--data_dim=2",
        "--dims_to_keep=1",
        "--g_type=constant_inflation_gap",
        "--inflation_gap=0.8",
        "--gamma0=0.001",
        "--rho=1",
        "--augment_to=0",
    )
    assert same(silent, spoken)


def test_other_results_and_files_in_the_folder_stay(
    run_script: Run, tmp_path: Path, contents: Contents
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    few = (f"--save_dir={tmp_path}", "--total_samples=4", "--steps=2")
    before: dict[str, bytes] = contents(tmp_path)
    for arguments in (
        ("exact", "--data_name=circles"),
        ("discrete", "--data_name=circles"),
        ("exact", "--data_name=moons"),
        ("exact", "--data_name=circles", "--dims_to_keep=1"),
    ):
        assert run_script(toy_pfODE_int, *arguments, *few).code == 0
        after = contents(tmp_path)
        assert before.items() <= after.items()
        assert len(after) == len(before) + 4
        before = after
