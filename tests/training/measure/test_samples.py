"""Samples: their distance, how they depend on each other, and rows among others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import norm
from torch import Tensor

from tests.support.draws import normal, seeded
from training.flow.coordinates.surprise import Surprise
from training.measure.clouds import Cloud
from training.measure.dependence import independence_p_values
from training.measure.neighbors import NONE, Neighbors
from training.measure.two_sample import CHUNK, energy_distance, mean_distance


def test_in_one_dimension_it_is_the_square_of_scipys() -> None:
    first, second = normal(300, 1), 0.5 + 2 * normal(200, 1, seed=1)
    expected = stats.energy_distance(first[:, 0].numpy(), second[:, 0].numpy()) ** 2
    assert energy_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_samples_of_one_law_are_as_close_as_their_sizes_allow() -> None:
    first, second = normal(1000, 2), normal(500, 2, seed=1)
    expected = mean_distance(first, first) * (1 / 1000 + 1 / 500)
    assert expected / 4 < energy_distance(first, second) < 4 * expected
    assert energy_distance(first, second + 0.3) > 10 * expected


def test_mean_distances_do_not_know_of_chunks_and_close_points_keep_their_digits() -> None:
    first, second = normal(CHUNK + 5, 2), normal(7, 2, seed=1)
    whole = (first[:, None] - second).norm(dim=-1).mean()
    assert mean_distance(first, second) == pytest.approx(float(whole), rel=1e-12)
    assert mean_distance(second, first) == pytest.approx(float(whole), rel=1e-12)
    first = torch.full((2, 2), 1e6, dtype=torch.float64)
    # Differences are exact; the sum 1e6 + 1e-6 itself is rounded to 1e-10.
    assert mean_distance(first, first + 1e-6) == pytest.approx(1e-6 * 2**0.5, rel=1e-3)


def u_centered(numbers: Tensor) -> Tensor:
    """By the definition, term by term."""
    n = len(numbers)
    a = torch.cdist(numbers[:, None], numbers[:, None], p=1)
    found = torch.zeros_like(a)
    for i in range(n):
        for j in range(n):
            if i != j:
                rows = (a[i].sum() + a[j].sum()) / (n - 2)
                found[i, j] = a[i, j] - rows + a.sum() / ((n - 1) * (n - 2))
    return found


def test_p_values_are_those_of_the_definition() -> None:
    x, y = normal(15, 1, seed=1), normal(15, 1, seed=2).square()
    a, b = u_centered(x[:, 0]), u_centered(y[:, 0])
    correlation = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
    statistic = (15 * correlation + 1).clamp_min(0)
    expected = torch.distributions.Chi2(torch.tensor(1.0).double()).cdf(statistic)
    torch.testing.assert_close(independence_p_values(x, y), (1 - expected).reshape(1, 1))


def test_what_is_independent_is_found_no_more_often_than_its_level_says() -> None:
    """Of normal numbers and of some without a variance: 2,000 tests each."""
    columns = normal(100, 2, seed=3)
    cauchy = torch.empty(100, 1000).double().cauchy_(generator=seeded(4))
    for conditions in (normal(100, 1000, seed=5), cauchy):
        found = independence_p_values(columns, conditions)
        for level in (0.05, 0.01):
            chance = (level * (1 - level) / found.numel()) ** 0.5
            assert float((found < level).double().mean()) < level + 4 * chance


def test_dependence_of_any_form_is_seen_and_units_are_none() -> None:
    x, other = normal(300, 1, seed=6), normal(300, 1, seed=7)
    conditions = torch.cat([x.square(), x * other, 1e6 * x.exp() + 3, torch.ones_like(x)], dim=1)
    found = independence_p_values(torch.cat([x, x.square()], dim=1), conditions)
    assert (found[:3].min(dim=1).values < 1e-6).all()
    assert (found[3] == 1).all()
    torch.testing.assert_close(independence_p_values(1e3 * x, conditions), found[:, :1])


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
    sizes = torch.tensor([1e-3, 1.0, 1e4])
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(400, 3))) * sizes
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


def test_the_new_row_counts_as_a_neighbor_of_the_others() -> None:
    draw = np.random.default_rng(0)
    known, new = (torch.from_numpy(draw.normal(size=(n, 2))) for n in (30, 7))
    of_known, of_new = Neighbors.of(known, 4).relative(new)
    for row, (others, own) in enumerate(zip(of_known, of_new, strict=True)):
        every = torch.cat([known, new[row : row + 1]])
        apart = torch.cdist(every, every).fill_diagonal_(torch.inf).topk(4, largest=False)
        mean = apart.values.mean(dim=1)
        expected = (mean + NONE) / (mean[apart.indices].mean(dim=1) + NONE)
        torch.testing.assert_close(torch.cat([others, own[None]]), expected)


def test_levels_of_neighbors_hold_on_average_for_few_truths_whatever_the_network_is_worth() -> None:
    """A posterior is too narrow by a factor that grows with the one condition."""
    draw = np.random.default_rng(3)

    def made(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = draw.beta(1, 2, size=count)
        scores = 2 * norm.cdf(np.abs(draw.normal(size=count)) * (1 + 4 * y)) - 1
        return torch.from_numpy(y)[:, None], torch.from_numpy(scores)[:, None]

    for truths, count, repetitions in ((30, 10, 300), (1000, 100, 1)):
        held, wide = [], []
        for _ in range(repetitions):
            (y, scores), (fresh, new) = made(truths), made(3000 // repetitions)
            contents, _ = Neighbors.of(y, count).asked(scores, fresh, (0.5, 0.9))
            held.append((new[:, None] <= contents)[..., 0].double().mean(dim=0))
            wide.append((new <= contents[:, 1])[fresh > 0.6])
        mean, error = torch.stack(held).mean(dim=0), 0.03 if repetitions == 1 else 0.02
        assert (mean > torch.tensor([0.5, 0.9]) - error).all()
        assert (mean < torch.tensor([0.5, 0.9]) + 2 / count + error).all()
    assert abs(float(torch.cat(wide).double().mean()) - 0.9) < 0.05
