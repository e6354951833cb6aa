"""Trainings that are stopped, killed and resumed: as if nothing had happened, or refused."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from tests.support.image_runs import (
    LONG,
    ROOT,
    SIDE,
    TINY,
    TWELVE,
    Contents,
    Run,
    load,
    same_end,
    stats,
    write_images,
)
from tests.support.running import refused
from torch_utils.snapshots import read_state, write_state
from training.data.images.batches import ImageBatches
from training.flow.eigenbasis import EigenBasis


def test_a_resumed_run_equals_an_unbroken_one_and_refits_nothing(
    run_script: Run, blobs: Path, twelve: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    result = run_script(train, f"--resume={folder}", "--workers=2", "--cache")
    assert (result.code, result.err) == (0, "")
    assert same_end(folder, twelve)
    assert [line["seen"] for line in stats(folder)] == [96, 192]


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The script in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, "train.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(group: int) -> bool:
    """Whether a process group has nobody left, after some time to go."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def wait_for_reports(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the run has made so many."""
    deadline = time.monotonic() + 120
    path = folder / "stats.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.hostile
def test_a_killed_run_can_go_on_as_if_nothing_had_happened(
    run_script: Run, blobs: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with started(f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG) as process:
        wait_for_reports(folder, 3, process)  # the last state is of the second
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert not (folder / "training-state-000004.pt").exists()
    with (folder / "stats.jsonl").open("a") as file:
        file.write('{"seen": 3050, "Lo')  # as if killed while writing
    result = run_script(train, f"--resume={folder}")
    assert (result.code, result.err) == (0, "")
    assert "training-state-000002.pt" in result.out
    assert same_end(folder, unbroken)
    reports = [[(x["seen"], x["Loss/loss"]) for x in stats(run)] for run in (folder, unbroken)]
    assert reports[0] == reports[1]


@pytest.mark.hostile
def test_a_signal_to_the_whole_group_saves_and_ends_with_one_line(
    run_script: Run, blobs: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with started(f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG) as process:
        wait_for_reports(folder, 1, process)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert ended(process.pid), "a worker stays behind"
    (line,) = err.splitlines()
    state = max(folder.glob("training-state-*.pt"))
    assert "SIGTERM" in line
    assert f"--resume={state}" in line
    result = run_script(train, f"--resume={state}")
    assert (result.code, result.err) == (0, "")
    assert same_end(folder, unbroken)


STATES_OF_GAINS = ("output_gain", "averaged_output_gain")


def test_an_output_gain_is_trained_averaged_and_kept(twelve: Path) -> None:
    gains = load(twelve).denoiser.output_gain.gains
    assert gains.shape[1] == SIDE**2
    assert 1e-3 < (gains - 1).abs().max() < 1
    state = read_state(max(twelve.glob("training-state-*.pt")))
    assert not torch.equal(*(state[key]["offsets"] for key in STATES_OF_GAINS))


@pytest.mark.parametrize("lost", STATES_OF_GAINS)
def test_a_state_without_the_output_gain_of_its_run_is_refused(
    lost: str, run_script: Run, twelve: Path, tmp_path: Path
) -> None:
    path = tmp_path / "training-state-000000.pt"
    state = read_state(max(twelve.glob("training-state-*.pt")))
    del state[lost]
    write_state(path, state)
    shutil.copy(twelve / "training_options.json", tmp_path)
    result = run_script(train, f"--resume={path}")
    refused(result, 1, lost)


@pytest.mark.parametrize(
    ("name", "value", "saved"),
    [
        ("lr", "0.1", "0.001"),
        ("seed", "7", "5"),
        ("batch", "100", "16"),
        ("arch", "adm", "ddpmpp"),
        ("augment", "0.1", "0.5"),
        ("dropout", "0.1", "0.3"),
        ("precision", "bf16", "fp32"),
        ("precond", "edm", "ifs"),
        ("dims_to_keep", "5", "64"),
        ("cbase", "16", "8"),
        ("cres", "2,2", "[1]"),
        ("data", "elsewhere.zip", "blobs.zip"),
        ("transfer", "other.pkl", "None"),
        ("outdir", "elsewhere", "twelve"),
    ],
)
def test_a_resumed_run_refuses_to_become_another(
    run_script: Run, twelve: Path, contents: Contents, name: str, value: str, saved: str
) -> None:
    before = contents(twelve)
    result = run_script(train, f"--resume={twelve}", f"--{name}={value}")
    assert (result.code, result.out) == (2, "")
    for part in (f"--{name}", saved):
        assert part in result.error
    assert contents(twelve) == before


@pytest.mark.parametrize("how", ["gone", "larger images", "more channels", "more classes"])
def test_a_run_whose_data_has_changed_cannot_be_resumed(
    run_script: Run, tmp_path: Path, contents: Contents, how: str
) -> None:
    data, folder = tmp_path / "data.zip", tmp_path / "out"
    random = np.random.default_rng(0)
    write_images(data, random.uniform(0, 255, (40, 8, 8, 1)), [0, 1] * 20)
    place = (f"--outdir={folder}", "--nosubdir", f"--data={data}", "--cond")
    # At 8 and at 32 pixels, one level has the same weights.
    assert run_script(train, *place, *TINY, "--cres=1").code == 0
    options = folder / "training_options.json"  # more is left to do
    saved = json.loads(options.read_text())
    saved["options"]["duration"] *= 2
    options.write_text(json.dumps(saved))
    if how == "gone":
        data.unlink()
    else:
        side, channels = (32 if how == "larger images" else 8), (3 if how == "more channels" else 1)
        labels = [0, 3] * 20 if how == "more classes" else [0, 1] * 20
        write_images(data, random.uniform(0, 255, (40, side, side, channels)), labels)
    before = contents(tmp_path)
    result = run_script(train, f"--resume={folder}")
    assert result.code in (1, 2)
    assert str(data) in result.error or str(folder) in result.error
    assert contents(tmp_path) == before
