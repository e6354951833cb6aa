"""Which law of latents generation starts from, by the option ``eps``."""

import math

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.latent import LatentLaw
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule

PAPER = "paper"


def parse_eps(text: str) -> float | str:
    """``auto``, ``empirical``, ``paper``, a positive number, or ``paper:`` with one after it.

    Raises:
        UsageError: It is something else.
    """
    kind, colon, number = text.partition(":")
    if text in ("auto", "empirical", PAPER):
        return text
    named = kind == PAPER and colon
    try:
        value = float(number if named else text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(
            f"eps is '{text}': give auto, empirical, or a positive variance, such as 1e-2 or "
            "paper:1e-2"
        )
    return text if named else value


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
            the second moments of an earlier melt; ``paper:`` and a number: that for the compressed
            dimensions, and ``A0 ** 2`` for the kept ones, as in the paper's tables.
        dims_to_keep: Number of dimensions that are not compressed.
        melted: Scaled eigenspace end of a melt ``[N, D]``, for ``empirical``.

    Raises:
        UsageError: There is no melt for ``empirical``, or ``paper`` does not say a variance that it
            needs, or is asked of an isotropic model.
    """
    if isinstance(eps, str) and eps.startswith(PAPER):
        return _paper_law(flow, eps, dims_to_keep)
    if eps == "empirical":
        if melted is None:
            raise UsageError("eps=empirical needs a melt to take the variances from")
        return LatentLaw.empirical(melted)
    law = flow.latent_law(torch.tensor(end_time, dtype=torch.float64, device=flow.device))
    return law.with_compressed(eps, dims_to_keep) if isinstance(eps, float) else law


def _paper_law(flow: ProbabilityFlow, eps: str, dims_to_keep: int) -> LatentLaw:
    schedule, dim, number = flow.schedule, flow.basis.dim, eps.partition(":")[2]
    if not isinstance(schedule, InflationSchedule):
        raise UsageError(f"eps is '{eps}', but {schedule.name} is no inflationary flow: give auto")
    if not number and dims_to_keep < dim:
        raise UsageError(
            f"eps is '{eps}', but {dim - dims_to_keep} dimensions are compressed: give their "
            "variance, as in paper:1e-2"
        )
    law = LatentLaw.paper(dim, dims_to_keep, float(number or 1), schedule.end_std)
    return LatentLaw(law.variance.to(flow.device))
