"""What all commands have in common: their help, what they refuse, and what they leave behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dnnlib
from inflationary_flows.__main__ import scripts
from tests.support.commands import ALL, COMMANDS, run_named
from tests.support.outcomes import assert_same, outcome, read_netcdf
from tests.support.running import contents, full_disk, good, refused
from torch_utils.results import load_arrays
from training.flow.denoisers import Calibration
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
# Of commands that run on the first rank alone, some that take longer than others.
LONG = ("ask fill", "ask score", "ask sample", "ask check", "posterior rounds")
BY_FIRST_RANK = (
    *("ask predict", "posterior population", "posterior predict", "import_network", "visualize"),
    *("report", *LONG),
)
"""Data sets are made by the first rank as well, beside another that is there."""
DENSITIES = ("--log_prob", "--probes=2")


def of_commands(chosen, *slow):
    """A test of some commands, of those with these names in ``make test-all`` alone."""
    params = [
        pytest.param(each, id=each.name, marks=[pytest.mark.slow] * (each.name in slow))
        for each in chosen
    ]
    return pytest.mark.parametrize("command", params)


def some_commands(*options, slow=()):
    return of_commands([command for command in ALL if any(map(command.has, options))], *slow)


every_command = of_commands(ALL)
every_writer = of_commands([command for command in ALL if command.place])


def given(command, shelf, **others):
    """A command's arguments, of which some are others; those that are None are left out."""
    changed = {f"--{name}": value for name, value in others.items()}
    names = [text.partition("=")[0] for text in command.given(shelf)]
    kept = [text for text in command.given(shelf) if text.partition("=")[0] not in changed]
    for name, value in changed.items():
        if value is not None:
            kept += [f"{name}={value}"] * max(1, names.count(name))
    return kept


def test_the_table_has_every_command():
    names = set()
    for stem in scripts():
        main = next(c.script for c in ALL if c.script.__name__ == stem).main
        names |= {f"{stem} {word}".strip() for word in getattr(main, "commands", [""])}
    assert names == set(COMMANDS)


@every_command
def test_help_fits_two_screens_and_full_help_has_every_option(command):
    brief = good(command.run("--help"))
    assert command.run("-h") == brief
    assert len(brief.out.splitlines()) <= 80
    assert set(command.declared.common) <= {option.name for option in command.options}
    example = command.declared.example.split()
    typed = {word.partition("=")[0] for word in example if word.startswith("--")}
    assert typed <= {name for option in command.options for name in option.opts}
    assert typed >= {option.opts[-1] for option in command.options if option.required}
    full = good(command.run("--help-all")) if "--help-all" in brief.out else brief
    for option in command.options:
        assert option.opts[-1] in full.out
        assert option.help


@every_command
def test_missing_options_are_named(command, shelf, tmp_path):
    required = {option.opts[-1] for option in command.options if option.required}
    for name in required | set(command.needed):
        arguments = [*command.given(shelf), *command.at(tmp_path / "out")]
        left = [text for text in arguments if text.partition("=")[0] != name]
        assert len(left) < len(arguments)
        refused(command.run(*left), 2, f"Missing option '{name}'")
        assert list(tmp_path.iterdir()) == []


