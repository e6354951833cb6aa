"""Processes that read data and die: the run goes on with new ones, or ends with one line."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader

import train
from tests.support.image_runs import SHORT, same_end
from tests.support.running import Run
from training.data.images.batches import ImageBatches
from training.data.images.dataset import ImageDataset
from training.learning.trainer import Trainer

STEPS = 12


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks after its workers every five seconds."""
    # Where PyTorch has moved this, leave it out: the tests are only slower.
    iterator = dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator._try_get_data, "__defaults__", (0.2,))


def start(run_script: Run, blobs: Path, outdir: Path, *options: str) -> Any:
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={blobs}")
    short = (f"--duration={50 * STEPS / 1e6}", "--no-calibrate")
    return run_script(train, *place, *SHORT, *short, *options)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.hostile)])
def test_a_worker_that_dies_is_started_again_and_nothing_is_lost(
    run_script: Run, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    assert start(run_script, blobs, tmp_path / "unbroken").code == 0
    train_step = Trainer.train_step

    def step_and_kill(self: Trainer, *arguments: Any) -> None:
        train_step(self, *arguments)
        if self.step in (3, 7):
            worker = next(child for child in multiprocessing.active_children() if child.daemon)
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(Trainer, "train_step", step_and_kill)
    result = start(run_script, blobs, tmp_path / "killed", f"--workers={workers}")
    assert (result.code, result.err) == (0, "")
    assert result.out.count("a process that reads") == 2
    assert same_end(tmp_path / "unbroken", tmp_path / "killed")


def test_workers_that_always_die_end_the_run_with_one_line(
    run_script: Run, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, home = ImageDataset.read, os.getpid()

    def read_or_die(self: ImageDataset, items: list[int]) -> Any:
        if os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, items)

    monkeypatch.setattr(ImageDataset, "read", read_or_die)
    result = start(run_script, blobs, tmp_path / "run", "--workers=1")
    assert result.code == 1
    assert f"a process that reads {blobs} died" in result.error


def test_a_dead_worker_is_told_where_data_is_waited_for_only(blobs: Path) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = ImageBatches(ImageDataset(blobs), 50, 0, torch.device("cpu"), 1).batches(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    batches.close()
