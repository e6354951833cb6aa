"""Progress of a piece of work: what does it tells which part of all it did since it last told."""

from collections.abc import Callable

OnPart = Callable[[float], object] | None
"""Called with the part of the work that was done since the last call; None where nobody asks."""


def share_of(on_part: OnPart, share: float) -> OnPart:
    """The progress of work that is this share of a larger one, whose is ``on_part``."""
    if on_part is None:
        return None
    return lambda part: on_part(share * part)


def with_more_calls(on_part: OnPart, calls: Callable[[], int], more: float) -> OnPart:
    """The progress of work that is not all: so many network calls more follow it.

    What share of all it is shows as it goes on: if a part f of it took c calls, all of it will take
    c / f, and ``f c / (c + f more)`` of everything is done. ``calls`` says how many it has taken.
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
