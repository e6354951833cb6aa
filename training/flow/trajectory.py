"""Trajectories: the states of an integration, in their order along the ODE."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.solvers import Solver, Velocity


class State(NamedTuple):
    """A saved state of N points during an integration.

    Attributes:
        time: Time of the state ``[]``.
        x: The scaled variable in eigenspace ``[N, D]``, float64.
        update: Change of x in the last step ``[N, D]``, zero at the start; for an adaptive solver,
            the change since the last saved state.
        gap: Half the difference ``[N, D]`` between the two states of a reversible solver, whose
            mean is x; None for other solvers.
    """

    time: Tensor
    x: Tensor
    update: Tensor
    gap: Tensor | None = None


@dataclass(frozen=True)
class Trajectory:
    """Saved states of an integration of the ODE, in the order in which they were visited.

    Attributes:
        times: Times of the S states ``[S]``.
        states: The scaled variable in eigenspace ``[S, N, D]``, float64.
        updates: Change of each state in its last step ``[S, N, D]``; zero at the start.
        calls: Number of network evaluations (NFE).
        gap: Half the difference ``[N, D]`` between the two last states of a reversible solver,
            which an exact inverse needs too; None for other solvers.
    """

    times: Tensor
    states: Tensor
    updates: Tensor
    calls: int
    gap: Tensor | None = None

    @property
    def end(self) -> Tensor:
        """Last state ``[N, D]``."""
        return self.states[-1]

    def __repr__(self) -> str:
        saved, count, dim = self.states.shape
        first, last = float(self.times[0]), float(self.times[-1])
        return (
            f"Trajectory({saved} states of {count} points, dim={dim}, t={first:g} to {last:.4g}, "
            f"calls={self.calls})"
        )


def saved_steps(steps: int, save_every: int | None) -> list[int]:
    """Return the indices of the steps with saved states: 0, multiples of ``save_every``, the last.

    Args:
        steps: Number of steps.
        save_every: Number of steps between saved states; None for the first and last state only.

    Raises:
        UsageError: ``save_every`` is less than 1.
    """
    if save_every is not None and save_every < 1:
        raise UsageError(f"save_freq is {save_every}: give at least 1")
    return [*range(0, steps, save_every or steps), steps]


def walk(
    solver: Solver,
    velocity: Velocity,
    x: Tensor,
    gap: Tensor | None,
    times: Tensor,
    unit: Callable[[Tensor], Tensor] | None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield the states and gaps ``[N, D]`` at all times ``[steps + 1]``, the start included.

    Args:
        solver: The solver.
        velocity: Velocity of the variable that the solver integrates.
        x: State ``[N, D]`` at the first time.
        gap: Gap ``[N, D]`` of that state; if given, the integration reverses earlier steps.
        times: Monotone times ``[steps + 1]``.
        unit: Function from a time to the ratio ``[D]`` of x to the integrated variable; None if
            the two variables are the same.

    Raises:
        UsageError: A gap is given, but the solver has a single state.
    """
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
    """Run an integration to its end, and return its saved states.

    Args:
        walk: Index of each step, with the state and the gap ``[N, D]`` after the step (``State``);
            the start has the index 0.
        times: Times ``[steps + 1]`` of the steps.
        saved: Indices of the steps after which states are saved.
        on_step: Called for each step, for a progress bar.
        on_state: Called with each saved state. Only the first and the last state are then returned.

    Raises:
        DataError: The last state is NaN or infinite.
    """
    kept: list[State] = []
    before, done = None, 0
    for index, (x, gap) in walk:
        last = index == len(times) - 1
        if last and not x.isfinite().all():
            raise DataError(
                f"{int((~x.isfinite()).any(dim=1).sum())} of {len(x)} states became NaN "
                f"or infinite between t = {float(times[0]):g} and t = {float(times[-1]):g}: "
                "use more steps, or check the network"
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
