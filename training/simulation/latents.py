"""Which law of latents generation starts from, by the option ``eps``."""

import math

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.latent import LatentLaw
from training.flow.pfode import ProbabilityFlow


def parse_eps(text: str) -> float | str:
    """``auto``, ``empirical``, or a positive number. Raises UsageError for anything else."""
    if text in ("auto", "empirical"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"eps is '{text}': give auto, empirical, or a positive variance")
    return value


def latent_law(
    flow: ProbabilityFlow,
    end_time: float,
    eps: float | str,
    dims_to_keep: int,
    melted: Tensor | None = None,
) -> LatentLaw:
    """The law that generation starts from.

    Args:
        flow: Knows the closed form.
        end_time: T.
        eps: ``auto``: the closed form; a number: that for the compressed dimensions; ``empirical``:
            the second moments of an earlier melt.
        dims_to_keep: Number of dimensions that are not compressed.
        melted: Scaled eigenspace end of a melt ``[N, D]``, for ``empirical``.
    """
    if eps == "empirical":
        if melted is None:
            raise UsageError("eps=empirical needs a melt to take the variances from")
        return LatentLaw.empirical(melted)
    law = flow.latent_law(torch.tensor(end_time, dtype=torch.float64, device=flow.device))
    return law.with_compressed(eps, dims_to_keep) if isinstance(eps, float) else law
