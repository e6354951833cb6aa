"""Toy integration from the command line: what it writes, that it is right, and what it refuses."""

from functools import cache

import numpy as np
import pytest
import torch

import toy_pfODE_int
from tests.support.outcomes import KINDS, TRAJECTORY, Simulations, assert_same
from tests.support.running import contents, good, refused, run_script, unless_given
from torch_utils.snapshots import read_network, write_network

GAP = ("--g_type=constant_inflation_gap", "--inflation_gap=0.8")
NETWORKS = {
    "PRP": ("--data_name=circles", "--tmax=7.01"),
    "PRR": ("--data_name=swirl", "--dims_to_keep=2", "--tmax=6", "--rho=0.9", "--space=IS"),
    "gap": ("--data_name=moons", "--dims_to_keep=1", *GAP, "--gamma0=0.001"),
    "embedded": ("--data_name=circles", "--augment_to=4", "--dims_to_keep=2", "--tmax=4"),
    "edm": ("--data_name=circles", "--precond=edm", "--tmax=20"),
}


@pytest.fixture(scope="session")
def networks(toy_network):
    return {name: toy_network(*options) for name, options in NETWORKS.items()}


@pytest.fixture(scope="session")
def simulate(run_once, networks):
    """``simulate("exact", ...)`` or ``simulate("net", network_name, ...)``, read back."""

    @cache
    def start(mode, *arguments):
        standard = {"--total_samples": 7, "--save_freq": 2, "--steps": 5}
        if mode == "net":
            arguments = (f"--network={networks[arguments[0]]}", *arguments[1:])
        else:
            standard["--data_name"] = "circles"
        return Simulations(run_once(toy_pfODE_int, mode, *unless_given(standard, arguments))[0])

    return start


CASES = {
    "circles_PRP_exact": ("exact",),
    "s_curve_PRRto2D_exact": ("exact", "--data_name=s_curve", "--dims_to_keep=2"),
    "moons_PRRto1D_exact": ("exact", "--data_name=moons", "--dims_to_keep=1", *GAP, "--rho=1.5"),
    "circles_PRRto2D_exact": ("exact", "--augment_to=3", "--dims_to_keep=2", "--end_vars=2.5"),
    "alt_swirl_PRRto1D_discrete": ("discrete", "--data_name=alt_swirl", "--dims_to_keep=1"),
    "circles_PRP_net": ("net", "PRP"),
    "swirl_PRRto2D_net": ("net", "PRR"),
    "moons_PRRto1D_net": ("net", "gap"),
    "circles_PRRto2D_net": ("net", "embedded"),
    "circles_EDM_net": ("net", "edm"),
}


@pytest.fixture(params=list(CASES))
def case(request, simulate):
    """Seven samples, five steps, every second saved: states at steps 0, 2, 4 and 5."""
    got = simulate(*CASES[request.param])
    assert got.stem == request.param
    return got


def test_files_have_their_names_and_a_roundtrip_runs_back_from_where_the_melt_ended(case):
    files = {f"{case.stem}_{name}_results.npz" for name in KINDS}
    names = {path.name for path in case.folder.iterdir()}
    assert names == {*files, f"{case.stem}_sim_params.json"}
    digest = {"network_sha256"} if case.stem.endswith("_net") else set()
    for arrays in case.arrays.values():
        assert set(arrays) == {*TRAJECTORY, "format", *digest}
        assert arrays["xs"].shape == (4, 7, case.parameters["options"]["data_dim"])
    end = case.parameters["end_time"]
    assert (np.diff(case["melt"]["times"]) > 0).all()
    if "EDM" not in case.stem:
        saved = end / 5 * np.array([0, 2, 4, 5])
        np.testing.assert_allclose(case["melt"]["times"], saved, atol=1e-12)
        np.testing.assert_allclose(case["gen"]["times"], end - saved, atol=1e-12)
    np.testing.assert_array_equal(case["roundtrip"]["times"], case["gen"]["times"])
    assert case["gen"]["times"][0] == case["melt"]["times"][-1] == pytest.approx(end)
    assert case["gen"]["times"][-1] == case["melt"]["times"][0]
    np.testing.assert_array_equal(case["roundtrip"]["xs_es"][0], case["melt"]["xs_es"][-1])


