"""Safeguards for finite numbers in training: a loss scale in float16, and skipped steps.

The loss scale, which keeps gradients from vanishing, is divided out of the weights' gradients. As
proposed by Micikevicius et al. 2018 (arXiv 1710.03740, section 3.2), it is doubled after many steps
with finite gradients in a row, and halved after each step without. The device does this, and counts
the steps that are skipped because they are not finite. The host does not wait for it, and reads the
count only as often as needed to detect a run of skipped steps that is too long.
"""

from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import TrainingError

START = 2.0**16
GROWTH_STEPS = 2000
"""Number of finite steps in a row after which the loss scale is doubled."""
LARGEST = 2.0**24


class LossScale:
    """Loss scale of a training, which can adapt from step to step.

    Args:
        fixed: Fixed loss scale; an adaptive loss scale starts at ``START`` times this value.
        adapts: Whether the loss scale adapts.
        device: Device of the tensor.

    Attributes:
        value: Present loss scale ``[]``.
        is_one: Whether the loss scale is always 1.
    """

    value: Tensor
    _finite_steps: Tensor

    def __init__(self, fixed: float, adapts: bool, device: torch.device):
        self.adapts, self.is_one = adapts, fixed == 1 and not adapts
        self._device = device
        self._set(START * fixed if adapts else fixed, 0)

    def update(self, finite: Tensor) -> None:
        """Update the loss scale after a step.

        Args:
            finite: Whether the gradient of the step was finite ``[]``, bool.
        """
        if not self.adapts:
            return
        finite_steps = (self._finite_steps + 1) * finite
        grows = finite_steps >= GROWTH_STEPS
        factor = torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)
        self.value = (factor * self.value).clamp(max=LARGEST)
        self._finite_steps = finite_steps * ~grows

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, if the scale adapts.

        The call waits until the device has finished.
        """
        return {"value": self.value.item(), "finite_steps": int(self._finite_steps.item())}

    def restore(self, state: object) -> None:
        """Restore the state returned by ``state``.

        Raises:
            ValueError: The state is broken.
        """
        match state:
            case {"value": float(value), "finite_steps": int(steps)} if value > 0 and steps >= 0:
                self._set(value, steps)
            case _:
                raise ValueError(
                    "the entry 'loss_scale' must hold a positive scale, and the number of steps "
                    "since it changed"
                )

    def _set(self, value: float, finite_steps: int) -> None:
        self.value = torch.full((), value, device=self._device)
        self._finite_steps = torch.full((), finite_steps, device=self._device)


MAX_SKIPPED_IN_A_ROW = 20


class SkippedSteps:
    """Counter of skipped training steps, in total and in the latest unbroken sequence."""

    def __init__(self, device: torch.device):
        self._device = device
        self.restore(0, 0)

    def restore(self, total: int, in_a_row: int) -> None:
        """Restore the counts returned by ``read``.

        Args:
            total: Total number of skipped steps.
            in_a_row: Number of consecutive skipped steps up to now.
        """
        self._total = torch.full((), total, device=self._device)
        self._in_a_row = torch.full((), in_a_row, device=self._device)
        self._until_look = MAX_SKIPPED_IN_A_ROW - in_a_row

    def add(self, skipped: Tensor) -> None:
        """Count a step, without waiting for the device.

        Args:
            skipped: Whether the step was skipped ``[]``, bool.
        """
        self._total = self._total + skipped
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._until_look -= 1

    def read(self) -> tuple[int, int]:
        """Return the number of skipped steps in total, and in the latest unbroken sequence.

        The call waits until the device has finished.
        """
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        return total, in_a_row

    def require_few_in_a_row(self, seen: int) -> None:
        """Check that few consecutive steps were skipped up to now, after ``seen`` samples.

        Raises:
            TrainingError: Too many consecutive steps were skipped.
        """
        if self._until_look > 0:
            return
        _, in_a_row = self.read()
        self._until_look = MAX_SKIPPED_IN_A_ROW - in_a_row
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the loss or its gradient was not finite in {in_a_row} consecutive "
                f"steps, up to {seen} samples: lower --lr, and check that the data are "
                "finite"
            )
