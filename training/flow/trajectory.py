"""What an integration leaves behind: the states that it passed, in the order in which it did."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.solvers import Solver, Velocity


class State(NamedTuple):
    """A saved point of a simulation.

    Attributes:
        time: ``[]``.
        x: The scaled variable in eigenspace ``[N, D]``, float64.
        update: The change of x in the last step ``[N, D]``, zero at the start; of an adaptive
            solver, the change since the last saved state.
        gap: Of a solver that carries a second state along, half of what x is apart from it
            ``[N, D]``; None of others.
    """

    time: Tensor
    x: Tensor
    update: Tensor
    gap: Tensor | None = None


@dataclass(frozen=True)
class Trajectory:
    """States along the ODE, in the order in which they were visited.

    Attributes:
        times: ``[S]``.
        states: The scaled variable in eigenspace ``[S, N, D]``, float64.
        updates: The last step's change of each state ``[S, N, D]``; zero at the start.
        calls: The number of denoiser calls made.
        gap: That of the last state ``[N, D]``, from which an exact way back starts beside it; None
            of a solver that has none.
    """

    times: Tensor
    states: Tensor
    updates: Tensor
    calls: int
    gap: Tensor | None = None

    @property
    def end(self) -> Tensor:
        """The last state ``[N, D]``."""
        return self.states[-1]

    def __repr__(self) -> str:
        saved, count, dim = self.states.shape
        first, last = float(self.times[0]), float(self.times[-1])
        return (
            f"Trajectory({saved} states of {count} points, dim={dim}, t={first:g} to {last:.4g}, "
            f"calls={self.calls})"
        )


def saved_steps(steps: int, save_every: int | None) -> list[int]:
    """The numbers of steps after which states are saved: 0, every so many, if any, and the last."""
    if save_every is not None and save_every < 1:
        raise UsageError(f"save_freq is {save_every}: it must be at least 1")
    return [*range(0, steps, save_every or steps), steps]


def walk(
    solver: Solver,
    velocity: Velocity,
    x: Tensor,
    gap: Tensor | None,
    times: Tensor,
    unit: Callable[[Tensor], Tensor] | None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The states and gaps ``[N, D]`` at all of the times ``[steps + 1]``, the start first. The
    velocity is of the variable that the solver integrates, and ``unit`` x over that variable
    ``[D]`` at a time, unless they are the same. By the gap of the start it goes back the way it
    came. Raises UsageError if there is a gap, but the solver has none."""
    yield x, gap
    if unit is None:
        yield from solver.walk(velocity, x, times, gap)
        return
    first = unit(times[0])
    steps = solver.walk(velocity, x / first, times, None if gap is None else gap / first)
    for t, (state, apart) in zip(times[1:], steps, strict=True):
        yield unit(t) * state, None if apart is None else unit(t) * apart


def follow(
    walk: Iterable[tuple[int, tuple[Tensor, Tensor | None]]],
    times: Tensor,
    saved: Collection[int],
    on_step: Callable[[], object] | None,
    on_state: Callable[[State], None] | None,
) -> list[State]:
    """Goes along a walk to its end, and keeps its states.

    Args:
        walk: The numbers of steps made, and the state and gap ``[N, D]`` after them, the start
            first.
        times: ``[steps + 1]``.
        saved: The numbers of steps after which states are saved.
        on_step: Called for each step.
        on_state: Takes each saved state; only the first and the last are kept then.

    Raises:
        DataError: The last state is NaN or infinite.
    """
    kept: list[State] = []
    before, done = None, 0
    for index, (x, gap) in walk:
        last = index == len(times) - 1
        if last and not x.isfinite().all():
            raise DataError(
                f"{int((~x.isfinite()).any(dim=1).sum())} of {len(x)} states became NaN or "
                f"infinite between t = {float(times[0]):g} and t = {float(times[-1]):g}: use more "
                "steps, or check the weights"
            )
        if index in saved:
            update = torch.zeros_like(x) if before is None else x - before
            state = State(times[index], x, update, gap)
            if on_state:
                on_state(state)
            if not on_state or last or not kept:
                kept.append(state)
        if on_step:
            for _ in range(done, index):
                on_step()
        before, done = x, index
    return kept
