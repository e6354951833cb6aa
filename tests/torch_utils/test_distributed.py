"""Ranks, devices, threads and seeds; running means, their log, and bytes that live."""

import json
import os
import platform
from functools import partial
from itertools import chain, product, repeat
from unittest import mock
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dnnlib.errors import DataError, UsageError
from dnnlib.memory import keep_freed_memory
from tests.support.draws import seeded
from torch_utils import distributed, threads
from torch_utils import linear as module
from torch_utils.distributed import gather_rows, is_main, process_group, shard, sum_over_ranks
from torch_utils.linear import Linear, linear
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.stats import RunningMeans, append_jsonl, keep_lines_until
from torch_utils.threads import CHOSEN_BY_USER, cpu_threads, idle_cores

UNKNOWN = ("tpu", "", "cuda:x", "cuda:-1", "CPU", "mps", "meta", "gpu:0")
CPU = torch.device("cpu")


@given(count=st.integers(0, 2000), ranks=st.integers(1, 64))
def test_shares_are_a_partition_in_order(count, ranks):
    shares = []
    for index in range(ranks):
        with (
            mock.patch.object(distributed, "world_size", return_value=ranks),
            mock.patch.object(distributed, "rank", return_value=index),
        ):
            shares.append(range(count)[shard(count)])
    assert [item for share in shares for item in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_lone_process_is_in_no_group(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (distributed.rank(), distributed.world_size(), is_main()) == (0, 1, True)
    distributed.barrier()
    values = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(sum_over_ranks(values.clone()), values)
    assert torch.equal(gather_rows(values, 2), values)
    assert torch.equal(gather_rows(values, 3, dim=1), values)
    assert shard(5) == slice(0, 5)
    with process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert not torch.distributed.is_initialized()


def test_a_script_takes_a_card_if_there_is_one_and_computes_without_tf32():
    def settings():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = settings()
    with process_group(None) as device:
        assert settings() == (False, False)
        assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert settings() == before


def test_devices_that_are_not_there_are_refused(monkeypatch):
    for name, devices, reason in (
        *((name, 0, f"{name}.*cpu") for name in UNKNOWN),
        *((name, 0, f"{name}.*no CUDA.*cpu") for name in ("cuda", "cuda:0", "cuda:3")),
        ("cuda:5", 2, "5 does not exist: the number of devices is 2"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", partial(bool, devices))
        monkeypatch.setattr(torch.cuda, "device_count", partial(int, devices))
        with pytest.raises(UsageError, match=reason), process_group(name):
            pass


def test_errors_of_a_group_are_told_or_pass_and_the_group_is_left(monkeypatch):
    with pytest.raises(DataError, match=r"out of memory.*smaller"), process_group("cpu"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ZeroDivisionError), process_group("cpu"):
        raise ZeroDivisionError
    assert not torch.distributed.is_initialized()
    # Ranks that cannot meet.
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="ranks could not connect"), process_group("cpu"):
        pass


def gathered():
    with process_group("cpu") as device:
        got = {
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


def test_two_ranks_gather_sum_and_average_alike(two_ranks):
    for rank, got in enumerate(two_ranks.call(gathered)):
        assert (got["backend"], got["place"]) == ("gloo", (rank, 2, rank == 0))
        assert got["sum"] == [2.0, 1.0]
        assert got["means"] == {"mean": 3.0, "std": 2.0, "count": 7.0}
        assert got["left"]


@pytest.fixture
def counts(monkeypatch):
    """Threads of PyTorch: the four that there are, and all that are asked for."""
    for name in CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    asked = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    return asked


def test_as_many_threads_as_are_idle_and_useful_are_taken(counts, monkeypatch):
    for idle, useful, expected in (
        *(([8.0], None, 4), ([3.6], None, 4), ([2.4], None, 2), ([0.1], None, 1)),
        ([1.2, 4.0], None, 4),  # a burst of work is not a busy machine
        *(([3.0], 1, 1), ([3.0], 2, 2), ([3.0], 8, 3)),
    ):
        looks = Mock(side_effect=chain(idle, repeat(idle[-1])))
        monkeypatch.setattr(threads, "idle_cores", looks)
        with cpu_threads(useful=useful):
            assert counts[-1] == expected
        assert counts[-1] == 4
    # What somebody said counts.
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for wanted, useful, expected in ((1, None, 1), (2, 1, 2), (64, None, 2)):
        with cpu_threads(wanted, useful=useful):
            assert counts[-1] == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with cpu_threads(useful=1):
        assert counts[-1] == 4
    # Idle are cores that did nothing meanwhile.
    monkeypatch.setattr(threads, "LOOK", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    looks = iter([[100, 0, 50, 400, 20, 0, 0, 0], [110, 0, 55, 440, 25, 0, 0, 0]])
    monkeypatch.setattr(threads, "_cpu_times", lambda: next(looks))
    assert idle_cores(unknown=0) == pytest.approx(8 * 45 / 60)
    monkeypatch.setattr(threads, "_cpu_times", lambda: int("not told"))
    assert idle_cores(unknown=3) == 3


def test_different_keys_give_different_seeds():
    sides = {1: 10_000, 2: 100, 3: 22}
    keys = chain(*(product(range(side), repeat=length) for length, side in sides.items()))
    seeds = {hash_seed(*each) for each in keys}
    assert len(seeds) == sum(side**length for length, side in sides.items())
    assert 0 <= min(seeds) < max(seeds) < 2**63
    torch.Generator().manual_seed(max(seeds))
    # Words of 32 bits do not run into each other.
    for one, other in (((2**32,), (0, 1)), ((2**33 + 3, 0, 9), (3, 2, 0, 9))):
        assert hash_seed(*one) != hash_seed(*other)
    with pytest.raises(ValueError, match=r"non-negative|>= 0|negative"):
        hash_seed(-1)


def test_generators_of_the_same_keys_draw_the_same_and_do_not_touch_the_global_one():
    generators = (seeded_generator("cpu", *keys) for keys in ((1, 2), (1, 2), (2, 1)))
    one, same, other = (torch.randn(100, generator=generator) for generator in generators)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.5
    before = torch.get_rng_state()
    generator = seeded_generator(torch.device("cpu"), 1)
    torch.rand(5, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert generator.device == torch.device("cpu")


def test_means_of_several_adds_are_those_of_all_values_that_count():
    means, generator = RunningMeans(CPU), seeded()
    assert means.collect() == {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64):
        shapes = ((7,), (2, 5), (), (3, 1, 2))
        numbers = (torch.randn(shape, generator=generator) for shape in shapes)
        parts = [(10 + 3 * number).to(dtype) for number in numbers]
        for part in parts:
            means.add("loss", part)
            means.add("a", torch.full((2,), 3.0))
        whole = np.concatenate([part.double().numpy().ravel() for part in parts])
        got = means.collect()
        assert list(got) == ["loss", "a"]
        assert got["loss"]["mean"] == pytest.approx(whole.mean(), rel=1e-12)
        assert got["loss"]["std"] == pytest.approx(whole.std(), rel=1e-9)
        assert got["loss"]["count"] == len(whole)
        assert got["a"] == {"mean": 3.0, "std": 0.0, "count": 8.0}
    assert means.collect() == {}
    # Equal values have no deviation, and those that do not count leave no trace.
    means.add("a", torch.full((1000,), 1e8 + 0.1, dtype=torch.float64))
    assert 0 <= means.collect()["a"]["std"] < 10
    means.add("a", torch.ones(3, requires_grad=True) * 2)
    assert means.collect()["a"]["mean"] == 2.0
    means = RunningMeans(CPU)
    for value in (1.0, torch.inf, 3.0, torch.nan):
        given = torch.full((2,), value)
        means.add("some", given, given.isfinite().all())
        means.add("none", given, torch.tensor(False))
    assert means.collect() == {"some": {"mean": 2.0, "std": 1.0, "count": 4.0}}


def test_records_are_whole_lines_kept_up_to_the_last_without_a_broken_end(tmp_path):
    path = tmp_path / "stats.jsonl"
    records = [{"seen": 1, "größer": 2}, {"seen": 2}]
    for count, record in enumerate(records, start=1):
        append_jsonl(path, record)
        assert [json.loads(line) for line in path.read_text().splitlines()] == records[:count]
    for last, kept in ((0, 0), (1, 1), (25, 2), (30, 3), (99, 4)):
        path.unlink(missing_ok=True)
        for seen in (1, 20, 30, 40):
            append_jsonl(path, {"seen": seen, "loss": 1})
        before = path.read_text().splitlines(keepends=True)
        keep_lines_until(path, last)
        assert path.read_text() == "".join(before[:kept])
    keep_lines_until(tmp_path / "none.jsonl", 1)
    assert not (tmp_path / "none.jsonl").exists()
    for end in ('{"seen": 2, "lo', '{"seen": 2, "loss": 1', "\0\0\0", ""):
        path.write_text(f'{{"seen": 1}}\n{end}')
        keep_lines_until(path, 10)
        append_jsonl(path, {"seen": 3})
        got = [json.loads(line) for line in path.read_text().splitlines()]
        assert got == [{"seen": 1}, {"seen": 3}]


def test_freed_memory_is_kept_where_the_c_library_is_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.skipif(module.onednn() is None, reason="here PyTorch's own products are as fast")
def test_products_and_their_gradients_are_those_of_pytorch(monkeypatch):
    calls, one = [], module.onednn()
    monkeypatch.setattr(module, "onednn", lambda: lambda *given: calls.append(1) or one(*given))
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 256, 40), (64, 40), (64,)
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]

    def results(product, given):
        out = product(*given).sin()
        slopes = torch.autograd.grad(out.square().sum(), given, create_graph=True)
        further = torch.autograd.grad(slopes[0].square().sum(), given[:2])
        apart = torch.stack([given[2], 0 * given[2]], dim=1)[:, 0]
        return [out, *slopes, *further, product(*given[:2]), product(*given[:2], apart)]

    exact = results(F.linear, [value.detach().double().requires_grad_() for value in given])
    for ours, right in zip(results(linear, given), exact, strict=True):
        torch.testing.assert_close(
            ours.double(), right, rtol=1e-5, atol=1e-4 * float(right.detach().std())
        )
    assert len(calls) > 5


def test_what_is_not_for_it_is_left_to_pytorch():
    for dtype, rows in ((torch.float64, 4096), (torch.float32, 0), (torch.float32, 3)):
        layer = Linear(32, 16).to(dtype)
        values = torch.ones(rows, 32, dtype=dtype)
        assert torch.equal(layer(values), F.linear(values, layer.weight, layer.bias))
