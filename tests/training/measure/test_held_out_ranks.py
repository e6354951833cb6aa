"""Tests of ranks: even where the flow is right, and not where it is wrong."""

import numpy as np
import pytest
import torch

from training.measure.held_out_ranks import density_ranks, latent_coverage

VARIANCE = torch.tensor([4.0, 1.0, 0.01], dtype=torch.float64)


def latents(scale: float = 1.0) -> torch.Tensor:
    draws = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return scale * draws * VARIANCE.sqrt()


def test_coverage_is_that_of_chi_squared_if_latents_are_gaussian() -> None:
    right, wide = (latent_coverage(latents(scale) / VARIANCE.sqrt()) for scale in (1.0, 1.1))
    np.testing.assert_allclose(right["coverage"], right["expected"], atol=0.03)
    # Of a Gaussian in 3 dimensions, within 1 and 2 standard deviations.
    assert right["expected"][1] == pytest.approx(0.1987, abs=1e-4)
    assert right["expected"][3] == pytest.approx(0.7385, abs=1e-4)
    assert right["ks_p_value"] > 0.01 > 1e-6 > wide["ks_p_value"]


def test_ranks_are_even_among_draws_of_the_same_law() -> None:
    draws = latents().sum(dim=1)
    same, less = (density_ranks(draws[:2000] - shift, draws[2000:]) for shift in (0, 0.5))
    assert same["ks_p_value"] > 0.01 > 1e-6 > less["ks_p_value"]
    assert same["mean_rank"] == pytest.approx(0.5, abs=0.03)
    assert less["mean_rank"] < 0.45
