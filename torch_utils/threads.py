"""How many threads PyTorch computes with on a CPU: no more than there are cores without work.

Threads of one product wait for each other, so that one that gets no core holds up all: beside three
other jobs on two cores a training with two threads took twenty times as long as with one.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dnnlib.logs import logger

CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that say how many threads; ``torchrun`` sets the first one."""
LOOK, LOOKS = 0.1, 5
"""Seconds for which this process waits to see what the others do, and how often it looks at most:
so short a look takes a burst of work, such as what a start leaves behind, for a busy machine."""
TIMES = Path("/proc/stat")
"""Where Linux tells how long all cores were idle, in hundredths of a second."""


@contextmanager
def cpu_threads(wanted: int | None = None, useful: int | None = None) -> Iterator[None]:
    """Computes with so many threads while it lasts, or as many as there are cores; with None, with
    as many as cores are idle, but no more than are useful, unless the environment says how many.

    Where the machine does not tell what its cores do, the number stays as it is.
    """
    before = torch.get_num_threads()
    if wanted is not None:
        threads = min(wanted, os.cpu_count() or wanted)
    elif before == 1 or any(name in os.environ for name in CHOSEN_BY_USER):
        threads = before
    else:
        most = min(before, useful or before)
        threads = _idle_threads(most) if most > 1 else 1
        if threads < most:
            logger.info(
                f"Computing with {threads} of {most} threads, since other programs use the other "
                "cores: --threads gives another number"
            )
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _idle_threads(most: int) -> int:
    """As many as cores were idle in any look, at least one."""
    idle = 1
    for _ in range(LOOKS):
        idle = max(idle, min(most, round(idle_cores(most))))
        if idle == most:
            break
    return idle


def idle_cores(unknown: float) -> float:
    """How many cores do nothing while this process waits; ``unknown`` where that is not told."""
    try:
        began = _cpu_times()
        time.sleep(LOOK)
        passed = [after - before for before, after in zip(began, _cpu_times(), strict=True)]
    except (OSError, ValueError):
        return unknown
    # The fourth is idle time, the fifth that of waiting for a disk.
    return sum(passed[3:5]) / max(sum(passed), 1) * (os.cpu_count() or 1)


def _cpu_times() -> list[int]:
    """What all cores together have spent their time with, in the order of proc(5)."""
    first, *values = TIMES.read_text().partition("\n")[0].split()
    if first != "cpu" or len(values) < 5:
        raise ValueError(f"{TIMES} begins otherwise")
    return [int(value) for value in values[:8]]
