"""Steps that change nothing since their loss or its gradient is not finite, counted on the device.

The host would have to wait for the device to know of each step whether it is one. It looks no more
often than a run of such steps could have become too long since it looked last.
"""

import torch
from torch import Tensor

from dnnlib.errors import TrainingError

MAX_SKIPPED_IN_A_ROW = 20


class SkippedSteps:
    """How many steps were skipped, in all and in a row up to now.

    Args:
        device: Where they are counted.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self.restore(0, 0)

    def restore(self, total: int, in_a_row: int) -> None:
        """Goes on from numbers that ``read`` gave."""
        self._total = torch.full((), total, device=self._device)
        self._in_a_row = torch.full((), in_a_row, device=self._device)
        self._until_look = MAX_SKIPPED_IN_A_ROW - in_a_row

    def add(self, skipped: Tensor) -> None:
        """Takes in a step: whether it was skipped, ``[]``, bool. Nobody waits for it."""
        self._total = self._total + skipped
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._until_look -= 1

    def read(self) -> tuple[int, int]:
        """The two numbers, for which the host waits."""
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        return total, in_a_row

    def require_few_in_a_row(self, seen: int) -> None:
        """Raises TrainingError at the step that is one too many in a row.

        Args:
            seen: Samples trained on so far.
        """
        if self._until_look > 0:
            return
        _, in_a_row = self.read()
        self._until_look = MAX_SKIPPED_IN_A_ROW - in_a_row
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the loss or its gradient was not finite in {in_a_row} steps in a row, up to "
                f"{seen} samples: lower --lr, and see whether the data is finite"
            )
