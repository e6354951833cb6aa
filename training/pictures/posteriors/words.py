"""Wording that all pictures of posteriors share."""

import numpy as np

from training.files.arrays import title_of
from training.files.posterior_draws import SavedPosteriors
from training.files.rows import printable
from training.pictures import theme

MOST_SHOWN = 6
"""Number of observations that are shown at most."""
NUMBERS_TOLD = 3


def name_and_details(saved: SavedPosteriors) -> tuple[str, str]:
    """Return the name of the data, and how the posterior draws were made, in words."""
    name, schedule = title_of(saved.path.stem.removesuffix("_posterior"))
    samplers = ", ".join(sorted(set(saved.sampler)))
    chains, draws = saved.points.shape[:2]
    drawn = f"{chains * draws:,} draws each" + (
        f", every {saved.every}th is shown" * (saved.every > 1)
    )
    shown = np.moveaxis(saved.points, 2, 0)
    drawn += distinct_words(shown.reshape(len(shown), chains * draws, -1))
    return name, theme.joined(schedule, f"by {samplers}", drawn)


def distinct_words(points: np.ndarray) -> str:
    """Describe in words how many of the draws ``[M, S, D]`` of each observation are different.

    The text is empty if all are different, as with samplers that do not repeat draws.
    """
    counts = [len({row.tobytes() for row in np.ascontiguousarray(draws)}) for draws in points]
    least, most = min(counts), max(counts)
    if least == points.shape[1]:
        return ""
    return f", {least:,} distinct" if least == most else f", {least:,} to {most:,} of them distinct"


def part_of(saved: SavedPosteriors, shown: int) -> str:
    """Describe in words which observations are shown; the text is empty if all are."""
    if shown == saved.count:
        return ""
    return f"first of {saved.count:,}" if shown == 1 else f"first {shown} of {saved.count:,}"


def value_words(values: np.ndarray) -> str:
    """Format an observation ``[K]``, shortened to its first numbers."""
    listed = ", ".join(f"{value:.3g}".replace("-", "−") for value in values[:NUMBERS_TOLD])
    more = ", …" if len(values) > NUMBERS_TOLD else ""
    return f"y = ({listed}{more})" if len(values) > 1 else f"y = {listed}"


def axis_name(name: str, room: float = 2.0) -> str:
    """Return the name of a coordinate, truncated to fit a width of ``room`` inches."""
    return theme.fitting(printable(name), room)
