"""The option ``--eps``: which law of latents generation starts from."""

from typing import Any

from training.options.declared import option


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
