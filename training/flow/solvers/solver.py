"""Interface of solvers: a method that steps through given times, and its properties."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from dnnlib.errors import UsageError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Type of a velocity: ``v(x [B, D], t [] or [B]) -> [B, D]``."""

Method = Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]
"""Type of a method: ``method(v, x [B, D], times [S + 1])`` yields the states at ``times[1:]``.

The times are monotone, increasing or decreasing.
"""

PairMethod = Callable[
    [Velocity, Tensor, Tensor | None, Tensor], Iterator[tuple[Tensor, Tensor | None]]
]
"""Type of a method with gaps: ``method(v, x [B, D], gap [B, D] or None, times [S + 1])``.

It yields the states and gaps at ``times[1:]``. With a gap, it reverses the steps that ended at x
with this gap.
"""


@dataclass(frozen=True)
class ExtendedVelocity:
    """The velocity of states extended by integrals along their trajectories.

    Attributes:
        whole: Velocity of all coordinates, including the integrals.
        alone: A cheaper velocity, with 0 for the integrals, for stages of a step without a weight
            of their own. The state's velocity does not depend on the integrals.
    """

    whole: Velocity
    alone: Velocity

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``[B, D]`` of all coordinates of the extended states."""
        return self.whole(x, t)


@dataclass(frozen=True)
class Solver:
    """A numerical solver of ordinary differential equations, and its properties.

    Attributes:
        name: Name in ``SOLVERS``.
        order: Order of the global error in the step size.
        method: Function that integrates a velocity.
        calls_per_step: Velocity evaluations per step (a multistep method takes one more at its
            start); None if they depend on the problem.
        traces_per_step: Number of velocity evaluations per step that have a weight in integrals
            along the trajectory; None if all have one.
        standardized: Whether the solver integrates the standardized variable, not the scaled one.
        multistep: Whether a step depends on the steps before it.
        adaptive: Whether the solver chooses its own steps; given times are then output times only.
        pairs: Method of a reversible solver for pairs of states, which also yields half of their
            difference (the gap), for an exact inverse; None for other solvers.
        quadrature: Weights ``[S + 1]`` of the values at the ends of steps in integrals along the
            trajectory; None to integrate the values together with the state.
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
        """Integrate from ``x [B, D]``, and yield states and gaps at ``times[1:]``.

        The gap of a reversible solver is half of the difference between its two states. Gaps are
        None for other solvers.

        Args:
            v: The velocity.
            x: State ``[B, D]`` at the first time.
            times: Monotone times ``[S + 1]``.
            gap: Gap ``[B, D]`` of the first state; if given, the integration reverses earlier
                steps.

        Raises:
            UsageError: A gap is given, but the solver is not reversible.
        """
        if self.pairs is not None:
            return self.pairs(v, x, gap, times)
        if gap is not None:
            raise UsageError(
                f"{self.name} has a single state and no gap: leave the gap out, or integrate back "
                "with the solver that computed the gap"
            )
        return ((state, None) for state in self.method(v, x, times))
