"""Planned training time, with a warning if it will be exceeded."""

from dataclasses import dataclass, field

from dnnlib.logs import logger

TOO_LONG, SOON = 1.25, 5.0
"""Factor on the planned time, and margin in seconds, which also delays the first check; both must
be exceeded for a warning.
"""


@dataclass
class TimeBudget:
    """Monitor of the training time that warns once if training will take far longer than planned.

    Attributes:
        seconds: Planned seconds of all steps.
    """

    seconds: float
    _began: float | None = field(default=None, init=False)
    _first: int = field(default=0, init=False)
    _warned: bool = field(default=False, init=False)

    def check(self, steps: int, total: int, now: float) -> None:
        """Warn once if the training will take far longer than planned.

        Args:
            steps: Number of steps done.
            total: Number of all steps.
            now: Present time in seconds.
        """
        if self._began is None:
            self._began, self._first = now, steps
            return
        done, elapsed = steps - self._first, now - self._began
        expected = elapsed + (total - steps) * elapsed / max(1, done)
        if self._warned or elapsed < SOON or expected < TOO_LONG * self.seconds + SOON:
            return
        self._warned = True
        logger.warning(
            f"Warning: training will take about {_minutes(expected)} instead of the "
            f"planned {_minutes(self.seconds)}: {done:,} of {total:,} steps took "
            f"{elapsed:.0f} s, {1000 * elapsed / max(1, done):.3g} ms each. Press Ctrl-C "
            "to stop, or give a smaller --minutes"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.2g} minutes"
