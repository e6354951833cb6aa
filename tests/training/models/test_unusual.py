"""Ranks of observed images among held-out images."""

import numpy as np
import pytest
import torch

from dnnlib.errors import UsageError
from tests.support.running import quick_endings, refusal
from training import Images
from training.inference.likelihoods import Gaussian
from training.models.posterior_sampling import RejectedObservation
from training.models.unusual import among_held_out


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """A network of images that have one gray level each, held-out images, and observations."""
    folder, random = tmp_path_factory.mktemp("stripes"), np.random.default_rng(0)

    def images(count):
        level = random.uniform(60, 190, (count, 1, 1, 1))
        return np.clip(level + random.normal(0, 2, (count, 8, 8, 1)), 0, 255).astype(np.uint8)

    with quick_endings():
        model = Images(images(200)).train(duration=0.001, cbase=4, cres="1", workers=0)
    path = folder / "held-out.npz"
    np.savez(path, images=images(99))
    return model, path, np.concatenate([images(1), random.integers(0, 256, (1, 8, 8, 1))])


def test_an_image_unlike_the_held_out_ones_is_named_and_can_be_rejected(stripes, caplog):
    model, held_out, observed = stripes
    points = torch.from_numpy(observed).double().reshape(2, -1)[:, :32]
    likelihood = Gaussian(torch.tensor(5.0), torch.arange(32))
    with caplog.at_level("WARNING"):
        tested = among_held_out(model.subject, likelihood, points, None, held_out, 0)
    usual, unlike = tested.listed
    assert unlike == pytest.approx(1 / 100)
    assert usual > 0.05
    assert "out of distribution: observation 2 (p = 0.01" in caplog.text
    assert "observation 1" not in caplog.text
    posterior = model.posterior(noise_std=5, mask="upper-half", held_out_images=held_out)
    with pytest.raises(RejectedObservation, match="out of distribution"):
        posterior.sample(observed, refuse=0.05)
    message = refusal(posterior.sample, observed, refuse=0.005, kind=UsageError)
    assert "--refuse=0.005 cannot reject anything with 99 held-out images" in message
