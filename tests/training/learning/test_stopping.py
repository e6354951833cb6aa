"""What a signal does to a training while Python is not running, and when it comes again."""

import hashlib
import logging
import os
import signal
import threading
import time

import pytest
import torch

from dnnlib.logs import logger
from training.learning import stopping
from training.learning.stopping import StopRequest

CPU = torch.device("cpu")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """Lines of the log, with their times."""
    lines: list[tuple[float, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((time.monotonic(), record.getMessage()))

    monkeypatch.setattr(logger, "handlers", [Keep()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    return lines


def test_a_signal_is_acknowledged_though_no_python_runs(told: list[tuple[float, str]]) -> None:
    with StopRequest() as stop:
        kill = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        kill.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)  # without a line of Python
        ended = time.monotonic()
        kill.join()
        assert stop.agreed(CPU) == signal.SIGINT
    ((when, line),) = told
    assert "stopping after this step" in line
    assert when < ended


@pytest.mark.parametrize("wish", [60, 0], ids=["one wish", "two wishes"])
def test_two_signals_are_one_wish_or_act_at_once(
    wish: float, told: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stopping, "ONE_WISH", wish)
    before = signal.signal(signal.SIGINT, act)
    try:
        with StopRequest():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
        acted = False
    except KeyboardInterrupt:
        acted = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert acted == (wish == 0)
    assert len(told) == 1 + acted


def test_the_block_ends_though_a_worker_holds_copies_of_its_sockets() -> None:
    with StopRequest() as stop:
        copy = os.dup(stop._mouth.fileno())  # as a forked process has it
    os.close(copy)
