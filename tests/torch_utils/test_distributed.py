"""Ranks, devices, threads and seeds."""

import os
from itertools import chain, product, repeat
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnnlib.errors import DataError, UsageError
from tests.support.rank_pool import RankPool
from torch_utils import distributed, threads
from torch_utils.distributed import gather_rows, is_main, process_group, shard, sum_over_ranks
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.stats import RunningMeans
from torch_utils.threads import CHOSEN_BY_USER, cpu_threads, idle_cores


@given(count=st.integers(0, 2000), ranks=st.integers(1, 64))
def test_shares_are_a_partition_in_order(count: int, ranks: int) -> None:
    shares = []
    for index in range(ranks):
        with (
            mock.patch.object(distributed, "world_size", return_value=ranks),
            mock.patch.object(distributed, "rank", return_value=index),
        ):
            shares.append(range(count)[shard(count)])
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_lone_process_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank_from_environment(), distributed.world_from_environment()) == (0, 1)
    assert (distributed.rank(), distributed.world_size(), is_main()) == (0, 1, True)
    distributed.barrier()
    values = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(sum_over_ranks(values.clone()), values)
    assert torch.equal(gather_rows(values, 2), values)
    assert torch.equal(gather_rows(values, 3, dim=1), values)
    assert shard(5) == slice(0, 5)


def test_the_environment_tells_rank_and_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert (distributed.rank_from_environment(), distributed.world_from_environment()) == (2, 5)


def test_a_lone_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()


def test_single_precision_is_no_tf32_in_a_script_and_as_before_after_it() -> None:
    def settings() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with process_group("cpu"):
        assert settings() == (False, False)
    assert settings() == before


def test_the_default_device_is_cuda_where_there_is_one() -> None:
    with process_group(None) as device:
        assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")


UNKNOWN = ("tpu", "", "cuda:x", "cuda:-1", "CPU", "mps", "meta", "gpu:0")


@pytest.mark.parametrize(
    ("name", "devices", "reason"),
    [
        *((name, 0, f"{name}.*cpu") for name in UNKNOWN),
        *((name, 0, f"{name}.*no CUDA.*cpu") for name in ("cuda", "cuda:0", "cuda:3")),
        ("cuda:5", 2, "5.*there are 2"),
    ],
)
def test_devices_that_are_not_there_are_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: int, reason: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    with pytest.raises(UsageError, match=reason), process_group(name):
        pass


def test_memory_that_runs_out_is_told_in_a_sentence() -> None:
    with pytest.raises(DataError, match=r"out of memory.*smaller"), process_group("cpu"):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass_and_the_group_is_left() -> None:
    with pytest.raises(ZeroDivisionError), process_group("cpu"):
        raise ZeroDivisionError
    assert not torch.distributed.is_initialized()


def gathered() -> dict[str, Any]:
    """What one of two ranks finds."""
    with process_group("cpu") as device:
        got: dict[str, Any] = {
            "backend": torch.distributed.get_backend(),
            "place": (distributed.rank(), distributed.world_size(), is_main()),
            "sum": sum_over_ranks(torch.tensor([1.0, distributed.rank()])).tolist(),
        }
        for count in (1, 2, 5, 8):
            rows = torch.arange(float(count * 3)).reshape(count, 3)
            deep = torch.arange(float(4 * count * 2)).reshape(4, count, 2)
            assert torch.equal(gather_rows(rows[shard(count)], count), rows)
            assert torch.equal(gather_rows(deep[:, shard(count)], count, dim=1), deep)
        means = RunningMeans(device)
        means.add("a", torch.arange(7.0)[shard(7)])
        got["means"] = means.collect()["a"]
        distributed.barrier()
    return {**got, "left": not torch.distributed.is_initialized()}


def test_two_ranks_gather_sum_and_average_alike(two_ranks: RankPool) -> None:
    for rank, got in enumerate(two_ranks.call(gathered)):
        assert (got["backend"], got["place"]) == ("gloo", (rank, 2, rank == 0))
        assert got["sum"] == [2.0, 1.0]
        assert got["means"] == {"mean": 3.0, "std": 2.0, "count": 7.0}
        assert got["left"]


def test_ranks_that_cannot_meet_are_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="did not find each other"), process_group("cpu"):
        pass


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Threads of PyTorch: the four that there are, and all that are asked for."""
    for name in CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    asked = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    return asked


@pytest.mark.parametrize(
    ("idle", "useful", "expected"),
    [
        *(([8.0], None, 4), ([3.6], None, 4), ([2.4], None, 2), ([0.1], None, 1)),
        ([1.2, 4.0], None, 4),  # a burst of work is not a busy machine
        *(([3.0], 1, 1), ([3.0], 2, 2), ([3.0], 8, 3)),
    ],
)
def test_as_many_threads_as_are_idle_and_useful_are_taken_until_the_work_is_done(
    idle: list[float],
    useful: int | None,
    expected: int,
    counts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = chain(idle, repeat(idle[-1]))
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: next(looks))
    with cpu_threads(useful=useful):
        assert counts[-1] == expected
    assert counts[-1] == 4


def test_what_somebody_said_counts(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for wanted, useful, expected in ((1, None, 1), (2, 1, 2), (64, None, 2)):
        with cpu_threads(wanted, useful=useful):
            assert counts[-1] == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with cpu_threads(useful=1):
        assert counts[-1] == 4


def test_idle_cores_are_those_that_did_nothing_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LOOK", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    looks = iter([[100, 0, 50, 400, 20, 0, 0, 0], [110, 0, 55, 440, 25, 0, 0, 0]])
    monkeypatch.setattr(threads, "_cpu_times", lambda: next(looks))
    assert idle_cores(unknown=0) == pytest.approx(8 * 45 / 60)
    monkeypatch.setattr(threads, "_cpu_times", lambda: int("not told"))
    assert idle_cores(unknown=3) == 3


keys = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6).map(tuple)


@given(one=keys, other=keys)
def test_seeds_follow_keys_order_and_number(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert 0 <= hash_seed(*one) < 2**63
    torch.Generator().manual_seed(hash_seed(*one))
    assert (hash_seed(*one) == hash_seed(*other)) == (one == other)
    assert hash_seed(*one) != hash_seed(*one, 0)


def test_different_keys_give_different_seeds() -> None:
    for length, side in ((1, 10_000), (2, 100), (3, 22)):
        seeds = {hash_seed(*keys) for keys in product(range(side), repeat=length)}
        assert len(seeds) == side**length
    # Words of 32 bits do not run into each other.
    for one, other in (((2**32,), (0, 1)), ((2**33 + 3, 0, 9), (3, 2, 0, 9))):
        assert hash_seed(*one) != hash_seed(*other)
    with pytest.raises(ValueError, match=r"non-negative|>= 0|negative"):
        hash_seed(-1)


def test_generators_of_the_same_keys_draw_the_same() -> None:
    generators = (seeded_generator("cpu", *keys) for keys in ((1, 2), (1, 2), (2, 1)))
    one, same, other = (torch.randn(100, generator=generator) for generator in generators)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.5


def test_generators_do_not_touch_the_global_one() -> None:
    before = torch.get_rng_state()
    generator = seeded_generator(torch.device("cpu"), 1)
    torch.rand(5, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert generator.device == torch.device("cpu")
