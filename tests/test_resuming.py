"""A training that was stopped and goes on ends as an unbroken one does, to the last bit.

``test_train_resuming`` has the training on images, which a signal stops.
"""

import shutil
from pathlib import Path
from types import ModuleType

import pytest

import toy_train
import train
from tests.support.image_runs import equal, network_file, same_end, stats
from tests.support.running import Contents, Run, refused
from torch_utils.snapshots import read_state

# The script, the fixture of a finished run, its states that are lost, and what is resumed.
KINDS = {
    "a toy": (toy_train, "toy_run", (6, 8), "training-state-000004.pt"),
    "a table with its best weights": (train, "houses_run", (3, 4), ""),
    "a table for any question": (train, "questions_run", (3, 4), ""),
    "a table with conditions": (train, "simulations", (3, 4), ""),
}


@pytest.mark.parametrize(("script", "fixture", "lost", "location"), KINDS.values(), ids=KINDS)
def test_a_resumed_training_equals_an_unbroken_one(
    request: pytest.FixtureRequest,
    run_script: Run,
    tmp_path: Path,
    script: ModuleType,
    fixture: str,
    lost: tuple[int, ...],
    location: str,
) -> None:
    whole, copy = request.getfixturevalue(fixture), tmp_path / "copy"
    whole = whole / "run" if fixture == "simulations" else whole
    shutil.copytree(whole, copy)
    states = [f"training-state-{number:06d}.pt" for number in lost]
    for name in (*states, network_file(whole).name):
        (copy / name).unlink()
    # It was stopped in the middle of a line.
    lines = (copy / "stats.jsonl").read_text().splitlines(keepends=True)
    (copy / "stats.jsonl").write_text("".join(lines[: lost[0] - 1]) + lines[lost[0] - 1][:20])
    result = run_script(script, f"--resume={copy / location}")
    assert (result.code, result.err) == (0, "")
    assert all(equal(read_state(copy / name), read_state(whole / name)) for name in states)
    assert same_end(copy, whole)
    one, other = (
        [(line["seen"], line["Loss/loss"]) for line in stats(run)] for run in (copy, whole)
    )
    assert one == other
    options, log = "training_options.json", "log.txt"
    assert (copy / options).read_bytes() == (whole / options).read_bytes()
    assert len((copy / log).read_text()) > len((whole / log).read_text())


# The fixture of a run, an option with another value, and how the refusal names both values.
OTHERS = [
    ("toy_run", "--data_name=moons", ["moons", "circles"]),
    ("toy_run", "--outdir=elsewhere", ["elsewhere", "toy"]),
    ("toy_run", "--no-calibrate", ["False", "True"]),
    ("houses_run", "--xflip", []),
    ("twelve", "--seed=7", ["7", "5"]),
    ("twelve", "--cres=2,2", ["[1]"]),
    ("twelve", "--data=.", ["blobs.zip"]),
    ("twelve", "--transfer=other.pkl", ["None"]),
]


@pytest.mark.parametrize(("fixture", "option", "parts"), OTHERS)
def test_a_resumed_run_refuses_to_become_another(
    request: pytest.FixtureRequest,
    run_script: Run,
    contents: Contents,
    fixture: str,
    option: str,
    parts: list[str],
) -> None:
    run: Path = request.getfixturevalue(fixture)
    before = contents(run)
    script = toy_train if fixture == "toy_run" else train
    name = option.removeprefix("--no-").removeprefix("--").partition("=")[0]
    refused(run_script(script, f"--resume={run}", option), 2, f"--{name}", *parts)
    assert contents(run) == before
