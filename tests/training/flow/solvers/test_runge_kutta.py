"""Tableaus: the conditions of their orders, and stages of rows that each have a time and a step."""

from fractions import Fraction

import pytest
import torch

from tests.support.draws import double, seeded
from tests.support.equations import riccati
from tests.support.flows import Counted
from training.flow.solvers.runge_kutta import (
    CASH_KARP,
    DORMAND_PRINCE,
    EULER,
    HEUN,
    RK4,
    Tableau,
    runge_kutta,
    slopes_of,
    weighted_sum,
)

TABLEAUS = {"euler": EULER, "heun": HEUN, "rk4": RK4, "Cash-Karp": CASH_KARP, "DP": DORMAND_PRINCE}
ORDERS = {"euler": 1, "heun": 2, "rk4": 4, "Cash-Karp": 5, "DP": 5}
every_tableau = pytest.mark.parametrize("name", TABLEAUS)


def matrix(tableau: Tableau) -> torch.Tensor:
    """``a [stages, stages]``."""
    size = len(tableau.nodes)
    rows = [[*row, *[0.0] * (size - len(row))] for row in tableau.stages]
    return double(rows)


def conditions(a: torch.Tensor, c: torch.Tensor) -> list[tuple[int, torch.Tensor, Fraction]]:
    """Order, weighted vector and right side of each rooted tree to order 5 (Hairer, Norsett and
    Wanner, table II.2.2): weights b must give ``b . vector = right side``."""
    one = torch.ones_like(c)
    return [
        (1, one, Fraction(1)),
        (2, c, Fraction(1, 2)),
        (3, c**2, Fraction(1, 3)),
        (3, a @ c, Fraction(1, 6)),
        (4, c**3, Fraction(1, 4)),
        (4, c * (a @ c), Fraction(1, 8)),
        (4, a @ c**2, Fraction(1, 12)),
        (4, a @ a @ c, Fraction(1, 24)),
        (5, c**4, Fraction(1, 5)),
        (5, c**2 * (a @ c), Fraction(1, 10)),
        (5, c * (a @ c**2), Fraction(1, 15)),
        (5, c * (a @ a @ c), Fraction(1, 30)),
        (5, (a @ c) ** 2, Fraction(1, 20)),
        (5, a @ c**3, Fraction(1, 20)),
        (5, a @ (c * (a @ c)), Fraction(1, 40)),
        (5, a @ a @ c**2, Fraction(1, 60)),
        (5, a @ a @ a @ c, Fraction(1, 120)),
    ]


def order_of(b: torch.Tensor, a: torch.Tensor, c: torch.Tensor) -> int:
    """The largest order, up to 5, of which all conditions hold."""
    errors = [(order, float(b @ left) - float(right)) for order, left, right in conditions(a, c)]
    return min((order for order, error in errors if abs(error) > 1e-14), default=6) - 1


@every_tableau
def test_a_tableau_meets_the_conditions_of_its_order_and_no_more(name: str) -> None:
    tableau = TABLEAUS[name]
    a, c = matrix(tableau), double(tableau.nodes)
    torch.testing.assert_close(a.sum(dim=1), c, rtol=0, atol=1e-14)
    b = double(tableau.weights)
    assert order_of(b, a, c) == ORDERS[name]


def test_the_embedded_method_has_order_four() -> None:
    # Its seventh stage is the velocity at the end of the step.
    a = torch.zeros(7, 7, dtype=torch.float64)
    a[:6, :6] = matrix(DORMAND_PRINCE)
    b = double([*DORMAND_PRINCE.weights, 0])
    a[6] = b
    c = double([*DORMAND_PRINCE.nodes, 1])
    error = double(DORMAND_PRINCE.error)
    assert (order_of(b, a, c), order_of(b - error, a, c)) == (5, 4)


@every_tableau
def test_a_step_is_made_of_its_stages_and_rows_may_have_times_and_steps_of_their_own(
    name: str, generator: torch.Generator
) -> None:
    tableau = TABLEAUS[name]
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(5, generator=generator, dtype=torch.float64)
    h = torch.linspace(-0.2, 0.3, 5, dtype=torch.float64)
    together = slopes_of(tableau, riccati, x, t, h)
    for row in range(5):
        alone = slopes_of(tableau, riccati, x[[row]], t[row], h[row])
        for slope, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(slope[[row]], expected, rtol=0, atol=1e-15)
        (end,) = runge_kutta(tableau)(riccati, x[[row]], torch.stack([t[row], t[row] + h[row]]))
        made = x[[row]] + h[row] * sum(b * k for b, k in zip(tableau.weights, alone, strict=True))
        torch.testing.assert_close(end, made, rtol=0, atol=1e-15)


def test_a_velocity_that_is_known_is_not_computed_again() -> None:
    x = torch.rand(5, 3, generator=seeded(), dtype=torch.float64)
    t, h = double(0.3), double(0.1)
    counted = Counted(riccati)
    plain = slopes_of(RK4, counted, x, t, h)
    assert len(counted.times) == 4
    known = slopes_of(RK4, counted, x, t, h, plain[0])
    assert len(counted.times) == 7
    assert all(torch.equal(one, other) for one, other in zip(plain, known, strict=True))


def test_terms_of_no_weight_do_not_enter_a_sum() -> None:
    bad, good = torch.tensor([torch.inf]), torch.tensor([2.0])
    assert torch.equal(weighted_sum((0, 3), (bad, good)), torch.tensor([6.0]))