def test_parameters_tell_the_values_that_were_used_and_the_cost(case):
    options, arrays = case.parameters["options"], case["melt"]
    kept, dim = options["dims_to_keep"], options["data_dim"]
    assert options["data_name"] == case.stem.rsplit("_", 2)[0]
    assert dim == len(arrays["mean"])
    assert options["augment_to"] in (0, dim)
    assert (options["steps"], options["total_samples"]) == (5, 7)
    assert options["h"] == pytest.approx(case.parameters["end_time"] / 5)
    assert options["device_name"] == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in KINDS:
        assert case.parameters["simulations"][name]["denoiser_calls"] == 5 * 6
        assert case.parameters["simulations"][name]["seconds"] > 0
    if "EDM" not in case.stem:
        # The noise and the scale of the paper, with these values.
        compressing = -kept / max(dim - kept, 1)
        if options["g_type"] != "orig":
            compressing = 1 - options["inflation_gap"]
        growth = np.where(np.arange(dim) < kept, float(kept < dim), compressing)
        rates = options["rho"] * (1 + growth)
        gamma = options["gamma0"] * np.exp(rates * arrays["times"][:, None])
        np.testing.assert_allclose(arrays["noise_variance"], gamma, rtol=1e-9)
        top = arrays["eigenvalues"][0] + gamma[:, 0]
        np.testing.assert_allclose(arrays["scale"], options["end_vars"] / np.sqrt(top), rtol=1e-9)


def test_an_exact_roundtrip_ends_where_the_melt_began(simulate):
    few = ("--steps=40", "--total_samples=20", "--save_freq=40")
    got = simulate("exact", "--data_name=s_curve", "--dims_to_keep=2", *few)
    errors = got["roundtrip"]["tilde_xs_es"][-1] - got["melt"]["tilde_xs_es"][0]
    facts = got.parameters["simulations"]["roundtrip"]
    assert facts["rms_error"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert facts["max_abs_error"] == pytest.approx(np.abs(errors).max())
    assert facts["rms_error"] < 1e-3


def test_another_seed_gives_other_points_and_latents_and_both_are_drawn_apart(simulate):
    for mode in (("exact",), ("discrete",), ("net", "PRR")):
        one, other = (simulate(*mode, "--seed=0"), simulate(*mode, "--seed=1"))
        for first, second in zip(one.arrays.values(), other.arrays.values(), strict=True):
            assert not np.isclose(first["xs"][0], second["xs"][0]).any()
    got = simulate("exact", "--total_samples=500", "--steps=2")
    correlation = np.corrcoef(got["melt"]["xs_es"][0], got["gen"]["xs_es"][0], rowvar=False)
    assert np.abs(correlation[:2, 2:]).max() < 0.2


def test_the_network_says_what_the_options_leave_out(simulate):
    schedule = ("--dims_to_keep=1", *GAP, "--gamma0=0.001", "--rho=1", "--augment_to=0")
    spoken = simulate("net", "gap", "--data_name=moons", "--data_dim=2", *schedule)
    assert_same(spoken.arrays, simulate("net", "gap").arrays)


def test_other_results_and_files_in_the_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    few = (f"--save_dir={tmp_path}", "--total_samples=4", "--steps=2")
    before = contents(tmp_path)
    for mode, *options in (
        *(("exact",), ("discrete",), ("exact", "--data_name=moons")),
        ("exact", "--dims_to_keep=1"),
    ):
        good(run_script(toy_pfODE_int, mode, "--data_name=circles", *options, *few))
        after = contents(tmp_path)
        assert before.items() <= after.items()
        assert len(after) == len(before) + 4
        before = after


def test_a_network_of_no_toy_is_told_in_one_line_by_name(networks, tmp_path):
    given = (f"--network={tmp_path / 'network.pkl'}", f"--save_dir={tmp_path / 'out'}")
    parts, about = read_network(networks["PRP"])
    for changes in (
        *({"data_name": name} for name in (None, "spirals", ["circles"], "swirl")),
        *({"tmax": end} for end in (None, float("nan"))),
        {"augment_to": "four"},
        {},
    ):
        if not changes:
            parts["basis"].state["eigenvalues"] = torch.tensor([52.0, 42.0], dtype=torch.float64)
        known = {name: value for name, value in (about | changes).items() if value is not None}
        write_network(tmp_path / "network.pkl", parts, known)
        refused(run_script(toy_pfODE_int, "net", *given), 1, "network.pkl")
        assert not (tmp_path / "out").exists()
