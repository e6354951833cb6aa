"""Tests of raw data as conditions of a posterior."""

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError
from training import Model, Simulations

BOUNDS = {"theta1": (-1.0, 1.0), "theta2": (-1.0, 1.0)}
RNG = np.random.default_rng(0)
THETA = RNG.uniform(-1, 1, (64, 2))


def trained(data, data_as, **options):
    simulations = Simulations(THETA, data, bounds=BOUNDS, seed=0, data_as=data_as)
    return simulations.train(seed=0, duration=0.01, **options)


def test_a_posterior_given_a_set_ignores_the_order_of_elements():
    sets = [RNG.normal(size=(count, 1)) for count in RNG.integers(1, 6, 64)]
    posterior = trained(sets, data_as="sets").posterior()
    observed = RNG.normal(size=(5, 1))
    forward = posterior.log_prob(THETA[:3], observed)
    backward = posterior.log_prob(THETA[:3], observed[::-1].copy())
    np.testing.assert_allclose(forward, backward, atol=1e-6)
    assert np.isfinite(posterior.sample([observed], draws=4, seed=0).points).all()


def test_series_and_images_train_and_sample_within_bounds():
    for data_as, shape in (("series", (12,)), ("images", (8, 8))):
        data = RNG.normal(size=(64, *shape))
        posterior = trained(data, data_as=data_as).posterior()
        points = posterior.sample(data[:2], draws=4, seed=0).points
        assert points.shape[0] == 2
        assert (np.abs(points) <= 1).all()


def test_a_network_of_the_user_is_needed_to_open_its_model(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3))
    data = RNG.normal(size=(64, 2, 3))
    model = trained(data, "arrays", embedding=network)
    path = model.save(tmp_path / "model.pt") or tmp_path / "model.pt"
    with pytest.raises(DataError, match=r"Sequential.*Model\.load\(path, embedding="):
        Model.load(path)
    opened = Model.load(path, embedding=network)
    expected = model.posterior().log_prob(THETA[:3], data[0])
    np.testing.assert_array_equal(opened.posterior().log_prob(THETA[:3], data[0]), expected)
