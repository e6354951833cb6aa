"""Threads of a CPU: as many as cores are idle, unless somebody said how many."""

import os
from itertools import chain, repeat

import pytest
import torch

from torch_utils import threads
from torch_utils.threads import CHOSEN_BY_USER, cpu_threads, idle_cores


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN_BY_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: counts[-1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: counts.append(count))
    counts[:] = [4]


counts = [4]


@pytest.mark.parametrize(
    ("idle", "useful", "expected"),
    [
        *(([8.0], None, 4), ([3.6], None, 4), ([2.4], None, 2), ([0.1], None, 1)),
        ([1.2, 4.0], None, 4),  # a burst of work is not a busy machine
        *(([3.0], 1, 1), ([3.0], 2, 2), ([3.0], 8, 3)),
    ],
)
def test_as_many_threads_as_are_idle_and_useful_are_taken_until_the_work_is_done(
    idle: list[float], useful: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = chain(idle, repeat(idle[-1]))
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: next(looks))
    with cpu_threads(useful=useful):
        assert counts[-1] == expected
    assert counts[-1] == 4


def test_what_somebody_said_counts(monkeypatch: pytest.MonkeyPatch) -> None:
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
