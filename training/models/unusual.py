"""How unusual observed images are, by ranks of their denoising errors among held-out images.

The unobserved pixels of an image are set to their posterior mean under a Gaussian prior with the
moments of the training images. Noise of the time 0.6 T is added, and the network estimates the
image. The score is the mean squared error of this estimate over the observed pixels, averaged over
fixed draws of the noise: the network removes noise from images like its training images best.
Held-out images are observed with the same mask and noise, and their scores give a conformal p-value
(``training.measure.conformal``): at most a fraction a of images like the held-out ones have one up
to a, whatever the network and the score.
"""

from pathlib import Path

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import normal_numbers, seeded_generator
from torch_utils.streams import Stream
from training.flow.denoisers import BLOCK_ROWS
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian, Likelihood
from training.measure.conformal import outlier_p_values
from training.models.calibration import Observations
from training.subjects import Subject

SCORE = "denoising error"
ALARM = 0.05
"""p-value below which an observation is reported."""
MOST_HELD_OUT = 1000
"""Largest number of held-out images."""
PLACE, DRAWS = 0.6, 8
"""Time of the noise as a fraction of T, and number of draws of the noise. On digits of 8 x 8
pixels, times from 0.5 to 0.7 reject most letters, and earlier times fewer.
"""


def among_held_out(
    subject: Subject,
    likelihood: Likelihood | None,
    observed: Tensor,
    labels: Tensor | None,
    path: Path,
    seed: int,
    level: float | None = None,
) -> Observations:
    """Return the p-values of observed images among held-out images, and report small ones.

    Args:
        subject: Flow of images.
        likelihood: Gaussian noise on all pixels or on those of a mask.
        observed: Observations ``[M, K]``.
        labels: Conditions ``[M, L]`` of a conditional network; None for none.
        path: Data set of held-out images.
        seed: Random seed of the draw of held-out images and of their noise.
        level: p-value below which an observation is to be rejected; None to report those below
            ``ALARM``.

    Raises:
        UsageError: The observations are not images with noise, whole or by a mask, or no p-value of
            so few held-out images is below the level.
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
    finest = 1 / (count + 1)
    if level is not None and level < finest:
        raise UsageError(
            f"--refuse={level:g} cannot reject anything with {count} held-out images: give at "
            f"least {finest:.2g}, or more images"
        )
    images = subject.truths(path, count, seed)
    generator = seeded_generator("cpu", seed, Stream.MELTED_NOISE)
    alike = likelihood.simulate(images, generator)
    given = None if labels is None else subject.truth_labels(path, count, seed)
    usual = denoising_errors(subject, likelihood, alike, given)
    own = denoising_errors(subject, likelihood, observed, labels)
    p_values = outlier_p_values((usual[:, None], own[:, None]))[0]
    tested = Observations(p_values=p_values, oddest=[SCORE] * len(p_values))
    if level is None:
        tested.warn(ALARM, f"{count} held-out images")
    return tested


@torch.no_grad()
def denoising_errors(
    subject: Subject, likelihood: Gaussian, observed: Tensor, labels: Tensor | None
) -> Tensor:
    """Return the mean squared denoising errors ``[M]`` of observed images, over observed pixels.

    Args:
        subject: Flow of images.
        likelihood: Noise and observed pixels.
        observed: Observed pixels ``[M, K]`` in the units of the images.
        labels: Conditions ``[M, L]``; None for none.
    """
    flow, unit, device = subject.flow, subject.units["unit"], subject.flow.device
    pixels, seen = observed.double().cpu(), likelihood.coordinates
    if seen is not None:
        mean = flow.basis.mean.cpu().double() / unit + subject.units["origin"]
        covariance = flow.basis.covariance().cpu().double() / unit**2
        prior = torch.ones(1, dtype=torch.float64), mean[None], covariance
        filled = ExactPosterior.from_components(*prior, likelihood, pixels).mean
        filled[:, seen] = pixels
        pixels = filled
    if labels is not None:
        flow = flow.given(labels=labels.to(device))
    flow = flow.in_blocks(BLOCK_ROWS[device.type])
    clean = flow.basis.to_eigen((pixels - subject.units["origin"]).to(device) * unit)
    time = PLACE * flow.times()[-1].to(device)
    std, total = flow.schedule.noise_variance(time).sqrt(), torch.zeros(len(clean))
    for draw in range(DRAWS):
        noise = std * normal_numbers((1, subject.dim), draw, Stream.MELTED_NOISE).to(device)
        error = flow.basis.rotate_back(flow.denoiser(clean + noise, time) - clean).cpu()
        total += likelihood.observe(error).square().mean(dim=1) / DRAWS
    return total
