"""Running means, a log that a resumed run continues, and bytes that live."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from dnnlib.memory import keep_freed_memory
from tests.support.draws import seeded
from torch_utils.live_memory import GRAIN, LiveMemory
from torch_utils.stats import RunningMeans, append_jsonl, keep_lines_until

CPU = torch.device("cpu")


def test_means_of_several_adds_are_those_of_all_values() -> None:
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


def test_equal_values_have_no_deviation_however_large_and_no_graph_is_kept() -> None:
    means = RunningMeans(CPU)
    means.add("a", torch.full((1000,), 1e8 + 0.1, dtype=torch.float64))
    assert 0 <= means.collect()["a"]["std"] < 10
    means.add("a", torch.ones(3, requires_grad=True) * 2)
    assert means.collect()["a"]["mean"] == 2.0


def test_values_that_do_not_count_leave_no_trace() -> None:
    means = RunningMeans(CPU)
    for value in (1.0, torch.inf, 3.0, torch.nan):
        given = torch.full((2,), value)
        means.add("some", given, given.isfinite().all())
        means.add("none", given, torch.tensor(False))
    assert means.collect() == {"some": {"mean": 2.0, "std": 1.0, "count": 4.0}}


def test_every_record_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    records = [{"seen": 1, "größer": 2}, {"seen": 2}]
    for count, record in enumerate(records, start=1):
        append_jsonl(path, record)
        assert [json.loads(line) for line in path.read_text().splitlines()] == records[:count]


def test_lines_up_to_the_last_are_kept_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    for last, kept in ((0, 0), (1, 1), (25, 2), (30, 3), (99, 4)):
        path.unlink(missing_ok=True)
        for seen in (1, 20, 30, 40):
            append_jsonl(path, {"seen": seen, "loss": 1})
        before = path.read_text().splitlines(keepends=True)
        keep_lines_until(path, "seen", last)
        assert path.read_text() == "".join(before[:kept])
    keep_lines_until(tmp_path / "none.jsonl", "seen", 1)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_broken_last_line_is_dropped_and_the_file_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    for end in ('{"seen": 2, "lo', '{"seen": 2, "loss": 1', "\0\0\0", ""):
        path.write_text(f'{{"seen": 1}}\n{end}')
        keep_lines_until(path, "seen", 10)
        append_jsonl(path, {"seen": 3})
        got = [json.loads(line) for line in path.read_text().splitlines()]
        assert got == [{"seen": 1}, {"seen": 3}]


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
