"""Warnings that training and sampling share."""

from dnnlib.logs import logger

LONGER = 1.1
"""Ratio of the duration to the given minutes from which a command warns that it took longer."""


def warn_if_longer(what: str, seconds: float, minutes: float | None, why: str) -> None:
    """Warn about a command that took longer than its ``--minutes``.

    Args:
        what: Name of the work that took the time.
        seconds: Duration in seconds.
        minutes: The given minutes; None for none.
        why: Part of the work that is not included in these minutes, in words.
    """
    if minutes is not None and seconds > 60 * minutes * LONGER:
        logger.warning(
            f"Warning: {what} took {seconds / 60:.2g} minutes, more than --minutes={minutes:g}: "
            f"{why}"
        )
