"""Numbers among others by mean and covariance."""

from dataclasses import replace

import numpy as np
import torch

from training.flow.coordinates.surprise import Surprise
from training.measure.clouds import Cloud


def test_a_number_alone_is_what_linear_regression_on_the_others_leaves() -> None:
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(5000, 3)) @ [[1, 0.9, 0], [0, 0.3, 0], [0, 0, 100]] + 7
    mean = torch.from_numpy(rows.mean(axis=0))
    cloud = Cloud.of(mean, torch.from_numpy(np.cov(rows.T)))
    errors = []
    for k in range(3):
        others = np.delete(rows, k, axis=1) - np.delete(rows, k, axis=1).mean(axis=0)
        own = rows[:, k] - rows[:, k].mean()
        left = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
        errors.append(np.abs(left) / left.std())
    np.testing.assert_allclose(cloud.alone(torch.from_numpy(rows)), np.max(errors, 0), rtol=1e-3)


def test_a_law_of_conditions_gives_the_covariance_of_those_that_count() -> None:
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(400, 3))) * torch.tensor(
        [1e-3, 1.0, 1e4]
    )
    rows[:, 2] += 1e6 * rows[:, 0]
    law = Surprise(3).fit(rows, relevant=[0, 2])
    expected = rows.T.cov(correction=0)
    expected[1], expected[:, 1] = 0, 0
    torch.testing.assert_close(law.covariance, expected, rtol=1e-6, atol=1e-12)
    cloud = Cloud.of(law.mean, law.covariance)
    nats = law(rows) + law.quantiles[0]
    torch.testing.assert_close(cloud.surprise(rows), nats, rtol=1e-6, atol=1e-9)
    # Places do not depend on signs of axes, which differ from machine to machine.
    signs = torch.tensor([1.0, -1.0, -1.0])
    turned = replace(cloud, axes=cloud.axes * signs)
    torch.testing.assert_close(turned.places(rows), cloud.places(rows))
