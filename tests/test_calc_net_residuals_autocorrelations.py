"""Residuals and their correlations from the command line: right, in one order, or refused."""

import json
import os
import shutil
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch

import calc_net_residuals_autocorrelations as script
from tests.support.running import good, refused, run_script
from torch_utils.results import load_arrays, save_arrays
from torch_utils.streams import Stream
from training.data.images.dataset import ImageDataset, normalize_pixels
from training.data.toys import Toy
from training.files import residuals as residual_files
from training.flow.denoisers import MixtureDenoiser
from training.flow.solvers import SOLVERS
from training.names import DEFAULT_SOLVER
from training.paper.residuals import noise_rows
from training.trained.network import TrainedNetwork

ABOUT = {"data_name", "schedule", "noise", "dims_to_keep", "times", "origin"}
TOY_KEYS = ("net_outputs", "net_residuals", "exact_residuals")
IMAGE_KEYS = TOY_KEYS[:2]
COUNT, STEPS = 10, 4
TOY = ["extracttoys", f"--n_time_pts={STEPS}", f"--n_samples={COUNT}"]
IMAGE = ["extract", f"--n_time_pts={STEPS}", f"--n_samples={COUNT}", "--batch-gpu=4"]
TOY_FILE = "circles_PRP_toy_net_outputs_residuals.npz"


@pytest.mark.parametrize("name", ["extracttoys", "extract", "calctoys", "calc"])
def test_the_help_names_the_files_that_are_written(name):
    text = run_script(script, name, "--help").out.partition("Options:")[0]
    toys = name.endswith("toys")
    stem = ("{toy}" if toys else "{data}") + "_{schedule}_" + "toy_" * toys
    kind = "net_outputs_residuals" if name.startswith("extract") else "autocorrelations"
    assert f"Files: {stem}{kind}" in text
    assert (f"{stem}{kind}_summary.npz and .json" in text) == name.startswith("calc")


@pytest.fixture(scope="module")
def places(toy_network, networks, images):
    """Network files of a toy and of images, and the images."""
    toy = toy_network("--data_name=circles", "--tmax=7.01")
    return {"toy": toy, "data": images, "images": networks["PRP"], "classes": networks["classes"]}


@pytest.fixture
def run(places, tmp_path):
    """``run(network, *arguments)``: extracts into a new folder, which it gives."""
    numbers = iter(range(100))

    def start(network, *arguments):
        folder = tmp_path / f"extracted{next(numbers)}"
        data = () if network == "toy" else (f"--data_root={places['data']}",)
        command = (TOY if network == "toy" else IMAGE) + [f"--network={places[network]}", *data]
        good(run_script(script, *command, f"--save_dir={folder}", *arguments))
        return folder

    return start


def correlate(command, source, *arguments):
    folder = source.parent / f"{source.name}-correlated"
    place = (f"--save_dir={folder}", f"--res_root={source}")
    good(run_script(script, command, *place, *arguments))
    return folder


def image_times(folder, stem="blobs_PRP"):
    name = f"{stem}_net_outputs_residuals_time"
    return [load_arrays(folder / f"{name}{index}.npz") for index in range(STEPS)]


def numpy_correlations(first, later):
    dim = first.shape[1]
    pair = first.astype(np.float64), later.astype(np.float64)
    return np.corrcoef(*pair, rowvar=False)[:dim, dim:]


def test_toy_files_have_their_names_and_contents(run):
    folder = run("toy", "--h=0.5")
    assert sorted(os.listdir(folder)) == [TOY_FILE.replace("npz", "json"), TOY_FILE]
    arrays = load_arrays(folder / TOY_FILE)
    assert set(arrays) == {*TOY_KEYS, *ABOUT, "format"}
    for name in TOY_KEYS:
        assert (arrays[name].shape, arrays[name].dtype) == ((STEPS, COUNT, 2), np.float32)
    assert arrays["times"].tolist() == [0, 0.5, 1, 1.5]
    parameters = json.loads((folder / TOY_FILE.replace("npz", "json")).read_text())
    assert parameters["denoiser_calls"] == STEPS
    assert parameters["options"]["dims_to_keep"] == 2


@pytest.mark.parametrize("noise", ["independent", "path"])
def test_toy_residuals_keep_their_points(run, places, noise):
    arrays = load_arrays(run("toy", f"--noise={noise}", "--seed=3") / TOY_FILE)
    clean = arrays["net_outputs"] - arrays["net_residuals"]
    np.testing.assert_allclose(clean, np.broadcast_to(clean[0], clean.shape), atol=1e-5)
    assert np.abs(clean[0]).std() > 0.1
    np.testing.assert_allclose(arrays["times"], np.linspace(0, 7.01, STEPS))
    model, toy = TrainedNetwork.load(places["toy"]), Toy("circles")
    basis, schedule = model.denoiser.basis, model.denoiser.schedule
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    # The network and the toy's own denoiser at the states that the flow visits.
    times = torch.from_numpy(arrays["times"])
    points = torch.from_numpy(clean[0]).double()
    start = basis.from_eigen(points)
    states = model.flow.melt(start, times, SOLVERS[DEFAULT_SOLVER], save_every=1).states
    for index, t in enumerate(times):
        noisy = states[index] / schedule.scale(t)
        if noise == "independent":
            rows = noise_rows(range(COUNT), 2, 3, Stream.RESIDUAL_NOISE, index)
            noisy = points + schedule.noise_variance(t).sqrt() * rows
        output = model.denoiser(noisy, t)
        np.testing.assert_allclose(arrays["net_outputs"][index], output, atol=1e-4)
        error = output - exact(noisy, t)
        np.testing.assert_allclose(arrays["exact_residuals"][index], error, atol=1e-4)


