"""Which sampler ``auto`` takes, and when posteriors have converged."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, normal
from tests.support.posteriors import Parabola, drawn, gaussian_prior, problem
from training.inference import sampling
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian
from training.inference.sampling import Problem
from training.inference.summary import LEVELS, Summary
from training.measure.posterior.convergence import convergence

FEW = {"draws": 20, "warmup": 10, "chains": 2}


def masked(dim: int, noise: float, observed: Tensor, deblurred: bool = False) -> Problem:
    likelihood = Gaussian(double(noise), torch.tensor([0]))
    return problem(gaussian_prior(dim, deblurred), likelihood, observed)


def test_auto_refines_a_pool_that_is_not_enough_and_anneals_where_it_is_worth_nothing() -> None:
    observed = double([[0.3], [5.5], [-1.5]])  # the second is far out
    whole, first = 2**15, sampling.FIRST
    which, few = masked(2, 0.3, observed), {**FEW, "draws": 250, "chains": 4}
    which = replace(which, target=replace(which.target, rows=256))
    draws = drawn(which, "auto", pool=whole, **few)
    assert draws.sampler == ["pool", "annealed", "refined"]
    # The rest of the pool is made for the third alone, whatever is beside it.
    for index, size in enumerate((first, first, whole)):
        for name, pool in ((draws.sampler[index], size), ("auto", whole)):
            alone = drawn(which.of(torch.tensor([index])), name, pool=pool, **few)
            assert torch.equal(draws.points[index], alone.points[0])
    worth = draws.stats["effective_size"]
    part, all_of_it = (
        drawn(which, "pool", pool=size, **few).stats["effective_size"] for size in (first, whole)
    )
    assert worth[0] == part[0] > sampling.CONTENT > all_of_it[2] > sampling.DEFENDED > part[2]
    assert all_of_it[1] < sampling.DEFENDED
    # Calls of what was tried first count. What rests on a good pool is not tested further.
    assert draws.calls[0] < draws.calls[2] < draws.calls[1]
    assert draws.stats["test"].isnan().tolist() == [True, False, True]
    assert draws.stats["test"][1] < 1
    assert Summary.of(draws, whole).converged.all()


@pytest.mark.parametrize(
    ("dim", "deblurred", "sampler"),
    [(8, False, "annealed"), (9, False, "twisted"), (9, True, "elliptical")],
)
def test_auto_goes_by_dimensions_and_gradients(dim: int, deblurred: bool, sampler: str) -> None:
    which = masked(dim, 1e-3, double([[4.0]]), deblurred)
    assert drawn(which, "auto", **FEW, particles=20).sampler == [sampler]


def test_auto_makes_no_pool_that_cannot_be_enough() -> None:
    plan, observed = sampling.SamplingPlan(pool=1000), double([[0.3] * 9])
    for noise, sampler in ((2.0, "auto"), (0.05, "twisted")):
        whole = problem(gaussian_prior(9), Gaussian(double(noise)), observed)
        assert sampling.settled(whole, plan).sampler == sampler
    few = problem(gaussian_prior(2), Gaussian(double(1e-6)), observed[:, :2])
    assert sampling.settled(few, plan).sampler == "auto"


def test_auto_follows_gradients_of_likelihoods_of_ones_own() -> None:
    which = problem(gaussian_prior(9), Parabola(noise=1e-3), double([[4.0]]))
    assert drawn(which, "auto", **FEW).sampler == ["hmc"]


# Summaries.


def made(w: Tensor, sampler: str = "hmc", **stats: float) -> Draws:
    """Draws ``[1, C, S, D]`` that are their own points."""
    known = {name: double([value]) for name, value in stats.items()}
    return Draws(w[None], w[None], w[None, ..., 0], [sampler], torch.zeros(1), known)


def test_summaries_are_those_of_the_draws() -> None:
    w = normal(4, 500, 2)
    summary, flat = Summary.of(made(w, fine_k=0.1), 100), w.flatten(0, 1)
    torch.testing.assert_close(summary.mean[0], flat.mean(dim=0))
    torch.testing.assert_close(summary.std[0], flat.std(dim=0))
    torch.testing.assert_close(summary.quantiles[0], flat.quantile(double(LEVELS), dim=0).T)
    torch.testing.assert_close(summary.r_hat[0], convergence(w).r_hat)
    assert summary.converged.tolist() == [True]


def stuck(w: Tensor) -> Tensor:
    return w[:1, :1].expand_as(w).clone()


def one_stuck(w: Tensor) -> Tensor:
    w[0] = w[0, 0]
    return w


def one_constant(w: Tensor) -> Tensor:
    w[..., 1] = 3.0
    return w


@pytest.mark.parametrize(
    ("change", "draws", "k", "converged"),
    [
        (lambda w: w, 500, 0.1, True),
        (one_constant, 500, 0.1, True),  # no chain differs in it
        (stuck, 500, 0.1, False),  # R-hat is NaN
        (one_stuck, 500, 0.1, False),
        (lambda w: w[:, :1].expand_as(w), 500, 0.1, False),  # each at its own place
        (lambda w: w + torch.arange(4)[:, None, None], 500, 0.1, False),
        (lambda w: w, 20, 0.1, False),  # too few
        (lambda w: w, 2, 0.1, False),
        (lambda w: w, 500, 0.9, False),  # the fine flow is another
        (lambda w: w, 500, torch.inf, False),
    ],
)
def test_chains_that_have_converged(change: Any, draws: int, k: float, converged: bool) -> None:
    w = change(normal(4, draws, 2))
    assert Summary.of(made(w, fine_k=k), 100).converged.tolist() == [converged]


@pytest.mark.parametrize(
    ("k", "worth", "converged"),
    [(0.3, 3000, True), (0.3, 1000, False), (0.9, 3000, False), (torch.inf, 3000, False)],
)
def test_pools_that_have_converged(k: float, worth: float, converged: bool) -> None:
    draws = made(normal(4, 50, 2), "pool", pareto_k=k, effective_size=worth)
    summary = Summary.of(draws, 4096)
    assert summary.converged.tolist() == [converged]
    assert summary.r_hat.isnan().all()
    assert (summary.ess_bulk == min(worth, 200)).all()  # not more than there are


@pytest.mark.parametrize(
    ("apart", "test", "converged"),
    [(0.0, 0.5, True), (0.3, 0.5, False), (0.0, 1.5, False), (0.0, torch.inf, False)],
)
def test_populations_that_do_not_agree_or_fail_the_test_have_not_converged(
    apart: float, test: float, converged: bool
) -> None:
    w = normal(4, 500, 2) + apart * torch.arange(4)[:, None, None]
    draws = made(w, "annealed", pareto_k=0.1, effective_size=4000.0, test=test)
    assert Summary.of(draws, 4096).converged.tolist() == [converged]


def test_a_width_that_rests_on_few_draws_has_not_converged() -> None:
    """One draw of a thousand is far out: it alone makes most of the width."""
    w = normal(4, 500, 2)
    w[0, :2, 0] = 100.0
    draws = made(w, "pool", pareto_k=0.1, effective_size=4000.0)
    assert Summary.of(draws, 4096).converged.tolist() == [False]


def test_in_many_dimensions_less_must_do() -> None:
    many = made(normal(4, 50, 9), "hmc")
    assert Summary.of(many, 100).converged.tolist() == [True]
