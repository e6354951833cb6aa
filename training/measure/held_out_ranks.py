"""Two rank tests of whether held-out rows are distributed as the flow predicts.

Both compare one number per row, and are exact for any such number: if the flow is right, the number
of a held-out row is one more draw from its distribution.
"""

from typing import Any

import torch
from torch import Tensor

RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
"""Mahalanobis radii of the paper's coverage experiment."""


def latent_coverage(whitened: Tensor) -> dict[str, Any]:
    """Compare the fraction of held-out latents within given radii with that of a Gaussian.

    Args:
        whitened: Latents ``[N, D]`` after inflation, whitened to standard normal variables.

    Returns:
        The radii, the observed ``coverage`` and the ``expected`` coverage at each radius, and the
        Kolmogorov-Smirnov statistic and p-value of squared radii against chi-squared with D degrees
        of freedom.
    """
    from scipy.stats import chi2, kstest  # here: training imports this module but needs neither

    squared = whitened.square().sum(dim=1).cpu()
    distribution = chi2(whitened.shape[1])
    test = kstest(squared.numpy(), distribution.cdf)
    limits = torch.tensor(RADII, dtype=torch.float64).square()
    shares = (squared[:, None] <= limits).double().mean(dim=0)
    return {
        "radii": list(RADII),
        "coverage": shares.tolist(),
        "expected": distribution.cdf(limits.numpy()).tolist(),
        "ks_statistic": float(test.statistic),
        "ks_p_value": float(test.pvalue),
    }


def density_ranks(held_out: Tensor, samples: Tensor) -> dict[str, float]:
    """Test whether log densities of held-out rows rank uniformly among those of samples.

    Args:
        held_out: Log densities of held-out rows ``[N]``.
        samples: Log densities of samples of the flow ``[M]``.

    Returns:
        Statistic and p-value of the two-sample Kolmogorov-Smirnov test, which tests the uniformity
        of the ranks, and the mean rank. The mean rank is 1/2 if the flow is right, and less if
        held-out rows lie where the flow has less density than at its own samples. Ties share their
        ranks.
    """
    from scipy.stats import ks_2samp

    test = ks_2samp(held_out.cpu().numpy(), samples.cpu().numpy())
    ordered = samples.cpu().sort().values
    first, last = (torch.searchsorted(ordered, held_out.cpu(), side=s) for s in ("left", "right"))
    ranks = (first + last).double() / 2 / len(ordered)
    return {
        "ks_statistic": float(test.statistic),
        "ks_p_value": float(test.pvalue),
        "mean_rank": float(ranks.mean()),
    }
