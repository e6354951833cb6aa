"""Progress reports of a run: log lines, a progress bar, ``stats.jsonl`` and TensorBoard."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING

import psutil
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.stats import RunningMeans, append_jsonl
from training.learning.held_out import Score
from training.learning.run_folder import RunFolder, RunInMemory

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FORECAST_AFTER = 60.0
"""Seconds of training after which its end is predicted."""
CALL = 0.4
"""Time of a network evaluation of a point, relative to that of a training sample: 0.38 was measured
for the U-Net on digits of 28 x 28 pixels.
"""
LONG = 7 * 86_400.0
"""Seconds from which on the prediction comes with advice for a shorter training."""
TELL_EVERY = 0.25
"""Smallest interval between progress callbacks, in seconds."""
UNITS = (("years", 365.25 * 86_400), ("days", 86_400), ("h", 3600), ("min", 60))


class Forecast:
    """Prediction of when a training will end, logged once.

    Args:
        seen: Number of samples that earlier parts of the run trained on.
        total: Number of samples at the end.
        follows: Number of network evaluations, counted per point, of the fits after the training.
    """

    def __init__(self, seen: int, total: int, follows: float = 0.0):
        self._total, self._follows = total, follows
        self._start = self._begin = time.monotonic()
        self._seen_at_begin = self._seen = seen
        self._steps, self._told = 0, False

    def line(self, samples: int) -> str | None:
        """Return the line to log after a step with ``samples`` samples; None to log nothing."""
        now = time.monotonic()
        self._steps, self._seen = self._steps + 1, self._seen + samples
        if now - self._start < FORECAST_AFTER or self._told or self._seen >= self._total:
            if self._steps == 1:  # the first step is slower than those that follow
                self._begin, self._seen_at_begin = now, self._seen
            return None
        self._told = True
        pace = (now - self._begin) / (self._seen - self._seen_at_begin)
        left = pace * (self._total - self._seen)
        line = f"{1000 * pace:.3g} s per thousand samples: about {spoken(left)} to go"
        if left < LONG:
            end = datetime.now() + timedelta(seconds=left)
            more = spoken(CALL * pace * self._follows)
            rest = f"; then {more} for the fits at the end" if self._follows else ""
            return f"{line}, until {end:%Y-%m-%d %H:%M}{rest}"
        return f"{line}; a shorter --duration or a smaller network takes less time"


class Parts:
    """Progress callback for the completed fraction of a training.

    The function is called after the first step, and then a few times a second. A clock that starts
    at the first call thus excludes the setup.

    Args:
        progress: Function of the completed fraction, from 0 to 1; None to report nothing.
        total: Number of samples at the end.
        follows: Number of network evaluations after training, as in ``Forecast``, converted to
            samples of equal duration.
    """

    def __init__(self, progress: Callable[[float], object] | None, total: int, follows: float):
        self._progress, self._total = progress, total + CALL * follows
        self._last = -math.inf

    def tell(self, seen: int, due: bool = False) -> None:
        """Report the fraction after ``seen`` samples.

        Nothing is reported shortly after the last report, unless the report is ``due``.
        """
        now = time.monotonic()
        if self._progress and (due or now - self._last >= TELL_EVERY):
            self._last = now
            self._progress(min(1.0, seen / self._total))

    def end(self) -> None:
        """Report that the training and all work after it are done."""
        if self._progress:
            self._progress(1.0)


def spoken(seconds: float) -> str:
    """Format a duration in the largest unit that it contains twice, such as ``40 min``."""
    for name, length in UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {name}"
    return f"{seconds:.0f} s"


class Reporter:
    """Reporter of a run's statistics, which are collected between reports (ticks).

    Args:
        folder: Directory of ``stats.jsonl`` and TensorBoard events, or a run without files.
        device: Device to sum the statistics on.
        seen: Number of samples that earlier parts of the run trained on.
        total: Number of samples at the end.
        follows: Network evaluations after training, as in ``Forecast``.
    """

    def __init__(
        self,
        folder: RunFolder | RunInMemory,
        device: torch.device,
        seen: int,
        total: int,
        follows: float,
    ):
        self.means = RunningMeans(device)
        self._folder, self._device = folder, device
        self._bar = distributed.progress_bar(total=total, initial=seen, unit="img", unit_scale=True)
        self._writer: SummaryWriter | None = None
        self._forecast = Forecast(seen, total, follows)
        self._began = False
        self._seen_at_tick = seen
        self._start = self._tick_start = time.monotonic()
        self._waited = 0.0
        self._process, self._peak_memory = psutil.Process(), 0
        self._stack = ExitStack()

    def __enter__(self) -> "Reporter":
        if distributed.is_main():
            if self._folder.path is not None and find_spec("tensorboard"):
                from torch.utils.tensorboard import SummaryWriter

                purge = self._seen_at_tick + 1
                self._writer = SummaryWriter(str(self._folder.path), purge_step=purge)
                self._stack.callback(self._writer.close)
            # On other ranks, redirection would reset the log level, and all ranks would log
            # everything.
            self._stack.enter_context(logging_redirect_tqdm(loggers=[logger]))
        self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Return a context whose duration counts as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def advance(self, samples: int) -> None:
        """Move the progress bar, and once log when the training will end.

        The clock of the bar starts after the first step, which is slower than later steps.
        """
        self._bar.update(samples)
        if not self._began:
            self._began, self._bar.initial = True, self._bar.n
            self._bar.unpause()
        line = self._forecast.line(samples)
        if line:
            logger.info(line)

    def tick(self, seen: int, learning_rate: float, skipped: int, held_out: Score | None) -> None:
        """Write the statistics that were collected since the last report (tick).

        All ranks must call this method together.

        Args:
            seen: Number of samples so far.
            learning_rate: Learning rate of the next step.
            skipped: Number of steps without a finite gradient so far.
            held_out: Score on held-out data, if there is one.
        """
        now = time.monotonic()
        # psutil does not report a peak on every system, so use the largest value of all ticks.
        self._peak_memory = max(self._peak_memory, self._process.memory_info().rss)
        seconds, samples = now - self._tick_start, seen - self._seen_at_tick
        stats = {name: value["mean"] for name, value in self.means.collect().items()}
        stats |= {
            "Progress/learning_rate": learning_rate,
            "Progress/skipped_steps": float(skipped),
            "Timing/seconds": now - self._start,
            "Timing/seconds_per_kimg": seconds / max(samples, 1) * 1000,
            "Timing/waiting_for_data": self._waited / max(seconds, 1e-9),
            "Resources/peak_memory_gib": self._peak_memory / 2**30,
        }
        told = ""
        if held_out is not None:
            told = f"validation {held_out.loss:<8.5f} "
            stats["Loss/held_out"] = held_out.loss
            stats |= {f"Loss/held_out_{name}": loss for name, loss in held_out.parts.items()}
            if held_out.nats is not None:
                stats["Likelihood/held_out_nats"] = held_out.nats
                told += f"({held_out.nats:.3f} nats) "
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            stats["Resources/peak_gpu_memory_gib"] = peak / 2**30
        self._tick_start, self._seen_at_tick, self._waited = now, seen, 0.0
        if not distributed.is_main():
            return
        if self._writer is not None:
            for name, value in stats.items():
                self._writer.add_scalar(name, value, global_step=seen)
            self._writer.flush()
        if self._folder.path is not None:
            append_jsonl(self._folder.path / "stats.jsonl", {"seen": seen, **stats})
        logger.info(
            f"kimg {seen / 1000:<9.1f} loss {stats.get('Loss/loss', float('nan')):<8.5f} "
            f"{told}lr {learning_rate:<9.2e} sec {stats['Timing/seconds']:<8.1f} "
            f"sec/kimg {stats['Timing/seconds_per_kimg']:<9.4f} "
            f"mem {stats['Resources/peak_memory_gib']:.2f} GiB"
            + (f"  skipped {skipped}" if skipped else "")
        )
