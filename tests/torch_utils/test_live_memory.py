"""Bytes that live are counted by storage, and while they live."""

import platform

import torch

from dnnlib.memory import keep_freed_memory
from torch_utils.live_memory import GRAIN, LiveMemory


def test_storages_count_once_in_whole_grains_and_until_they_are_let_go() -> None:
    with LiveMemory() as memory:
        large = torch.zeros(GRAIN)
        small = torch.ones(1)
        assert memory.now == memory.peak == 4 * GRAIN + GRAIN
        view = large.view(2, -1)[0]
        del large
        assert memory.now == 5 * GRAIN
        view.add_(1)
        del view
        assert (memory.now, memory.peak) == (GRAIN, 5 * GRAIN)
        memory.restart()
        assert memory.peak == GRAIN
    assert float(small) == 1


def test_what_waits_for_the_backward_pass_counts() -> None:
    weights = torch.ones(GRAIN, requires_grad=True)
    with LiveMemory() as memory:
        loss = weights.exp().sum()
        assert memory.now == 4 * GRAIN + GRAIN  # the exponential, which is its own derivative
        loss.backward()
        del loss
        assert memory.now == 4 * GRAIN  # the gradient


def test_memory_is_kept_where_the_c_library_is_glibc() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
