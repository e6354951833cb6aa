"""The option ``--eps``: which law of latents generation starts from."""

from __future__ import annotations

import math
from typing import Any

from dnnlib.errors import UsageError
from training import runs
from training.names import LEARNED
from training.options.declared import option

PAPER = "paper"


def eps(of: str = "Law of the latents", melt: bool = False) -> Any:
    """The option.

    Args:
        of: What it decides.
        melt: Whether there is a melt to take them from.
    """
    empirical = "empirical (those of the melt), " * melt
    return option(
        unset="learned, if the network has such a law; otherwise auto",
        help=f"{of}: learned (that of the network file), or a Gaussian of these variances: auto "
        f"(the closed form), {empirical}one number for all compressed dimensions, or as in the "
        "paper, where those of kept ones are 1 (paper:NUMBER, or paper without compression)",
    )


def latent_choice(text: str | None, otherwise: str | None = None) -> runs.LatentChoice:
    """What the option says.

    Args:
        text: ``learned``, ``auto``, ``empirical``, ``paper``, a positive number, or ``paper:`` and
            a number; None for the learned law where there is one.
        otherwise: What to do instead of saying ``empirical``; None where it may be said.

    Raises:
        UsageError: It is something else.
    """
    if text == "empirical" and otherwise is not None:
        raise UsageError(f"--eps is 'empirical', but there is no melt here: {otherwise}")
    if text is None or text == LEARNED:
        return runs.LatentChoice(learned=None if text is None else True)
    if text in ("auto", "empirical", PAPER):
        return runs.LatentChoice(paper=text == PAPER, empirical=text == "empirical")
    kind, colon, number = text.partition(":")
    paper = bool(kind == PAPER and colon)
    try:
        value = float(number if paper else text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(
            f"--eps is '{text}': give learned, auto, empirical, or a positive variance, such as "
            "1e-2 or paper:1e-2"
        )
    return runs.LatentChoice(eps=value, paper=paper)


def recorded_eps(text: str | None, used: runs.LatentChoice) -> str:
    """What is recorded of the option: the text, or what was used in its place."""
    return text if text is not None and latent_choice(text) == used else str(used.name)
