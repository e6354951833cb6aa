"""Coverage from the command line: within what a homeomorphism allows, and told as promised."""

import errno
import os
from functools import cache
from unittest.mock import Mock

import numpy as np
import pytest
import trimesh

import toy_mesh_exps
from tests.support.outcomes import Measured
from tests.support.running import contents, good, run_script, slowly, unless_given
from training.data.toys import Toy
from training.paper.containment import gaussian_content, inside
from training.paper.coverage import TABLE_HEAD

STAGES = ("latent", "data", "end")
NETWORKS = {
    "PRP": ["--data_name=circles"],
    "PRR": ["--data_name=s_curve", "--dims_to_keep=2", "--tmax=4", "--rho=0.9", "--space=IS"],
}


@pytest.fixture(scope="session")
def networks(toy_network):
    return {name: toy_network(*options) for name, options in NETWORKS.items()}


class Coverage(Measured):
    def column(self, name):
        return np.array(self.result["coverage"][name])


@pytest.fixture(scope="module")
def measure(run_once, networks):
    """``measure("net", network_name, ...)`` or ``measure("exact", ...)``: few points and steps."""

    @cache
    def start(score, *arguments):
        standard = {"--test_pts": 300, "--steps": 6}
        standard |= {"--boundary_pts": 50, "--r_num": 3}
        if score == "net":
            arguments = (f"--network={networks[arguments[0]]}", *arguments[1:])
        else:
            standard["--data_name"] = "circles"
        given = unless_given(standard, (f"--score={score}", *arguments))
        return Coverage(*run_once(toy_mesh_exps, *given))

    return start


@pytest.mark.parametrize("dims_to_keep", slowly([1, 2], 2))
def test_exact_coverage_of_circles_is_within_three_tenths(measure, dims_to_keep):
    defaults = ("--boundary_pts=200", "--r_num=7", "--steps=16", "--test_pts=2000")
    got = measure("exact", f"--dims_to_keep={dims_to_keep}", *defaults)
    assert max(got.result["largest_change"] + got.result["changed_sides"]) <= 0.003
    np.testing.assert_allclose(got.result["radii"], np.linspace(0.5, 3.5, 7))
    exact = gaussian_content(np.linspace(0.5, 3.5, 7), 2)
    np.testing.assert_allclose(got.result["exact"], exact)
    within = np.array(got.result["exact_within_boundary"])
    error = np.abs(got.column("latent") - within) / np.sqrt(within * (1 - within) / 2000)
    assert (error < 4).all()
    if dims_to_keep == 2:
        # Nothing is compressed, and the exact flow gives the data: so these are inside as well.
        fresh = np.abs(got.column("fresh") - exact) / np.sqrt(exact * (1 - exact) / 2000)
        assert (fresh < 4).all()


@pytest.mark.parametrize("boundary", ["transport", "alpha"])
@pytest.mark.parametrize("arguments", ["net PRR", "exact --data_name=alt_s_curve"])
def test_the_files_hold_what_was_counted(measure, arguments, boundary):
    got = measure(*arguments.split(), f"--boundary={boundary}", "--seed=3")
    arrays = got.arrays
    stem, dim = got.stem.removesuffix("_coverage"), arrays["test_latent"].shape[1]
    names = [f"{got.stem}.json", f"{got.stem}.npz"]
    if dim == 3:
        names += [f"{stem}_r{r}_{stage}.ply" for r in ("0.5", "2", "3.5") for stage in STAGES]
    assert sorted(path.name for path in got.folder.iterdir()) == sorted(names)
    assert arrays["coverage"].shape == (3, 3)
    for index, stage in enumerate(STAGES):
        test, vertices = arrays[f"test_{stage}"], arrays[f"boundary_{stage}"]
        assert test.shape == (300, dim)
        assert vertices.shape == (3, 50, dim)
        assert test.dtype == vertices.dtype == np.float64
        np.testing.assert_array_equal(got.column(stage), arrays["coverage"][index])
        for radius in range(3):
            moved, faces = vertices[radius], arrays["faces"]
            if boundary == "alpha":
                moved = vertices[: radius + 1].reshape(-1, dim)
                faces = arrays[f"faces_{stage}_{radius}"]
            fraction = inside(test, moved, faces).mean()
            assert fraction == pytest.approx(arrays["coverage"][index, radius])
            if stage == "data":
                fresh = inside(arrays["fresh_data"], moved, faces).mean()
                assert fresh == pytest.approx(arrays["coverage_fresh"][radius])
            if dim == 3:
                path = got.folder / f"{stem}_r{arrays['radii'][radius]:g}_{stage}.ply"
                mesh = trimesh.load_mesh(path, process=False)
                np.testing.assert_allclose(mesh.vertices, moved, rtol=1e-6, atol=1e-6)
                assert mesh.volume > 0


