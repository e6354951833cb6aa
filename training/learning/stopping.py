"""Stopping a run by signal, at the end of a step and on all ranks at once."""

import _thread
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from dnnlib.errors import InflationError
from dnnlib.logs import logger

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_WISH = 2.0
"""Seconds within which signals count as one request: a terminal's Ctrl-C reaches each rank directly
and again through torchrun.
"""
ASKING = 1.0
"""Approximate seconds between checks among ranks whether one has received a signal."""
GRACE = 5.0
"""Seconds that a process has to exit by itself when it is to stop at once."""
NO_SIGNAL = b"\0"
"""Byte that ends the listening thread."""


class StoppedBySignal(InflationError):
    """Exception of a run that a signal stopped, after the run saved its state.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int, state: Path):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; continue with --resume={state}"
        )
        self.number, self.exit_code = number, 128 + number


class StopRequest:
    """Context that handles SIGINT and SIGTERM; a second signal ends the process at once.

    Python runs a signal handler only between two bytecode instructions, and a backward pass of
    minutes is one instruction. A thread therefore listens too: the thread logs the signal at once,
    and ends a process that does not exit in time.
    """

    def __init__(self) -> None:
        self._number = 0
        self._at_once = False
        self._left = threading.Event()
        self._previous: dict[int, Any] = {}
        self._asked_at = time.monotonic()
        self._pause = self._until_asked = 1

    def __enter__(self) -> "StopRequest":
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        # Closing this end alone would not end the thread: forked workers hold copies of it.
        self._mouth.send(NO_SIGNAL)
        self._thread.join()
        self._mouth.close()
        self._ear.close()

    def agreed(self, device: torch.device) -> int | None:
        """Return the signal that any rank has received, the same on all ranks; None if none has.

        All ranks must call this method after each step. Ranks communicate, and wait for their
        devices, about once a second, counted in steps of the slowest rank.
        """
        if not dist.is_initialized():
            return self._number or None
        self._until_asked -= 1
        if self._until_asked:
            return None
        now = time.monotonic()
        asked = torch.tensor([self._number, now - self._asked_at], dtype=torch.float64)
        asked = asked.to(device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        number, seconds = asked.tolist()
        paced = int(self._pause * ASKING / max(seconds, 1e-9))
        self._pause = self._until_asked = max(1, min(paced, 2 * self._pause))
        self._asked_at = now
        return int(number) or None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        if self._at_once:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)

    def _listen(self) -> None:
        """Read the numbers of signals, which arrive even while Python is not running."""
        since: float | None = None
        while (received := self._ear.recv(1)) != NO_SIGNAL:
            number, now = received[0], time.monotonic()
            if number not in SIGNALS:
                continue
            name = signal.Signals(number).name
            if since is None:
                since = now
                again = "press Ctrl-C" if number == signal.SIGINT else "send it"
                logger.info(f"{name}: stopping after this step; send {again} again to stop at once")
            elif now - since >= ONE_WISH:
                logger.info(f"{name} again: stopping at once")
                self._at_once = True
                _thread.interrupt_main(signal.Signals(number))
                if not self._left.wait(GRACE):
                    os._exit(128 + number)
                return
