"""What a solver is: a method that walks through given times, and what a flow must know of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``v(x [B, D], t [] or [B]) -> [B, D]``."""

Method = Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]
"""``method(v, x [B, D], times [S + 1])`` gives the states at ``times[1:]``, one after the other.
The times are monotone, upward or downward."""


@dataclass(frozen=True)
class Solver:
    """A method of integration.

    Attributes:
        name: The name in the registry.
        order: The global error falls as this power of the step.
        method: The function that walks.
        calls_per_step: Calls of the velocity, one more where a multistep method starts; None where
            they depend on the problem.
        standardized: Whether it integrates the standardized variable, not the scaled one.
        multistep: Whether a step depends on those before.
        adaptive: Whether it chooses its own steps. The times it is given are those of its output.
    """

    name: str
    order: int
    method: Method
    calls_per_step: int | None = None
    standardized: bool = False
    multistep: bool = False
    adaptive: bool = False

    def with_method(self, method: Method) -> "Solver":
        return replace(self, method=method)
