"""Long steps: a bar on a terminal, and where there is none lines that say how far they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from tqdm import tqdm

from dnnlib.logs import logger
from torch_utils import distributed

EVERY = 30.0
"""Seconds between lines."""


@contextmanager
def progress(begun: str, name: str, total: int, unit: str) -> Iterator[Callable[[float], object]]:
    """Tells how far a step is, on the first rank.

    Args:
        begun: The line at its start.
        name: What is made.
        total: Units of it.
        unit: The name of one.

    Yields:
        What moves it on by so many units.
    """
    main = distributed.is_main()
    with tqdm(total=total, desc=name, unit=unit, disable=None if main else True) as bar:
        if not (main and bar.disable):
            yield bar.update
            return
        logger.info(begun)
        start = last = monotonic()
        done = 0.0

        def move(units: float) -> None:
            nonlocal done, last
            done, now = done + units, monotonic()
            if now - last >= EVERY and done < total:
                last = now
                logger.info(
                    f"{name.capitalize()}: {100 * done / total:.0f} % after {now - start:.0f} s"
                )

        yield move
