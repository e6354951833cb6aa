"""How unusual observed images are, by ranks of their denoising errors among held-out images.

The unobserved pixels of an image are set to their mean given the observed ones, under a Gaussian
with the moments of the training images. Noise of the time 0.6 T is added, and the network estimates
the image. The score s is the mean squared error of this estimate over the observed pixels, averaged
over fixed draws of the noise: the network removes noise from images like its training images best.
Held-out images are observed with the same mask and noise. With their n scores s_i,

    p = (1 + #{s_i >= s}) / (n + 1)

is at most a for at most a fraction a of images like the held-out ones, whatever the network and the
score (conformal p-value; Vovk, Gammerman and Shafer 2005, *Algorithmic learning in a random
world*).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils.seeds import normal_numbers, seeded_generator
from torch_utils.streams import Stream
from training.inference.likelihoods import Gaussian, Likelihood
from training.subjects import Subject

MOST_HELD_OUT, MOST_LINES = 1000, 10
"""Largest number of held-out images, and of observations that are named."""
PLACE, DRAWS = 0.6, 8
"""Time of the noise as a fraction of T, and number of draws of the noise. On digits of 8 x 8
pixels, times from 0.5 to 0.7 reject most letters, and earlier times fewer.
"""
ALARM = 0.05
"""p-value from which on an observation is reported as out of distribution."""


@dataclass(frozen=True, eq=False)
class Unusual:
    """How unusual M observed images are.

    Attributes:
        p_values: p-value of each observation ``[M]``.
        count: Number of held-out images, n. No p-value is below ``1 / (n + 1)``.
    """

    p_values: Tensor
    count: int

    @classmethod
    def of(
        cls,
        subject: Subject,
        likelihood: Likelihood | None,
        observed: Tensor,
        labels: Tensor | None,
        path: Path,
        seed: int,
    ) -> "Unusual":
        """Compare observed images with held-out images.

        Args:
            subject: Flow of images.
            likelihood: Gaussian noise on all pixels or on those of a mask.
            observed: Observations ``[M, K]``.
            labels: Conditions ``[M, L]`` of a conditional network; None for none.
            path: Data set of held-out images.
            seed: Random seed of the draw of held-out images and of their noise.

        Raises:
            UsageError: The observations are not images with noise, whole or by a mask.
            DataError: The data set does not fit the network.
        """
        gaussian = isinstance(likelihood, Gaussian) and likelihood.operator is None
        if subject.image_shape is None or not gaussian:
            raise UsageError(
                "--held_out_images is for images that are observed whole or by --mask: leave "
                "--held_out_images out"
            )
        assert isinstance(likelihood, Gaussian)
        count = min(subject.testable(path) or 0, MOST_HELD_OUT)
        images = subject.truths(path, count, seed)
        generator = seeded_generator("cpu", seed, Stream.MELTED_NOISE)
        alike = likelihood.simulate(images, generator)
        given = None if labels is None else subject.truth_labels(path, count, seed)
        usual = scores(subject, likelihood.coordinates, alike, given)
        own = scores(subject, likelihood.coordinates, observed, labels)
        return cls(rank_p_values(usual, own), count)

    @property
    def smallest(self) -> float:
        """Smallest p-value of all observations."""
        return float(self.p_values.min())

    def report(self) -> None:
        """Log the number of unusual observations, and warn of each."""
        unlike = (self.p_values <= ALARM).nonzero()[:, 0].tolist()
        logger.info(
            f"{len(self.p_values) - len(unlike)} of {len(self.p_values)} observations are like "
            f"{self.count} held-out images at the level {ALARM:g}; smallest p-value "
            f"{self.smallest:.2g}"
        )
        for place in unlike[:MOST_LINES]:
            logger.warning(
                f"Warning: observation {place + 1} is out of distribution: p = "
                f"{float(self.p_values[place]):.2g} among held-out images observed in the same way"
            )

    def summary(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {"held_out": self.count, "p_values": self.p_values.tolist()}


@torch.no_grad()
def scores(
    subject: Subject, seen: Tensor | None, observed: Tensor, labels: Tensor | None
) -> Tensor:
    """Return the denoising errors ``[M]`` of observed images.

    Args:
        subject: Flow of images.
        seen: Indices of the observed pixels ``[K]``; None for all.
        observed: Observed pixels ``[M, K]`` in the units of the images.
        labels: Conditions ``[M, L]``; None for none.
    """
    flow, units, device = subject.flow, subject.units, subject.flow.device
    points = (observed.double().to(device) - units["origin"]) * units["unit"]
    if seen is not None:
        seen = seen.to(device)
        points = completed(flow.basis.mean, flow.basis.covariance(), seen, points)
    if labels is not None:
        flow = flow.given(labels=labels.to(device))
    clean, time = flow.basis.to_eigen(points), PLACE * flow.times()[-1].to(device)
    std, total = flow.schedule.noise_variance(time).sqrt(), torch.zeros(len(points))
    for draw in range(DRAWS):
        noise = std * normal_numbers((1, subject.dim), draw, Stream.MELTED_NOISE).to(device)
        error = flow.basis.rotate_back(flow.denoiser(clean + noise, time) - clean)
        error = error if seen is None else error[:, seen]
        total += error.square().mean(dim=1).cpu() / DRAWS
    return total


def completed(mean: Tensor, covariance: Tensor, seen: Tensor, values: Tensor) -> Tensor:
    """Return points ``[M, D]`` with some coordinates, and the others at their Gaussian mean.

    Args:
        mean: Mean ``[D]``.
        covariance: Covariance ``[D, D]``.
        seen: Indices of the known coordinates ``[K]``.
        values: Their values ``[M, K]``.
    """
    own = covariance[seen][:, seen]
    jitter = 1e-4 * covariance.diagonal().mean() * torch.eye(len(seen)).to(own)
    points = mean + (values - mean[seen]) @ torch.linalg.solve(own + jitter, covariance[seen])
    points[:, seen] = values
    return points


def rank_p_values(usual: Tensor, own: Tensor) -> Tensor:
    """Return the p-values ``[M]`` of large scores ``[M]`` among held-out scores ``[n]``."""
    above = len(usual) - torch.searchsorted(usual.sort().values, own)
    return (1 + above).double() / (len(usual) + 1)
