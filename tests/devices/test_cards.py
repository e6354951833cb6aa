"""Which card a rank takes, and pretended cards, which refuse what real ones do."""

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from dnnlib.errors import UsageError
from tests.support.card_training import tensors_of, trainer_on
from tests.support.fake_cuda import FakeCuda, fake_cuda
from tests.support.trainers import run_steps
from torch_utils import distributed


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
