"""What a solver is: a method that walks through given times, and what a flow must know of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from dnnlib.errors import UsageError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``v(x [B, D], t [] or [B]) -> [B, D]``."""

Method = Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]
"""``method(v, x [B, D], times [S + 1])`` gives the states at ``times[1:]``, one after the other.
The times are monotone, upward or downward."""

PairMethod = Callable[
    [Velocity, Tensor, Tensor | None, Tensor], Iterator[tuple[Tensor, Tensor | None]]
]
"""``method(v, x [B, D], gap [B, D] or None, times [S + 1])`` gives the states and gaps at
``times[1:]``. With a gap it undoes the steps between these times that ended at x with it."""


@dataclass(frozen=True)
class Widened:
    """The velocity of states with integrals along their way as further coordinates.

    Attributes:
        whole: Of all coordinates.
        alone: The same with 0 for the integrals, which is cheaper. It serves the stages of a step
            that lead to other stages alone, since no velocity depends on an integral.
    """

    whole: Velocity
    alone: Velocity

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.whole(x, t)


@dataclass(frozen=True)
class Solver:
    """A method of integration.

    Attributes:
        name: The name in the registry.
        order: The global error falls as this power of the step.
        method: The function that walks.
        calls_per_step: Calls of the velocity, one more where a multistep method starts; None where
            they depend on the problem.
        traces_per_step: Those of them that integrals along the way have a weight for.
        standardized: Whether it integrates the standardized variable, not the scaled one.
        multistep: Whether a step depends on those before.
        adaptive: Whether it chooses its own steps. The times it is given are those of its output.
        pairs: The same method where it carries a second state along, at a gap from the first, which
            the exact way back needs; None for one of a single state.
        quadrature: What values of a function at the ends of its steps ``[S + 1]`` count for in the
            function's integral along the way; None to integrate it beside the state.
    """

    name: str
    order: int
    method: Method
    calls_per_step: int | None = None
    traces_per_step: int | None = None
    standardized: bool = False
    multistep: bool = False
    adaptive: bool = False
    pairs: PairMethod | None = None
    quadrature: Sequence[float] | None = None

    def walk(
        self, v: Velocity, x: Tensor, times: Tensor, gap: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """States and gaps at ``times[1:]``, of ``[S + 1]``, from x ``[B, D]``; there are no gaps
        unless the method has pairs. By the gap of the first state ``[B, D]`` it goes back the way
        it came. Raises UsageError if there is a gap, but the method has none."""
        if self.pairs is not None:
            return self.pairs(v, x, gap, times)
        if gap is not None:
            raise UsageError(
                f"{self.name} carries no second state along: leave the gap out, or go back by the "
                "solver that made it"
            )
        return ((state, None) for state in self.method(v, x, times))
