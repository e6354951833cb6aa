"""Threads of a CPU: as many as cores are idle, unless somebody said how many."""

import os

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


@pytest.mark.parametrize(("idle", "expected"), [(8.0, 4), (3.6, 4), (2.4, 2), (0.1, 1)])
def test_a_busy_machine_gets_fewer_threads_until_the_work_is_done(
    idle: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: idle)
    with cpu_threads():
        assert counts[-1] == expected
    assert counts[-1] == 4


def test_a_burst_of_work_is_not_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([1.2, 4.0])
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: next(looks))
    with cpu_threads():
        assert counts[-1] == 4


def test_no_more_threads_are_taken_than_are_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: 3.0)
    for useful, expected in ((1, 1), (2, 2), (8, 3)):
        with cpu_threads(useful=useful):
            assert counts[-1] == expected
    with cpu_threads(2, useful=1):
        assert counts[-1] == 2


def test_what_somebody_said_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "idle_cores", lambda unknown: 0.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for wanted, expected in ((1, 1), (2, 2), (64, 2)):
        with cpu_threads(wanted):
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
