"""Processes that read data and die: the run goes on with new ones, or ends with one line."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import dataloader

import train
from tests.reliability.jobs import IMAGE_TRAINING, write_images
from tests.reliability.whole import differences, results
from training.data.images.batches import ImageBatches
from training.data.images.dataset import ImageDataset
from training.learning.trainer import Trainer

Run = Callable[..., Any]
STEPS = 12


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks after its workers every five seconds."""
    # Where PyTorch has moved this, leave it out: the tests are only slower.
    iterator = dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator._try_get_data, "__defaults__", (0.2,))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "set.zip")
    return tmp_path / "set.zip"


def start(run_script: Run, images: Path, outdir: Path, *options: str) -> Any:
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={images}")
    short = (f"--duration={50 * STEPS / 1e6}", "--no-calibrate")
    return run_script(train, *place, *IMAGE_TRAINING, *short, *options)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.hostile)])
def test_a_worker_that_dies_is_started_again_and_nothing_is_lost(
    run_script: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    assert start(run_script, images, tmp_path / "unbroken").code == 0
    train_step = Trainer.train_step

    def step_and_kill(self: Trainer, *arguments: Any) -> None:
        train_step(self, *arguments)
        if self.step in (3, 7):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    monkeypatch.setattr(Trainer, "train_step", step_and_kill)
    result = start(run_script, images, tmp_path / "killed", f"--workers={workers}")
    assert (result.code, result.err) == (0, "")
    assert result.out.count("a process that reads") == 2
    assert differences(results(tmp_path / "unbroken"), results(tmp_path / "killed")) == []


def test_workers_that_always_die_end_the_run_with_one_line(
    run_script: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, home = ImageDataset.read, os.getpid()

    def read_or_die(self: ImageDataset, items: list[int]) -> Any:
        if os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, items)

    monkeypatch.setattr(ImageDataset, "read", read_or_die)
    result = start(run_script, images, tmp_path / "run", "--workers=1")
    assert result.code == 1
    assert f"a process that reads {images} died" in result.error


def test_a_dead_worker_is_told_where_data_is_waited_for_only(images: Path) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = ImageBatches(ImageDataset(images), 50, 0, torch.device("cpu"), 1).batches(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    batches.close()