@pytest.mark.parametrize("eps", ["auto", "0.04"])
def test_the_latents_have_the_law_of_eps_and_boundaries_its_radii(measure, eps):
    got = measure("exact", "--dims_to_keep=1", f"--eps={eps}", "--test_pts=4000", "--steps=1")
    variance = np.array(got.result["latent_variance"])
    assert (variance[1] == 0.04) == (eps == "0.04")
    assert variance[0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(got.arrays["test_latent"].var(axis=0), variance, rtol=0.1)
    radii = np.sqrt((got.arrays["boundary_latent"] ** 2 / variance).sum(axis=2))
    expected = np.broadcast_to(got.arrays["radii"][:, None], radii.shape)
    np.testing.assert_allclose(radii, expected)


@pytest.mark.slow
def test_fresh_data_is_the_toy(measure):
    got = measure("exact", "--data_name=s_curve", "--test_pts=5000", "--steps=1")
    fresh = got.arrays["fresh_data"]
    mean, covariance = (moment.numpy() for moment in Toy("s_curve").moments())
    np.testing.assert_allclose(fresh.mean(axis=0), mean, atol=0.06)
    np.testing.assert_allclose(np.cov(fresh.T), covariance, atol=0.06)


def test_the_table_is_shown_and_the_parameters_are_saved(measure):
    got = measure("net", "PRP")
    head, first, *_ = (line.split() for line in got.printed.splitlines())
    mean = [100 * got.result["coverage"][name][0] for name in (*STAGES, "fresh")]
    assert (head[0], first[:2]) == ("radius", ["0.5", "11.75"])
    assert [float(cell) for cell in first[2:6]] == pytest.approx(mean, abs=0.006)
    options = got.result["options"]
    known = {"data_name": "circles", "data_dim": 2, "dims_to_keep": 2, "steps": 6}
    assert {name: options[name] for name in known} == known
    assert options["h"] == pytest.approx(got.result["end_time"] / 6)
    assert got.result["denoiser_calls"] == 2 * 6 * 6


def test_the_help_says_what_the_columns_are_and_what_is_written():
    text = " ".join(run_script(toy_mesh_exps, "--help").out.split())
    meanings = text.partition("columns,")[2].partition("Files:")[0]
    places = [meanings.index(f" {head.removesuffix(' %')} ") for head in TABLE_HEAD[1:]]
    assert places == sorted(places)
    for name in ("exact", "latent", "largest_change", "changed_sides"):
        assert f'("{name}")' in meanings
    for name in ("coverage.json", "coverage.npz", "r{radius}_{latent|data|end}.ply"):
        assert f"{{data}}_{{schedule}}_{name}" in text


@pytest.mark.slow
def test_the_exact_score_has_the_networks_schedule(measure, networks):
    same = ("--data_name=s_curve", "--steps=3", "--test_pts=50")
    with_network = measure("exact", f"--network={networks['PRR']}", "--eps=auto", *same)
    alone = measure("exact", "--dims_to_keep=2", f"--h={4 / 3}", *same)
    assert with_network.result["end_time"] == alone.result["end_time"] == 4
    # The schedule of the network has a rate of 0.9, the default one a rate of 1.
    assert with_network.result["options"]["rho"] == 0.9
    variances = [each.result["latent_variance"] for each in (with_network, alone)]
    assert not np.allclose(*variances, rtol=1e-3)


def test_networks_pair_with_cheap_exact_flows(networks, tmp_path):
    few = ("--test_pts=100", "--steps=2", "--boundary_pts=20", "--r_num=2")
    for number, (given, expected) in enumerate(
        (
            ([f"--network={networks['PRP']}"], True),
            ([f"--network={networks['PRR']}"], False),
            (["--score=exact", "--data_name=circles"], False),
        )
    ):
        place = tmp_path / str(number)
        result = good(run_script(toy_mesh_exps, *given, *few, f"--save_dir={place}"))
        got = Coverage(place, result.out)
        assert (got.result["paired"] is not None) == expected
        assert ("paired_difference" in got.arrays) == ("s.e." in got.printed) == expected


def test_meshes_of_former_radii_go_and_stay_until_there_are_new_results(tmp_path, monkeypatch):
    few = ("--test_pts=20", "--steps=2", "--boundary_pts=12", "--overwrite", "--solver=euler")
    alike = ("--score=exact", "--data_name=s_curve", f"--save_dir={tmp_path}", *few)

    def remeasure(*arguments):
        return run_script(toy_mesh_exps, *alike, *arguments).code

    assert remeasure("--r_min=1e-5", "--r_num=4") == 0
    assert (tmp_path / "s_curve_PRP_r1e-05_end.ply").exists()
    others = [
        *("alt_s_curve_PRP_r1_data.ply", "s_curve_PRP_r1_data.ply.txt", "s_curve_PRP_r_data.ply"),
        *("s_curve_PRP_rest_end.ply", "s_curve_PRP_r1_middle.ply", "s_curve_PRRto2D_r1_data.ply"),
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "s_curve_PRP_r7_data.ply").mkdir()
    assert remeasure("--r_min=1", "--r_num=2") == 0
    meshes = {f"s_curve_PRP_r{r}_{stage}.ply" for r in ("1", "3.5") for stage in STAGES}
    expected = {*others, *meshes, "s_curve_PRP_r7_data.ply"}
    assert {path.name for path in tmp_path.glob("*.ply*")} == expected
    assert all((tmp_path / name).read_text() == "mine" for name in others)

    before = contents(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("training.files.declared.save_arrays", Mock(side_effect=full))
    assert remeasure("--r_num=2") == 1
    assert contents(tmp_path) == before
