"""The pretended cards: they refuse what real ones do, and count who waits for them."""

import pytest
import torch

from tests.support.fake_cuda import FakeCuda


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
