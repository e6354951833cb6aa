"""The factor on a loss that keeps gradients from vanishing in float16.

It is divided out of the gradients of the weights. As Micikevicius et al. 2018 (arXiv 1710.03740,
section 3.2) propose, it is doubled after many steps with finite gradients in a row, and halved
after each step without. The device does so, and the host does not wait for it.
"""

from typing import Any

import torch
from torch import Tensor

START = 2.0**16
GROWTH_STEPS = 2000
"""Finite steps in a row after which the factor is doubled."""
LARGEST = 2.0**24


class LossScale:
    """The factor, as a tensor that changes from step to step if it adapts.

    Args:
        fixed: The factor; if it adapts, ``START`` times this is that of the first step.
        adapts: Whether it changes.
        device: Where it is kept.

    Attributes:
        value: The factor, ``[]``.
        is_one: Whether it is 1, and always will be.
    """

    value: Tensor
    _finite_steps: Tensor

    def __init__(self, fixed: float, adapts: bool, device: torch.device):
        self.adapts, self.is_one = adapts, fixed == 1 and not adapts
        self._device = device
        self._set(START * fixed if adapts else fixed, 0)

    def update(self, finite: Tensor) -> None:
        """Takes in a step: whether its gradient was finite, ``[]``, bool."""
        if not self.adapts:
            return
        finite_steps = (self._finite_steps + 1) * finite
        grows = finite_steps >= GROWTH_STEPS
        factor = torch.where(finite, torch.where(grows, 2.0, 1.0), 0.5)
        self.value = (factor * self.value).clamp(max=LARGEST)
        self._finite_steps = finite_steps * ~grows

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, if it adapts. The host waits for it."""
        return {"value": self.value.item(), "finite_steps": int(self._finite_steps.item())}

    def restore(self, state: object) -> None:
        """Takes up what ``state`` gave. Raises ValueError if it did not give this."""
        match state:
            case {"value": float(value), "finite_steps": int(steps)} if value > 0 and steps >= 0:
                self._set(value, steps)
            case _:
                raise ValueError("its 'loss_scale' is broken")

    def _set(self, value: float, finite_steps: int) -> None:
        self.value = torch.full((), value, device=self._device)
        self._finite_steps = torch.full((), finite_steps, device=self._device)
