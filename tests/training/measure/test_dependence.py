"""Distance correlations: their definition, their p-values, and what they see."""

import torch
from torch import Tensor

from tests.support.draws import normal, seeded
from training.measure.dependence import independence_p_values


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
