"""Number of CPU threads of PyTorch: at most the number of idle cores.

The threads of one product wait for each other, so that a thread without a core delays all others.
Next to three other jobs on two cores, a training with two threads took twenty times as long as with
one.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dnnlib.logs import logger

CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables for the number of threads; ``torchrun`` sets the first one."""
LOOK, LOOKS = 0.1, 5
"""Seconds of one measurement of idle cores, and maximum number of measurements.

A single short measurement would mistake a burst of work, for example after a start, for a busy
machine.
"""
TIMES = Path("/proc/stat")
"""File in which Linux reports the idle time of all cores, in hundredths of a second."""


@contextmanager
def cpu_threads(wanted: int | None = None, useful: int | None = None) -> Iterator[None]:
    """Set the number of CPU threads for the duration of the block, at most one per core.

    The block keeps PyTorch's number of threads if idle cores cannot be measured.

    Args:
        wanted: Number of threads; None for the number of idle cores, unless an environment variable
            such as ``OMP_NUM_THREADS`` sets the number.
        useful: Upper limit on the number of idle cores to use; None for no limit.
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
                f"Using {threads} of {most} CPU threads, because other programs use the "
                "other cores; set another number with OMP_NUM_THREADS"
            )
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _idle_threads(most: int) -> int:
    """Return the maximum number of idle cores over several measurements, at least one."""
    idle = 1
    for _ in range(LOOKS):
        idle = max(idle, min(most, round(idle_cores(most))))
        if idle == most:
            break
    return idle


def idle_cores(unknown: float) -> float:
    """Return the number of CPU cores that are idle, measured over a tenth of a second.

    If the number cannot be measured, the argument ``unknown`` is returned.
    """
    try:
        began = _cpu_times()
        time.sleep(LOOK)
        passed = [after - before for before, after in zip(began, _cpu_times(), strict=True)]
    except (OSError, ValueError):
        return unknown
    # The fourth is idle time, the fifth is time waiting for a disk.
    return sum(passed[3:5]) / max(sum(passed), 1) * (os.cpu_count() or 1)


def _cpu_times() -> list[int]:
    """Return the times of all cores together by kind of use, in the order of proc(5)."""
    first, *values = TIMES.read_text().partition("\n")[0].split()
    if first != "cpu" or len(values) < 5:
        raise ValueError(f"{TIMES} does not begin with the CPU times of Linux")
    return [int(value) for value in values[:8]]
