"""Progress callbacks: each call reports the fraction of the work done since the last one."""

from collections.abc import Callable

OnPart = Callable[[float], object] | None
"""Callback with the fraction of the work done since the last call; None for no reports."""


def share_of(on_part: OnPart, share: float) -> OnPart:
    """Return a progress callback for a part of the work, which is a given fraction of all work.

    Args:
        on_part: Callback of all work.
        share: Fraction of all work, from 0 to 1.
    """
    if on_part is None:
        return None
    return lambda part: on_part(share * part)


def with_more_calls(on_part: OnPart, calls: Callable[[], int], more: float) -> OnPart:
    """Return a progress callback for work that is followed by further network evaluations.

    The fraction of this work in the total is estimated while the work proceeds. If a fraction f of
    this work took c evaluations, all of it will take c / f, and the completed fraction of the total
    is ``f c / (c + f more)``.

    Args:
        on_part: Callback of the total work.
        calls: Function that returns the number of network evaluations so far.
        more: Number of network evaluations that follow.
    """
    if on_part is None:
        return None
    done = before = 0.0

    def move(part: float) -> None:
        nonlocal done, before
        done += part
        place = done * calls() / max(calls() + done * more, 1)
        on_part(place - before)
        before = place

    return move
