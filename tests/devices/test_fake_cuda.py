"""The pretended cards: they refuse what real ones do, and count who waits for them."""

import pytest
import torch

from tests.support.fake_cuda import FakeCuda

HERE = "tests/devices/test_fake_cuda.py"


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


def test_host_reads_and_uploads_are_counted_by_their_lines(cuda: FakeCuda) -> None:
    x = torch.tensor([1.0, -2.0], device="cuda")
    assert sum(cuda.uploads.values()) == 1
    (x * 2 + x.abs().cumsum(0)).sort()
    torch.where(x > 0, x, 0.0)
    assert not cuda.reads
    looks = (
        lambda: float(x[0]),
        lambda: bool((x > 0).any()),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x.nonzero(),
        lambda: x[x > 0],
        lambda: x.index_put_((x > 0,), x[0]),
        lambda: torch.equal(x, x),
        lambda: torch.linalg.inv(x[None, :1] + 1),
    )
    for count, look in enumerate(looks, start=1):
        look()
        assert sum(cuda.reads.values()) == count
    assert all(line.startswith(HERE) for line in cuda.reads)
