"""The same bytes by the same seed, full disks, and processes and ranks that die."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import dataloader

import toy_train
import train
from dnnlib.errors import DataError
from tests.support.finished_runs import SHORT_TOY
from tests.support.image_runs import SHORT, same_end
from tests.support.outcomes import assert_same, outcome
from tests.support.running import good, run_script, trained
from torch_utils import distributed
from training.data.images.dataset import ImageBatches, ImageDataset
from training.learning.run_folder import (
    Resumed,
)
from training.learning.trainer import Trainer

STEPS = 12
ROOT = Path(__file__).parents[2]
NEVER = -1


@pytest.mark.hostile
def test_a_seed_gives_the_same_bytes_twice_and_another_others(blobs, tmp_path):
    options = (f"--data={blobs}", *SHORT, "--augment=0.5", "--no-calibrate")
    files = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        paths = trained(tmp_path / name, train, *options, f"--seed={seed}").glob("[nt]*-*-*.p*")
        files.append({path.name: path.read_bytes() for path in paths})
    assert len(files[0]) >= 3
    assert files[0] == files[1] != files[2]


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    """torch looks after its workers every five seconds."""
    # Where PyTorch has moved this, leave it out: the tests are only slower.
    iterator = dataloader._MultiProcessingDataLoaderIter
    monkeypatch.setattr(iterator._try_get_data, "__defaults__", (0.2,))


def start(blobs, outdir, *options):
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={blobs}")
    short = (f"--duration={50 * STEPS / 1e6}", "--no-calibrate")
    return run_script(train, *place, *SHORT, *short, *options)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.hostile)])
def test_a_worker_that_dies_is_started_again_without_a_loss(blobs, tmp_path, monkeypatch, workers):
    assert start(blobs, tmp_path / "unbroken").code == 0
    train_step = Trainer.train_step

    def step_and_kill(self, *arguments):
        train_step(self, *arguments)
        if self.step in (3, 7):
            worker = next(child for child in multiprocessing.active_children() if child.daemon)
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(Trainer, "train_step", step_and_kill)
    result = good(start(blobs, tmp_path / "killed", f"--workers={workers}"))
    assert result.out.count("a process that reads") == 2
    assert same_end(tmp_path / "unbroken", tmp_path / "killed")


def test_workers_that_always_die_end_the_run_with_one_line(blobs, tmp_path, monkeypatch):
    read, home = ImageDataset.read, os.getpid()

    def read_or_die(self, items):
        if os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, items)

    monkeypatch.setattr(ImageDataset, "read", read_or_die)
    result = start(blobs, tmp_path / "run", "--workers=1")
    assert result.code == 1
    assert f"a process that reads {blobs} died" in result.error


def test_a_dead_worker_is_told_where_data_is_waited_for_only(blobs):
    before = signal.getsignal(signal.SIGCHLD)
    batches = ImageBatches(ImageDataset(blobs), 50, 0, torch.device("cpu"), 1).batches(0)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) is before
    batches.close()


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def on_two_nodes(script, folders, *options, port):
    """Two launches of ``torchrun`` that are the nodes of one run, each in its folder."""
    nodes = []
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        command += [f"--node-rank={number}", "--nproc-per-node=1", "--master-addr=localhost"]
        command += [f"--master-port={port}", str(ROOT / script), *options]
        own = {**os.environ, "PYTHONPATH": str(ROOT)}
        piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        nodes.append(subprocess.Popen(command, cwd=folder, env=own, **piped))
    return [(node.communicate(timeout=300)[0], node.returncode) for node in nodes]


@pytest.mark.slow
def test_two_nodes_train_what_one_process_does_with_and_without_a_shared_folder(tmp_path):
    options = ("--outdir=run", "--nosubdir", *SHORT_TOY)
    trained(tmp_path / "alone", toy_train, *SHORT_TOY)
    folders = (tmp_path / "shared", tmp_path / "shared")
    texts = on_two_nodes("toy_train.py", folders, *options, port=free_port())
    assert [code for _, code in texts] == [0, 0], texts
    assert "not all ranks find" not in texts[0][0]
    assert_same(outcome(folders[0] / "run"), outcome(tmp_path / "alone"), 1e-5)
    apart = (tmp_path / "first", tmp_path / "second")
    texts = on_two_nodes("toy_train.py", apart, *options, port=free_port())
    assert [code for _, code in texts] == [0, 0], texts
    assert "not all ranks find run: only the first node has the results" in texts[0][0]
    assert_same(outcome(apart[0] / "run"), outcome(tmp_path / "alone"), 1e-5)
    assert not [*apart[1].rglob("network-snapshot-*")]


def resumed_by_rank(paths):
    with distributed.process_group("cpu"):
        try:
            return Resumed.for_all_ranks(paths[distributed.rank()])
        except DataError as error:
            return str(error)


def test_ranks_that_would_start_from_different_states_are_refused(two_ranks, tmp_path):
    trained(tmp_path, toy_train, *SHORT_TOY)
    assert two_ranks.call(resumed_by_rank, [None, None]) == [None, None]
    for text in two_ranks.call(resumed_by_rank, [tmp_path, None]):
        assert "(training-state-000006.pt, none): give an --outdir that all nodes share" in text
