"""Training on a card, which card a process takes, and what it needs."""

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from dnnlib.errors import UsageError
from tests.support.draws import normal
from tests.support.fake_cuda import FakeCuda, fake_cuda
from tests.support.running import slowly
from tests.support.trainers import (
    BATCH,
    NETWORKS,
    Repeated,
    points_and_labels,
    run_steps,
    tensors_of,
    trainer_on,
)
from torch_utils import distributed
from training.learning.targets import MOST_NEAR
from training.learning.trainer import Trainer

CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
"""The second card is not the current one, which ``cuda`` without a number means."""


def assert_on_card(trainer: Trainer) -> None:
    assert {tensor.device for tensor in tensors_of(trainer)} == {CARD}


@pytest.mark.parametrize(
    "name", slowly(NETWORKS, "ADM", "NCSN++ of augmented images", "ToySongUNet")
)
def test_a_step_on_a_card_is_that_of_the_cpu(name: str) -> None:
    expected = run_steps(*trainer_on(CPU, name)).collect()
    with fake_cuda(devices=2):
        trainer, source = trainer_on(CARD, name)
        got = run_steps(trainer, source).collect()
        assert_on_card(trainer)
    assert trainer.skipped == 0
    for statistic in ("Loss/loss", "Gradient/norm"):
        assert got[statistic] == pytest.approx(expected[statistic], rel=1e-3)


@pytest.mark.parametrize("precision", slowly(["bf16", "fp16"], "fp16"))
def test_lower_precisions_and_microbatches(cuda: FakeCuda, precision: str) -> None:
    settings = {"loss_scale": 2.0**-6, "batch_gpu": 3, "weight_decay": 0.1}
    trainer, source = trainer_on(CARD, "ADM", precision, **settings)
    means = run_steps(trainer, source)
    assert_on_card(trainer)
    assert trainer.skipped == 0
    expected = run_steps(*trainer_on(CPU, "ADM")).collect()["Loss/loss"]["mean"]
    assert means.collect()["Loss/loss"]["mean"] == pytest.approx(expected, rel=0.1)


def test_steps_wait_for_nothing(cuda: FakeCuda) -> None:
    trainer, source = trainer_on(CARD, "ensemble with conditions", batch_gpu=2)
    run_steps(trainer, source)
    cuda.reads.clear()
    cuda.uploads.clear()
    run_steps(trainer, source, steps=3)
    assert sum(cuda.reads.values()) == 0, cuda.reads
    # Points and conditions, which these batches have on the CPU.
    assert sum(cuda.uploads.values()) == 3 * 2, cuda.uploads


def test_averaged_targets_of_a_card_are_those_of_the_cpu_and_wait_for_nothing() -> None:
    batch = points_and_labels("MLP")._replace(others=normal(3 * MOST_NEAR, 2, seed=2))
    trainer, _ = trainer_on(CPU, "MLP")
    run_steps(trainer, Repeated(batch))
    expected = run_steps(trainer, Repeated(batch)).collect()
    with fake_cuda(devices=2) as cuda:
        trainer, _ = trainer_on(CARD, "MLP")
        run_steps(trainer, Repeated(batch))
        cuda.reads.clear()
        means = run_steps(trainer, Repeated(batch))
        assert sum(cuda.reads.values()) == 0, cuda.reads
        got = means.collect()
    assert got["Loss/loss"] == pytest.approx(expected["Loss/loss"], rel=1e-6)


def test_augmentation_waits_and_sends_for_nothing(cuda: FakeCuda) -> None:
    _, source = trainer_on(CARD, "NCSN++ of augmented images")
    batches = source.batches(0)
    next(batches)
    cuda.reads.clear()
    cuda.uploads.clear()
    next(batches)
    assert not cuda.reads, cuda.reads
    assert not cuda.uploads, cuda.uploads


def test_dropout_on_a_card_that_is_not_the_current_one_is_seeded(cuda: FakeCuda) -> None:
    run_steps(*trainer_on(CARD, "MLP"))
    assert list(cuda.seeded) == [CARD.index]


def test_steps_that_are_not_finite_are_skipped_on_a_card(cuda: FakeCuda) -> None:
    trainer, source = trainer_on(CARD, "MLP")
    batch = next(iter(source.batches(0)))
    batch.points[BATCH - 1, 0] = torch.nan
    before = [weights.tolist() for weights in trainer.denoiser.parameters()]
    run_steps(trainer, source)
    assert (trainer.step, trainer.skipped) == (1, 1)
    assert [weights.tolist() for weights in trainer.denoiser.parameters()] == before


def test_a_state_goes_on_on_another_card(cuda: FakeCuda) -> None:
    trainer, source = trainer_on(torch.device("cuda", 0), "MLP")
    run_steps(trainer, source)
    moved, _ = trainer_on(CARD, "MLP")
    moved.restore(trainer.state(), "a state")
    assert_on_card(moved)
    expected = run_steps(trainer, source).collect()["Loss/loss"]
    assert run_steps(moved, source).collect()["Loss/loss"] == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_take_a_card_each(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    for name, value in {"WORLD_SIZE": 2, "RANK": 2 + rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))
    store: Any = dist.HashStore()
    with (
        mock.patch.object(distributed, "rendezvous", return_value=iter([(store, 2 + rank, 4)])),
        mock.patch.object(dist, "init_process_group") as init,
        distributed.process_group(None) as device,
    ):
        assert device == torch.device("cuda", rank)
        # NCCL and what says "cuda" without a number take the current one.
        assert torch.cuda.current_device() == rank
        assert init.call_args.args == ("nccl",)
        trainer, source = trainer_on(device, "MLP")
        run_steps(trainer, source)
        assert {tensor.device for tensor in tensors_of(trainer)} == {device}


def test_named_cards_are_taken_by_any_rank(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    with distributed.process_group("cuda:1") as device:
        assert device == torch.device("cuda", 1)
        assert torch.cuda.current_device() == 1


def test_ranks_count_the_cards_that_they_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """``CUDA_VISIBLE_DEVICES=3`` makes of the fourth card the first and only one."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    refused = pytest.raises(UsageError, match="1 was asked for, but there are 1")
    with fake_cuda(devices=1), refused, distributed.process_group(None):
        pass


def test_devices_do_not_mix(cuda: FakeCuda) -> None:
    first, second = torch.ones(2, device="cuda"), torch.ones(2, device="cuda:1")
    assert (first.device.index, second.device.index) == (0, 1)
    one = torch.tensor([0], device="cuda")
    with pytest.raises(RuntimeError, match="same device"):
        first + torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        first + second
    with pytest.raises(RuntimeError, match="index"):
        torch.ones(2)[one]
    with pytest.raises(RuntimeError, match="numpy"):
        first.numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, generator=torch.Generator("cuda"))
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, generator=torch.Generator(), device="cuda")
    # As on a card, numbers of the CPU and its indices go along.
    assert (first * torch.tensor(2.0))[torch.tensor([1])].tolist() == [2.0]
