"""The same bytes by the same seed, full disks, and processes that read data and die."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader

import toy_train
import train
from tests.support.finished_runs import SHORT_TOY
from tests.support.image_runs import SHORT, same_end
from tests.support.outcomes import assert_same, outcome
from tests.support.running import full_disk, good, run_script, torch_settings_put_back, trained
from training.data.images.batches import ImageBatches
from training.data.images.dataset import ImageDataset
from training.learning.trainer import Trainer


@pytest.mark.hostile
def test_a_seed_gives_the_same_bytes_twice_and_another_others(blobs: Path, tmp_path: Path) -> None:
    options = (f"--data={blobs}", *SHORT, "--augment=0.5", "--no-calibrate", "--deterministic")
    files = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        place = (f"--outdir={tmp_path / name}", "--nosubdir", f"--seed={seed}")
        good(run_script(train, *place, *options))
        paths = (tmp_path / name).glob("[nt]*-*-*.p*")
        files.append({path.name: path.read_bytes() for path in paths})
    assert len(files[0]) >= 3
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("flags", [[], ["--deterministic"]])
def test_pytorch_is_told_and_resumed_runs_remember(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    seen = []
    train_step = Trainer.train_step

    def look(self: Trainer, *arguments: Any) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", look)
    place = (f"--outdir={tmp_path / 'run'}", "--nosubdir")
    assert run_script(toy_train, *place, *SHORT_TOY, *flags).code == 0
    (tmp_path / "run" / "training-state-000006.pt").unlink()
    with torch_settings_put_back():
        torch.use_deterministic_algorithms(not flags)
        assert run_script(toy_train, f"--resume={tmp_path / 'run'}").code == 0
    assert set(seen) == {bool(flags)}
    assert len(seen) > 12


def results(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("[nt]*-*-*.p*")}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    return trained(folder, toy_train, "--keep=9", *SHORT_TOY)


# A state is about four times as large as a network.
@pytest.mark.parametrize(("what", "share"), [("training-state-", 0.99), ("network-snapshot-", 0.1)])
def test_training_keeps_its_last_good_state_and_goes_on_when_there_is_space(
    unbroken: Path, tmp_path: Path, what: str, share: float
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for number in (4, 5, 6):
        for name in (f"training-state-00000{number}.pt", f"network-snapshot-00000{number}.pkl"):
            (folder / name).unlink(missing_ok=True)
    before = results(folder)
    good = {name: path.read_bytes() for name, path in before.items()}
    size = (folder / "training-state-000003.pt").stat().st_size
    with full_disk(int(share * size)):
        result = run_script(toy_train, f"--resume={folder}")
    assert result.code == 1
    assert f"{folder / what}000004" in result.error
    after = {name: path.read_bytes() for name, path in results(folder).items()}
    assert {name: after[name] for name in good} == good
    assert "training-state-000004.pt" not in after
    assert not list(folder.rglob(".*"))
    assert run_script(toy_train, f"--resume={folder}").code == 0
    assert_same(outcome(folder), outcome(unbroken))


STEPS = 12


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks after its workers every five seconds."""
    # Where PyTorch has moved this, leave it out: the tests are only slower.
    iterator = dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator._try_get_data, "__defaults__", (0.2,))


def start(blobs: Path, outdir: Path, *options: str) -> Any:
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={blobs}")
    short = (f"--duration={50 * STEPS / 1e6}", "--no-calibrate")
    return run_script(train, *place, *SHORT, *short, *options)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.hostile)])
def test_a_worker_that_dies_is_started_again_and_nothing_is_lost(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    assert start(blobs, tmp_path / "unbroken").code == 0
    train_step = Trainer.train_step

    def step_and_kill(self: Trainer, *arguments: Any) -> None:
        train_step(self, *arguments)
        if self.step in (3, 7):
            worker = next(child for child in multiprocessing.active_children() if child.daemon)
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(Trainer, "train_step", step_and_kill)
    result = good(start(blobs, tmp_path / "killed", f"--workers={workers}"))
    assert result.out.count("a process that reads") == 2
    assert same_end(tmp_path / "unbroken", tmp_path / "killed")


def test_workers_that_always_die_end_the_run_with_one_line(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, home = ImageDataset.read, os.getpid()

    def read_or_die(self: ImageDataset, items: list[int]) -> Any:
        if os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, items)

    monkeypatch.setattr(ImageDataset, "read", read_or_die)
    result = start(blobs, tmp_path / "run", "--workers=1")
    assert result.code == 1
    assert f"a process that reads {blobs} died" in result.error


def test_a_dead_worker_is_told_where_data_is_waited_for_only(blobs: Path) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = ImageBatches(ImageDataset(blobs), 50, 0, torch.device("cpu"), 1).batches(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    batches.close()
