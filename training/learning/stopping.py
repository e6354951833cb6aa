"""Stopping a run by signal, at a step's end and on all ranks at once."""

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from dnnlib.errors import InflationError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedBySignal(InflationError):
    """The run was asked to stop, and saved what it needs to go on."""

    def __init__(self, number: int, state: Path):
        super().__init__(f"stopped by {signal.Signals(number).name}; go on with --resume={state}")
        self.exit_code = 128 + number


class StopRequest:
    """Remembers SIGINT and SIGTERM while its block runs; a third one acts at once.

    Two may be one wish: a terminal's Ctrl-C reaches each rank itself and again through torchrun.
    """

    PATIENCE = 2

    def __init__(self) -> None:
        self._number = 0
        self._count = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, device: torch.device) -> int | None:
        """The signal that any rank has received so far, the same on all ranks; None if none has."""
        if not dist.is_initialized():
            return self._number or None
        number = torch.tensor(self._number, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number) or None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._count += 1
        if self._count > self.PATIENCE:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