def test_toy_correlations_are_those_of_numpy(run):
    source = run("toy") / TOY_FILE
    arrays = load_arrays(source)
    same = ("--data_name=circles", f"--n_time_pts={STEPS}", f"--n_samples={COUNT}", "--data_dim=2")
    folder = correlate("calctoys", source, *same, "--dims_to_keep=2")
    stem = "circles_PRP_toy_autocorrelations"
    names = [f"{stem}{end}" for end in (".npz", "_summary.json", "_summary.npz")]
    assert sorted(os.listdir(folder)) == names
    got, summary = load_arrays(folder / names[0]), load_arrays(folder / names[2])
    facts = json.loads((folder / names[1]).read_text())["quantities"]
    for name in TOY_KEYS:
        expected = [numpy_correlations(arrays[name][0], later) for later in arrays[name]]
        assert got[f"{name}_acs"].dtype == np.float32
        np.testing.assert_allclose(got[f"{name}_acs"], expected, atol=1e-6)
        mean = np.trace(expected[1]) / 2
        assert facts[name]["mean_at_next_time"] == pytest.approx(mean, abs=1e-6)
    np.testing.assert_array_equal(summary["lags"], arrays["times"])


def test_images_have_a_file_a_time_with_the_promised_contents(run):
    folder = run("images")
    stem = "blobs_PRP_net_outputs_residuals"
    expected = [f"{stem}_time{index}.npz" for index in range(STEPS)]
    assert sorted(os.listdir(folder)) == [f"{stem}.json", *expected]
    for index, arrays in enumerate(image_times(folder)):
        assert set(arrays) == {*IMAGE_KEYS, *ABOUT, "time", "format"}
        assert arrays["time"] == arrays["times"][index]
        for name in IMAGE_KEYS:
            assert (arrays[name].shape, arrays[name].dtype) == ((COUNT, 64), np.float32)
    np.testing.assert_allclose(arrays["times"], np.linspace(0, arrays["times"][-1], STEPS))


def test_path_residuals_are_along_melts_of_their_classes(run, places):
    dataset = ImageDataset(places["data"], use_labels=True, max_size=COUNT, seed=0)
    pixels, labels = dataset.read(range(COUNT))
    flow = TrainedNetwork.load(places["classes"]).flow.given(labels=labels)
    got = image_times(run("classes", "--noise=path"), "blobs_PRRto10D")
    times = torch.from_numpy(got[0]["times"])
    points = normalize_pixels(pixels).flatten(1)
    states = flow.melt(points, times, SOLVERS["exp_rk5"], save_every=1).states
    for arrays, state, t in zip(got, states, times, strict=True):
        output = flow.denoiser(state / flow.schedule.scale(t), t)
        np.testing.assert_allclose(arrays["net_outputs"], output, atol=1e-4)


def test_image_correlations_are_those_of_numpy(run):
    source = run("images")
    folder = correlate("calc", source, "--bs=3", "--dims_to_keep=64")
    stem, extracted = "blobs_PRP_autocorrelations", image_times(source)
    paths = [f"{stem}_times0_{index}.npz" for index in range(STEPS)]
    assert set(os.listdir(folder)) == {*paths, f"{stem}_summary.npz", f"{stem}_summary.json"}
    for path, later in zip(paths, extracted, strict=True):
        got = load_arrays(folder / path)
        assert got["time"] == later["time"]
        for name in IMAGE_KEYS:
            correlations = numpy_correlations(extracted[0][name], later[name])
            assert got[f"{name}_acs"].dtype == np.float32
            np.testing.assert_allclose(got[f"{name}_acs"], correlations, atol=1e-6)


def test_the_disk_is_looked_at_before_anything_is_written(places, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=2**30)
    monkeypatch.setattr(residual_files.shutil, "disk_usage", lambda path: usage)
    few = (f"--network={places['toy']}", f"--save_dir={tmp_path / 'x'}", "--n_time_pts=1000")
    result = run_script(script, "extracttoys", *few, "--n_samples=100000")
    # Three arrays of 1000 x 100000 x 2 numbers of four bytes.
    needed = f"{3 * 1000 * 100_000 * 2 * 4 / 2**30:.3g} GiB are needed"
    refused(result, 1, needed, "1 GiB of free disk space")
    assert list(tmp_path.iterdir()) == []


