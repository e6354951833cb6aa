"""Ranks of observed images among held-out images."""

import numpy as np
import pytest
import torch

from tests.support.running import quick_endings
from training import Images
from training.inference.likelihoods import Gaussian
from training.models.posterior_sampling import RejectedObservation
from training.models.unusual import Unusual, completed, rank_p_values


def test_p_values_of_exchangeable_scores_are_at_most_a_in_a_fraction_a_of_cases():
    scores = torch.rand(2000, 20, generator=torch.Generator().manual_seed(0))
    values = torch.stack([rank_p_values(row[1:], row[:1])[0] for row in scores])
    for level in (0.05, 0.25, 0.5):
        assert abs(float((values <= level).double().mean()) - level) < 0.035
    assert float(values.min()) == 1 / 20


def test_unobserved_pixels_get_their_gaussian_mean():
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    covariance, mean = root @ root.T + torch.eye(6), torch.arange(6.0, dtype=torch.float64)
    seen, values = torch.tensor([4, 1]), torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    points = completed(mean, covariance, seen, values)[0]
    precision = covariance.inverse()  # the conditional mean by the precision, another route
    rest = torch.tensor([0, 2, 3, 5])
    off = precision[rest][:, seen] @ (values[0] - mean[seen])
    expected = mean[rest] - torch.linalg.solve(precision[rest][:, rest], off)
    assert points[seen].tolist() == values[0].tolist()
    assert torch.allclose(points[rest], expected, atol=1e-2)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A network of images that have one gray level each, held-out images, and observations."""
    folder, random = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)

    def images(count):
        level = random.uniform(60, 190, (count, 1, 1, 1))
        return np.clip(level + random.normal(0, 2, (count, 8, 8, 1)), 0, 255).astype(np.uint8)

    with quick_endings():
        model = Images(images(200)).train(duration=0.001, cbase=4, cres="1", blocks=1, seed=0)
    path = folder / "held-out.npz"
    np.savez(path, images=images(99))
    return model, path, np.concatenate([images(1), random.integers(0, 256, (1, 8, 8, 1))])


def test_an_image_unlike_the_held_out_ones_is_named_and_can_be_rejected(stripes, caplog):
    model, held_out, observed = stripes
    points = torch.from_numpy(observed).double().reshape(2, -1)[:, :32]
    likelihood = Gaussian(torch.tensor(5.0), torch.arange(32))
    unusual = Unusual.of(model.subject, likelihood, points, None, held_out, 0)
    with caplog.at_level("WARNING"):
        unusual.report()
    usual, unlike = unusual.summary()["p_values"]
    assert unlike == 0.01 < 0.05 < usual
    assert "observation 2 is out of distribution" in caplog.text
    assert "observation 1 is out" not in caplog.text
    posterior = model.posterior(noise_std=5, mask="upper-half", held_out_images=held_out)
    with pytest.raises(RejectedObservation, match="out of distribution"):
        posterior.sample(observed, refuse=0.05)
