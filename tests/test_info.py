"""What info.py says of files, and networks of the original code that are converted."""

import os
from pathlib import Path

import numpy as np
import pytest

import import_network
import info
import toy_pfODE_int
from tests.support.image_models import save_image_model, write_image_set
from tests.support.original_files import dumps, toy_content
from tests.support.running import contents, good, refused, run_script
from torch_utils.results import load_arrays


def facts(path):
    first, *lines = good(run_script(info, path)).out.splitlines()
    assert first == str(path)
    pairs = (line.strip().split("  ", 1) for line in lines)
    return {name: fact.strip() for name, fact in pairs}


def test_a_network_and_its_simulations(toy_network, tmp_path):
    network = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    got = facts(network)
    assert got["trained on"].startswith("circles, 0.0004 million")
    assert got["schedule"].startswith("PRRto1D: keeps 1 of 2 dimensions; rho 1")
    assert (got["times"], got["network"].split()[0]) == ("0 to 5", "mlp")
    few = ("--total_samples=7", "--steps=2")
    assert run_script(toy_pfODE_int, "net", f"--network={network}", f"--save_dir={tmp_path}", *few)
    melt = facts(next(tmp_path.glob("*_melt_results.npz")))
    assert melt["results"].startswith("trajectory, ")
    assert melt["network_sha256"] == got["digest"]
    assert melt["xs_es"] == "[2, 7, 2] float64"
    assert facts(network.parent)["networks"] == f"1, the last {network.name}"


def test_networks_and_sets_of_images_are_described_and_what_is_neither_is_refused(tmp_path):
    save_image_model(tmp_path / "n.pkl", 10, label_dim=3)
    assert facts(tmp_path / "n.pkl")["images"] == "8x8 pixels, 1 channel(s), 3 classes"
    write_image_set(tmp_path / "set.zip", 5)
    assert facts(tmp_path / "set.zip") == {
        "images": "5, of 8x8 pixels, 1 channel(s)",
        "labels": "none",
    }
    write_image_set(tmp_path / "classes.zip", 6, classes=3)
    assert facts(tmp_path / "classes.zip")["labels"].startswith("3 classes, images per class 0: ")
    (tmp_path / "notes.txt").write_text("x")
    assert "is not a file of this project:" in run_script(info, tmp_path / "notes.txt").error
    assert run_script(info, tmp_path / "none.npz").code == 1


def test_tables_and_their_networks_are_described(houses, houses_run, simulations):
    got = facts(houses)
    assert got["table"].startswith("300 rows, 60 of them held out")
    assert (got["columns"], got["discrete columns"]) == ("3: size, room count, price", "2")
    assert got["left out"] == "fixed, double"
    assert facts(simulations / "runs.npz")["conditions"] == "y 1, y2"
    network = facts(houses_run / "network-snapshot-000004.pkl")
    assert network["columns"] == "3: size, room count, price"
    assert network["coordinates"] == "yeo-johnson, then zca"


def test_a_run_its_reports_and_options(toy_network, tmp_path):
    network = toy_network("--data_name=circles", "--augment_to=3", "--tmax=5")
    assert facts(network)["embedded in"] == "3 dimensions"
    run = facts(network.parent)
    assert run["samples"] == "0.0004 million"
    assert float(run["last loss"]) > 0
    assert float(run["seconds"]) > 0
    options = facts(network.parent / "training_options.json")
    assert options["parameters"].startswith("inflationary-flows training run 1")
    assert options["options"].endswith("entries")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "training_options.json").write_text("{}")
    assert facts(copy)["run of"] == "an unknown script"
    (copy / "stats.jsonl").write_text("{")
    refused(run_script(info, copy), 1, "stats.jsonl", "last line")


@pytest.fixture
def bring(tmp_path):
    """``bring(source, *options)``: imports a file, or content of one, as ``network.pkl``."""

    def run(source, *options):
        if not isinstance(source, Path):
            content, source = source, tmp_path / "original.pkl"
            source.write_bytes(dumps(content))
        place = f"--dest={tmp_path / 'network.pkl'}"
        return run_script(import_network, f"--source={source}", place, *options)

    return run


def test_an_imported_toy_network_can_be_simulated_and_its_source_is_not_run(bring, tmp_path):
    marker, content = tmp_path / "marker", toy_content()
    content["ema"].source = f"open({str(marker)!r}, 'w').close()"
    content["ema"].child("model").source = content["ema"].source
    assert "OriginalToyConvUNet" in good(bring(content)).out
    assert not marker.exists()
    place = (f"--save_dir={tmp_path}", f"--network={tmp_path / 'network.pkl'}")
    known = ("--data_name=circles", "--data_dim=2", "--dims_to_keep=2", "--solver=euler")
    few = ("--total_samples=5", "--steps=4", "--h=1.5", "--save_freq=2")
    assert run_script(toy_pfODE_int, "net", *place, *known, *few).code == 0
    melt = load_arrays(tmp_path / "circles_PRP_net_melt_results.npz")
    assert melt["xs"].shape == (3, 5, 2)
    assert np.isfinite(melt["xs"]).all()
    assert melt["times"][-1] == 6.0


def test_the_source_is_never_replaced_and_what_cannot_be_imported_is_one_line(bring, tmp_path):
    (tmp_path / "original.pkl").write_bytes(dumps(toy_content()))
    before = contents(tmp_path)
    for name in ("original.pkl", "./original.pkl"):
        dest = f"--dest={tmp_path}/{name}"
        refused(bring(tmp_path / "original.pkl", dest, "--overwrite"), 2, "give another")
    assert contents(tmp_path) == before
    refused(bring(toy_content("spirals")), 1, "an unknown toy, 'spirals'")
    refused(bring(toy_content(), "--data_name=moons", "--tmax=8"), 2, "data_name is moons")
    assert os.listdir(tmp_path) == ["original.pkl"]
