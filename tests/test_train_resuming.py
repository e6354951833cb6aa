"""Trainings that are stopped and go on: as if nothing had happened, to the last bit, or refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import toy_train
import train
from tests.support.image_runs import (
    LONG,
    ROOT,
    SIDE,
    TINY,
    TWELVE,
    equal,
    load,
    network_file,
    same_end,
    stats,
    write_images,
)
from tests.support.running import contents, good, refused, run_script
from torch_utils.snapshots import read_state, write_state
from training.data.images.batches import ImageBatches
from training.flow.eigenbasis import EigenBasis
from training.subjects import image_training as job

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
    good(run_script(script, f"--resume={copy / location}"))
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
    request: pytest.FixtureRequest, fixture: str, option: str, parts: list[str]
) -> None:
    run: Path = request.getfixturevalue(fixture)
    before = contents(run)
    script = toy_train if fixture == "toy_run" else train
    name = option.removeprefix("--no-").removeprefix("--").partition("=")[0]
    refused(run_script(script, f"--resume={run}", option), 2, f"--{name}", *parts)
    assert contents(run) == before


def test_a_resumed_run_equals_an_unbroken_one_and_refits_nothing(
    blobs: Path, twelve: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ImageBatches.batches

    def stopping(self: ImageBatches, first_step: int) -> Iterator[Any]:
        for step, batch in enumerate(original(self, first_step), start=first_step):
            if step == 5:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    folder = tmp_path / "out"
    place = (f"--outdir={folder}", "--nosubdir", f"--data={blobs}")
    with monkeypatch.context() as patch:
        patch.setattr(ImageBatches, "batches", stopping)
        result = run_script(train, *place, *TWELVE)
    assert result.code == 128 + signal.SIGTERM
    assert f"--resume={folder / 'training-state-000000.pt'}" in result.error
    assert [line["seen"] for line in stats(folder)] == [96]

    def refuse(*arguments: object) -> None:
        pytest.fail("the basis was fitted again")

    monkeypatch.setattr(EigenBasis, "fit", refuse)
    good(run_script(train, f"--resume={folder}", "--workers=2", "--cache"))
    assert same_end(folder, twelve)
    assert [line["seen"] for line in stats(folder)] == [96, 192]


@pytest.mark.hostile
def test_signals_to_all_save_and_end_in_a_line(blobs: Path, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "train.py", f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((folder / "stats.jsonl").exists)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        wait_until(lambda: not is_there(process.pid))  # no worker stays behind
    finally:
        if is_there(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    (line,) = err.splitlines()
    state = max(folder.glob("training-state-*.pt"))
    assert "SIGTERM" in line
    assert f"--resume={state}" in line
    good(run_script(train, f"--resume={state}"))
    assert same_end(folder, unbroken)


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


STATES_OF_GAINS = ("output_gain", "averaged_output_gain")


def test_an_output_gain_is_trained_averaged_and_kept(twelve: Path) -> None:
    gains = load(twelve).denoiser.output_gain.gains
    assert gains.shape[1] == SIDE**2
    assert 1e-3 < (gains - 1).abs().max() < 1
    state = read_state(max(twelve.glob("training-state-*.pt")))
    assert not torch.equal(*(state[key]["offsets"] for key in STATES_OF_GAINS))


@pytest.mark.parametrize("lost", STATES_OF_GAINS)
def test_states_without_output_gain_are_refused(lost: str, twelve: Path, tmp_path: Path) -> None:
    path = tmp_path / "training-state-000000.pt"
    state = read_state(max(twelve.glob("training-state-*.pt")))
    del state[lost]
    write_state(path, state)
    shutil.copy(twelve / "training_options.json", tmp_path)
    refused(run_script(train, f"--resume={path}"), 1, lost)


@pytest.mark.slow
def test_a_precision_that_a_trial_has_found_is_kept(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def trial(*given: object) -> str:
        tried.append(given)
        return "bf16"

    monkeypatch.setattr(job, "fastest_precision", trial)
    folder = tmp_path / "out"
    place = (f"--outdir={folder}", "--nosubdir", f"--data={blobs}")
    short = ("--preset=auto", "--duration=0.000016", "--workers=0")
    assert run_script(train, *place, *TWELVE, *short).code == 0
    saved = json.loads((folder / "training_options.json").read_text())
    assert saved["options"]["precision"] == "bf16"
    assert run_script(train, f"--resume={folder}").code == 0
    assert len(tried) == 1


# Data that is gone, larger, in color, or of more classes, of which the last number is the last.
CHANGED_DATA = [(0, 0, 0), (32, 1, 1), (8, 3, 1), (8, 1, 3)]


def test_a_run_whose_data_has_changed_cannot_be_resumed(tmp_path: Path) -> None:
    data, folder = tmp_path / "data.zip", tmp_path / "out"
    random = np.random.default_rng(0)
    write_images(data, random.uniform(0, 255, (40, 8, 8, 1)), [0, 1] * 20)
    place = (f"--outdir={folder}", "--nosubdir", f"--data={data}", "--cond")
    # At 8 and at 32 pixels, one level has the same weights.
    assert run_script(train, *place, *TINY).code == 0
    options = folder / "training_options.json"  # more is left to do
    saved = json.loads(options.read_text())
    saved["options"]["duration"] *= 2
    options.write_text(json.dumps(saved))
    for side, channels, last in CHANGED_DATA:
        data.unlink()
        if side:
            write_images(data, random.uniform(0, 255, (40, side, side, channels)), [0, last] * 20)
        before = contents(tmp_path)
        result = run_script(train, f"--resume={folder}")
        assert result.code in (1, 2)
        assert str(data) in result.error or str(folder) in result.error
        assert contents(tmp_path) == before
        data.touch()
