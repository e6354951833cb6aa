"""What ``info.py`` says of files: by what they are, in lines of a label and a fact."""

from dataclasses import replace
from pathlib import Path

import dataset_tool
import info
import toy_pfODE_int
import train
from tests.support.image_models import save_image_model, write_image_set
from tests.support.running import Run, good, refused, run_script
from training.model.model import Model


def facts(path: Path) -> dict[str, str]:
    """What the script says of a file, by name."""
    first, *lines = good(run_script(info, path)).out.splitlines()
    assert first == str(path)
    pairs = (line.strip().split("  ", 1) for line in lines)
    return {name: fact.strip() for name, fact in pairs}


def test_a_network_and_its_simulations(toy_network: Run, tmp_path: Path) -> None:
    network = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    found = facts(network)
    assert found["trained on"].startswith("circles, 0.0004 million")
    assert found["schedule"].startswith("PRRto1D: keeps 1 of 2 dimensions; rho 1")
    assert (found["times"], found["network"].split()[0]) == ("0 to 5", "mlp")
    few = ("--total_samples=7", "--steps=2")
    assert run_script(toy_pfODE_int, "net", f"--network={network}", f"--save_dir={tmp_path}", *few)
    melt = facts(next(tmp_path.glob("*_melt_results.npz")))
    assert melt["results"].startswith("trajectory, ")
    assert melt["network_sha256"] == found["digest"]
    assert melt["xs_es"] == "[2, 7, 2] float64"
    run = facts(network.parent)
    assert run["networks"] == f"1, the last {network.name}"


def test_networks_and_sets_of_images(tmp_path: Path) -> None:
    save_image_model(tmp_path / "n.pkl", 10, label_dim=3)
    assert facts(tmp_path / "n.pkl")["images"] == "8x8 pixels, 1 channel(s), 3 classes"
    write_image_set(tmp_path / "set.zip", 5)
    assert facts(tmp_path / "set.zip") == {"images": "5, of 8x8 pixels, 1 channel(s)"}


def test_what_is_nothing_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert "is no file of this project" in run_script(info, tmp_path / "notes.txt").error
    assert run_script(info, tmp_path / "none.npz").code == 1


def test_tables_and_their_networks(tmp_path: Path) -> None:
    table, run = tmp_path / "wine.npz", tmp_path / "run"
    columns = ("--columns=alcohol,ash,magnesium", "--conditions=hue")
    assert run_script(dataset_tool, "--source=wine", f"--dest={table}", *columns).code == 0
    found = facts(table)
    assert found["table"].startswith("178 rows, 18 of them held out")
    assert found["columns"] == "3: alcohol, ash, magnesium"
    assert (found["discrete columns"], found["conditions"]) == ("3", "hue")
    few = ("--duration=0.001", "--width=8", "--depth=1", "--marginals=quantile", "--whiten=pca")
    place = (f"--outdir={run}", "--nosubdir", f"--data={table}")
    told = good(run_script(train, *place, *few))
    assert "hue left out: --cond" in told.out
    network = facts(next(run.glob("network-*.pkl")))
    assert network["columns"] == "3: alcohol, ash, magnesium"
    assert network["coordinates"] == "yeo-johnson, then normal scores, then pca"


def test_a_run_its_reports_and_options(toy_network: Run, tmp_path: Path) -> None:
    network = toy_network("--data_name=circles", "--augment_to=3", "--tmax=5")
    assert facts(network)["embedded in"] == "3 dimensions"
    grid = {"time_grid": {"solver": "heun", "times": [0.0, 1.0, 5.0]}}
    model = Model.load(network)
    replace(model, about={**model.about, **grid}).save(tmp_path / "grid.pkl")
    assert facts(tmp_path / "grid.pkl")["stored times"] == "of heun"
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
