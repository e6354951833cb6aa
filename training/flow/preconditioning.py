"""Preconditioning: coefficients between a network F and its denoiser.

    D = c_skip x_tilde + c_out F(c_in x_tilde; c_noise)

The inflationary coefficients are those of Karras et al. 2022 (section 5) per eigen-dimension: with
data variance ``xi`` and noise variance ``gamma``,

    c_skip = xi / (xi + gamma),  c_out = sqrt(c_skip gamma),  c_in = 1 / sqrt(xi + gamma).

``c_skip`` is the best linear denoiser; F has inputs and targets of unit variance. The published
``c_out^2`` is a sum of four terms that can cancel below zero; this closed form is equal and cannot.

The isotropic baselines are those of Karras et al. 2022, table 1: ``edm`` with the mean of ``xi`` in
place of ``sigma_data^2``; ``vp`` and ``ve``, in which F predicts the noise.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Preconditioning(NamedTuple):
    """Coefficients ``[..., D]`` of the denoiser ``D = c_skip x_tilde + c_out F(c_in x_tilde)``.

    For clean points e and noisy points ``x_tilde = e + sqrt(gamma) n`` with standard normal n, the
    target of the network F, ``(e - c_skip x_tilde) / c_out``, equals ``clean_weight e +
    noise_weight n``. This form has no cancellation, however small the noise.

    Attributes:
        c_skip: Weight of the noisy points in the denoiser.
        c_out: Weight of the network output in the denoiser.
        c_in: Factor on the noisy points at the network's input.
        clean_weight: Weight of the clean points in the network's target.
        noise_weight: Weight of the noise in the network's target.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    clean_weight: Tensor
    noise_weight: Tensor


def per_dimension(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the coefficients for data variances ``xi [D]`` and noise variances ``[..., D]``."""
    total = data_variance + noise_variance
    c_skip, c_in, data_std = data_variance / total, total.rsqrt(), data_variance.sqrt()
    return Preconditioning(
        c_skip,
        c_out=(c_skip * noise_variance).sqrt(),
        c_in=c_in,
        clean_weight=c_in * noise_variance.sqrt() / data_std,
        noise_weight=-c_in * data_std,
    )


def edm(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the EDM coefficients, with the mean data variance in place of each variance."""
    return per_dimension(data_variance.mean(), noise_variance)


def vp(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the VP coefficients: noise prediction, with inputs scaled for unit data variance."""
    one = torch.ones_like(noise_variance)
    c_in = (1 + noise_variance).rsqrt()
    return Preconditioning(one, -noise_variance.sqrt(), c_in, 0 * one, one)


def ve(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the VE coefficients: noise prediction, with unscaled inputs."""
    one = torch.ones_like(noise_variance)
    return Preconditioning(one, noise_variance.sqrt(), one, 0 * one, -one)


PRECONDITIONINGS: dict[str, Callable[[Tensor, Tensor], Preconditioning]] = {
    "ifs": per_dimension,
    "edm": edm,
    "vp": vp,
    "ve": ve,
}