@some_commands("--device_name")
def test_devices_that_are_not_there_are_usage_errors(command, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = given(command, shelf, device_name="cuda:1")
    refused(command.run(*arguments, *command.at(tmp_path / "out")), 2, "cuda:1", "cpu")
    assert list(tmp_path.iterdir()) == []


@some_commands("--dry_run", "--dry-run")
def test_dry_runs_only_tell_the_options(command, shelf, tmp_path):
    arguments = given(command, shelf, lr=0.125)
    result = good(command.run(*arguments, *command.at(tmp_path / "out"), "-n"))
    record = json.loads(result.out[result.out.index("\n{") :])
    options = record["options"]
    assert (options["lr"], options["ls"], options["dry_run"]) == (0.125, 1, True)
    assert record["parameters"] > 0
    assert list(tmp_path.iterdir()) == []


@some_commands("--network")
def test_networks_that_are_none_are_told(command, shelf, tmp_path):
    (tmp_path / "text.pkl").write_text("text")
    for path in (tmp_path / "none.pkl", tmp_path / "text.pkl"):
        arguments = given(command, shelf, network=path)
        refused(command.run(*arguments, *command.at(tmp_path / "out")), 1, path)
        assert not (tmp_path / "out").exists()


def sources_of(command):
    names = ("data", "data_root", "images", "source", "res_root", "ref")
    return [n for n in names if command.has(f"--{n}") and f"--{n}" not in command.foreign]


@pytest.mark.parametrize("command", filter(sources_of, ALL), ids=lambda command: command.name)
def test_sources_that_are_none_are_told(command, shelf, tmp_path):
    (tmp_path / "text.zip").write_text("text")
    for option in sources_of(command):
        for name in ("none.zip", "text.zip"):
            path = tmp_path / name
            arguments = given(command, shelf, **{option: path})
            refused(command.run(*arguments, *command.at(tmp_path / "out")), 1, path)
            assert not list((tmp_path / "out").glob("*"))


@every_writer
def test_a_file_in_a_folders_place_stays(command, shelf, tmp_path):
    (tmp_path / "x").write_text("precious")
    # A file of results has a folder itself, which is not the one in whose place it is.
    for folder in (tmp_path / "x", tmp_path / "x" / "y" / "z")[bool(command.file) :]:
        result = command.run(*command.given(shelf), *command.at(folder))
        refused(result, result.code, tmp_path / "x")
        assert result.code in (1, 2)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@some_commands("--overwrite")
def test_no_result_is_replaced_unless_asked(command, shelf, tmp_path):
    made = [path for path in shelf.done(command.name).iterdir() if command.keeps(path)]
    folder = tmp_path / "new"
    for path in made:
        folder = tmp_path / path.name
        folder.mkdir()
        shutil.copy(path, folder)
        before = contents(folder)
        result = command.run(*command.given(shelf), *command.at(folder))
        refused(result, 2, folder / path.name, "--overwrite")
        assert contents(folder) == before


@pytest.mark.parametrize("name", ["toy_train", "train"])
def test_a_run_is_never_replaced(name, shelf, tmp_path):
    command, before = COMMANDS[name], contents(shelf.done(name))
    result = command.run(*command.given(shelf), *command.at(shelf.done(name)))
    refused(result, 2, "already contains a run", "--resume")
    assert contents(shelf.done(name)) == before


@of_commands([command for command in ALL if command.place], "posterior compare")
def test_a_full_disk_leaves_no_file(command, shelf, tmp_path):
    arguments, folder = command.given(shelf), tmp_path / "out"
    largest = max(path.stat().st_size for path in shelf.done(command.name).rglob("*"))
    with full_disk(largest // 2):
        result = command.run(*arguments, *command.at(folder))
    assert result.code == 1
    assert str(folder) in result.error
    whole = shelf.done(command.name)
    for name, content in contents(folder).items():
        assert not name.startswith(".")
        assert len(content) <= largest // 2
        # Parts of an unfinished posterior stay, so that it goes on.
        assert (whole / name).exists() or "events" in name or ".part/" in name


@every_command
def test_no_progress_is_shown_in_a_pipe_and_parameters_are_beside_the_results(command, shelf):
    result = good(shelf.result(command.name))
    assert "Wrote" in result.out or command.name in ("fid calc", "info")
    assert "\r" not in result.out
    assert not list(shelf.done(command.name).rglob(".*"))
    got = [json.loads(path.read_text()) for path in shelf.done(command.name).glob("*.json")]
    assert len(got) == (command.name not in ("visualize", "report", "info"))
    for text in got:
        several = {name: value for name, value in text.items() if isinstance(value, dict)}
        runs = text.get("runs")
        alone = [text] if "options" in text else several.values()
        for one in runs if isinstance(runs, list) else alone:
            names = {option.name.rstrip("_") for option in command.options}
            assert names <= set(one["options"])
            assert one["code_version"] == dnnlib.__version__
            assert one["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
            assert one["command"][0] == f"{command.script.__name__}.py"
            assert one.get("seconds", 1) > 0


@of_commands(
    ALL,
    *(name for name in BY_FIRST_RANK if name not in ("ask predict", "import_network")),
    *("posterior compare", "toy_pfODE_int discrete", "toy_pfODE_int exact"),
)
def test_two_ranks_give_what_one_gives_also_in_its_place(command, shelf, two_ranks, tmp_path):
    whole, folder = shelf.done(command.name), tmp_path / "out"
    folder.mkdir()
    arguments = [*command.given(shelf), *command.at(folder)]
    if command.has("--overwrite"):
        for path in filter(command.keeps, whole.iterdir()):
            shutil.copy(path, folder)
        arguments.append("--overwrite")
    if command.name in BY_FIRST_RANK:  # the other need not be there, and does nothing
        ranks = ({"RANK": rank, "WORLD_SIZE": "2"} for rank in "10")
        other, first = (command.run(*arguments, ranks=each) for each in ranks)
    else:
        first, other = two_ranks.call(run_named, command.name, *arguments)
    assert (first.code, first.err) == (0, "")
    assert (other.code, other.out, other.err) == (0, "", "")
    assert len(first.out.splitlines()) == len(shelf.result(command.name).out.splitlines())
    assert_same(outcome(folder), outcome(whole), command.tolerance)


@pytest.mark.slow
def test_torchrun_tells_an_error_once(tmp_path):
    script = ROOT / "toy_pfODE_int.py"
    wrong = ("exact", "--save_dir=x", "--data_name=circles", "--data_dim=3", "--device_name=cpu")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = [sys.executable, *torchrun, str(script), *wrong]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "toy_pfODE_int.py: error:" in line]
    assert "data_dim is 3" in line
    assert f'File "{script}"' not in done.stderr
    assert list(tmp_path.iterdir()) == []


# All open a network in one way.
@some_commands(
    "--calibration",
    slow=sorted({*COMMANDS} - {"toy_pfODE_int net", "pfODE_int", "posterior check"}),
)
def test_a_calibration_is_used_by_default(command, shelf, tmp_path):
    network = next(text for text in command.given(shelf) if text.startswith("--network="))
    model = TrainedNetwork.load(network.partition("=")[2], calibrated=False)
    model.save(tmp_path / "plain.pkl")
    times = torch.linspace(0, model.about["tmax"], 5, dtype=torch.float64)
    slopes = torch.full((5, model.about["data_dim"]), 0.1, dtype=torch.float64)
    model.denoiser.calibration = Calibration(times, torch.ones_like(slopes), slopes)
    model.save(tmp_path / "calibrated.pkl")

    def numbers(network, *more):
        """What depends on the network alone: arrays of numbers, and images."""
        folder = tmp_path / "-".join(["of", network, *more])
        arguments = given(command, shelf, network=tmp_path / f"{network}.pkl")
        arguments = [text for text in arguments if text not in DENSITIES]
        assert command.run(*arguments, *more, *command.at(folder)).code == 0
        got = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        for path in (*folder.glob("*.npz"), *folder.glob("*.nc")):
            arrays = load_arrays(path) if path.suffix == ".npz" else read_netcdf(path)
            got[path.name] = {name: x for name, x in arrays.items() if x.dtype.kind == "f"}
        assert got
        return got

    absent = numbers("plain")
    assert_same(numbers("calibrated", "--no-calibration"), absent, 0)
    with pytest.raises(AssertionError):
        assert_same(numbers("calibrated"), absent, 1e-6)
