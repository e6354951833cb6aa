"""Quantities of whole images, whose posteriors are tested in addition to those of pixels.

A sampler may be right for each pixel and wrong for what pixels have in common. The mean of a region
has a posterior of its own, and so do the power of waves of some length and the class of an image.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

import torch
from torch import Tensor

HALVES = ("upper", "lower"), ("left", "right")
FEWEST = 5
"""Smallest number of images per class for learning log odds."""
BANDS = ("long", "middle", "short")
"""Bands of waves, by thirds of the highest frequency along an axis; higher frequencies count as
short.
"""


def image_quantities(shape: tuple[int, int, int]) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Return functions from images ``[..., C H W]`` to scalar quantities ``[...]``, by name.

    The quantities are the means of the four quarters of an image, and its mean power in three
    bands of spatial frequency.

    Args:
        shape: Shape ``(C, H, W)`` of the images.
    """
    _, height, width = shape
    if min(height, width) < 2:
        return {}
    quarters = {
        f"mean {vertical} {horizontal}": partial(_mean, shape, (row, column))
        for (row, vertical), (column, horizontal) in product(*map(enumerate, HALVES))
    }
    fine = 2 * torch.sqrt(
        torch.fft.fftfreq(height).square()[:, None] + torch.fft.fftfreq(width).square()
    )
    bands = (3 * fine).long().clamp_max(len(BANDS) - 1)
    bands[0, 0] = -1  # no wave: the mean
    powers = {
        f"power of {name} waves": partial(_power, shape, bands == place)
        for place, name in enumerate(BANDS)
        if (bands == place).any()
    }
    return quarters | powers


def class_log_odds(images: Tensor, classes: Tensor) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Return functions from images ``[..., D]`` to the log odds of each class, by name.

    The log odds of a class against the others are linear discriminants for normal distributions
    with one shrunk covariance (Ledoit and Wolf 2004).

    Args:
        images: Images of known classes ``[N, D]``, without the images whose log odds are ranked.
        classes: Class of each image ``[N]``. If a class has fewer than ``FEWEST`` images, no
            functions are returned.
    """
    kinds, counts = torch.unique(classes, return_counts=True)
    if len(kinds) < 2 or counts.min() < FEWEST:
        return {}
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # slow to import

    distribution = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    distribution.fit(images.double().numpy(), classes.numpy())
    weights, bias = torch.from_numpy(distribution.coef_), torch.from_numpy(distribution.intercept_)
    if len(kinds) == 2:  # the second against the first
        weights, bias = (torch.cat([0 * each, each]) for each in (weights, bias))
    return {
        f"log odds of class {kind}": partial(_log_odds, weights, bias, place)
        for place, kind in enumerate(kinds.tolist())
    }


def _log_odds(weights: Tensor, bias: Tensor, place: int, images: Tensor) -> Tensor:
    logits = images @ weights.to(images).T + bias.to(images)
    others = torch.arange(len(bias), device=images.device) != place
    return logits[..., place] - logits[..., others].logsumexp(dim=-1)


def _mean(shape: tuple[int, int, int], half: tuple[int, int], images: Tensor) -> Tensor:
    pixels = images.view(*images.shape[:-1], *shape)
    for axis, part in zip((-2, -1), half, strict=True):
        pixels = pixels.tensor_split(2, dim=axis)[part]
    return pixels.mean(dim=(-3, -2, -1))


def _power(shape: tuple[int, int, int], band: Tensor, images: Tensor) -> Tensor:
    waves = torch.fft.fft2(images.view(*images.shape[:-1], *shape), norm="ortho").abs().square()
    return waves[..., band.to(images.device)].mean(dim=(-2, -1))
