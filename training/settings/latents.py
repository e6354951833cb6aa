"""The option ``--eps``: which law of latents generation starts from."""

import math
from typing import Any

from dnnlib.errors import UsageError
from training.settings.declared import option
from training.simulation.latents import LatentChoice

PAPER = "paper"


def eps(of: str = "Variances of the latents", melt: bool = False) -> Any:
    """The option.

    Args:
        of: What it decides.
        melt: Whether there is a melt to take them from.
    """
    empirical = "empirical (those of the melt), " * melt
    return option(
        default="auto",
        help=f"{of}: auto (the closed form), {empirical}one number for all compressed dimensions, "
        "or as in the paper, where those of kept ones are 1 (paper:NUMBER, or paper without "
        "compression).",
    )


def latent_choice(text: str, otherwise: str | None = None) -> LatentChoice:
    """What the option says.

    Args:
        text: ``auto``, ``empirical``, ``paper``, a positive number, or ``paper:`` and a number.
        otherwise: What to do instead of saying ``empirical``; None where it may be said.

    Raises:
        UsageError: It is something else.
    """
    if text == "empirical" and otherwise is not None:
        raise UsageError(f"--eps is 'empirical', but there is no melt here: {otherwise}")
    if text in ("auto", "empirical", PAPER):
        return LatentChoice(paper=text == PAPER, empirical=text == "empirical")
    kind, colon, number = text.partition(":")
    paper = bool(kind == PAPER and colon)
    try:
        value = float(number if paper else text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(
            f"--eps is '{text}': give auto, empirical, or a positive variance, such as 1e-2 or "
            "paper:1e-2"
        )
    return LatentChoice(eps=value, paper=paper)


def recorded_eps(text: str, used: LatentChoice) -> str:
    """What is recorded of the option: the text, or what was used in its place."""
    return text if latent_choice(text) == used else str(used.name)