def test_memory_of_extraction_holds_batches_only(run):
    read = ImageDataset.read
    with mock.patch.object(ImageDataset, "read", autospec=True, side_effect=read) as reads:
        run("images", "--bs=4")
    assert [len(call.args[1]) for call in reads.call_args_list] == [4, 4, 2]


def results_of(network, folder):
    """The command that correlates what was extracted, and what it is given."""
    return ("calctoys", folder / TOY_FILE) if network == "toy" else ("calc", folder)


def refusal(command, source, *arguments, code):
    """The line with which it is refused; nothing was written."""
    folder = source.parent / "refused"
    place = (f"--save_dir={folder}", f"--res_root={source}")
    result = run_script(script, command, *place, *arguments)
    refused(result, code)
    assert not folder.exists()
    return result.error


def test_options_that_contradict_files_are_refused_with_both_values(run):
    for network, *cases in (
        ("toy", ("--data_name=moons", "circles"), (f"--n_time_pts={STEPS + 1}", str(STEPS))),
        ("images", ("--n_samples=11", str(COUNT)), ("--dims_to_keep=10", "64")),
    ):
        command, source = results_of(network, run(network))
        for option, known in cases:
            line = refusal(command, source, option, code=2)
            assert option.split("=")[1] in line
            assert known in line


def test_of_two_extractions_in_a_folder_one_is_chosen_by_name(run):
    folder, other = run("images"), run("classes", "--data_name=other")
    shutil.copytree(other, folder, dirs_exist_ok=True)
    line = refusal("calc", folder, code=2)
    assert "--data_name=other" in line
    assert "--data_name=blobs" in line
    results = correlate("calc", folder, "--data_name=other")
    assert (results / "other_PRRto10D_autocorrelations_times0_0.npz").exists()


def test_files_of_another_extraction_among_those_of_images_are_refused(run):
    folder, other = run("images"), run("images", "--seed=1")
    path = folder / "blobs_PRP_net_outputs_residuals_time2.npz"
    before = path.with_name(path.name.replace("time2", "time1")).read_bytes()
    for content in ((other / path.name).read_bytes(), path.read_bytes()[:-3000], before):
        path.write_bytes(content)
        assert path.name in refusal("calc", folder, code=1)
    path.unlink()
    assert path.name in refusal("calc", folder, code=1)


def test_broken_files_of_toys_are_told_in_one_line(run):
    path = run("toy") / TOY_FILE
    arrays = load_arrays(path)
    changes = [
        ({"net_residuals": arrays["net_residuals"][:, :5]}, "'net_residuals' has shape ["),
        ({"net_outputs": arrays["net_outputs"][0]}, "'net_outputs' has shape ["),
        ({"times": arrays["times"][:3]}, "expected [3, N, D]"),
        ({"times": arrays["times"][::-1]}, "times"),
        ({"dims_to_keep": np.array([1, 2])}, "dims_to_keep"),
        ({"data_name": np.array("../circles")}, "data_name"),
        ({"data_name": np.array(3)}, "data_name"),
        ({"net_outputs": np.asfortranarray(arrays["net_outputs"])}, "row by row"),
        ({"net_outputs": arrays["net_outputs"].astype(str)}, "expected numbers"),
    ]
    for change, part in changes:
        save_arrays(path, arrays | change)
        assert part in refusal("calctoys", path, code=1)
    del arrays["net_residuals"]
    save_arrays(path, arrays)
    assert "net_residuals" in refusal("calctoys", path, code=1)
    path.unlink()
    assert TOY_FILE in refusal("calctoys", path, code=1)


@pytest.mark.parametrize(
    ("network", "name", "dim"), [("toy", "circles", 2), ("images", "blobs", 64)]
)
def test_a_summary_tells_what_it_is_of(run, places, network, name, dim):
    folder = run(network, "--seed=7", "--noise=path")
    command, source = results_of(network, folder)
    (parameters,) = folder.glob("*.json")
    origin = str(load_arrays(next(folder.glob("*.npz")))["origin"])

    def extraction():
        (path,) = correlate(command, source, "--overwrite").glob("*_summary.json")
        return json.loads(path.read_text())["extraction"]

    of = {"network": str(places[network]), "data_name": name}
    of |= {"schedule": "PRP", "noise": "path", "origin": origin, "n_samples": COUNT, "seed": 7}
    assert extraction() == {**of, "dims_to_keep": dim}
    # Options that are not of these residuals tell nothing of them.
    others = json.loads(parameters.read_text()) | {"origin": "0123456789abcdef"}
    for content in (json.dumps(others), None):
        parameters.unlink() if content is None else parameters.write_text(content)
        about = extraction()
        assert (about["origin"], about["seed"], about["network"]) == (origin, None, None)
    parameters.write_text("broken")
    assert parameters.name in refusal(command, source, code=1)
