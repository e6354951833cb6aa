"""Checks of posteriors, which sampler is taken, and when they have converged."""

import re
from dataclasses import replace

import pytest
import torch

from tests.support import posteriors
from tests.support.draws import double, normal, seeded
from training.inference import checking, sampling
from training.inference.amortized import Amortized
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian
from training.inference.samplers import populations
from training.inference.samplers.populations import Pool
from training.inference.sampling import Problem, SamplingPlan
from training.inference.summary import LEVELS, Summary
from training.inference.target import Target
from training.measure.posterior.calibration import calibrate
from training.measure.posterior.convergence import convergence

PLAN = SamplingPlan("pool", draws=100, pool=2048, seed=1)
EMPTY = torch.zeros(1, 2).double()
RUNS, STD = 300, 0.6
ORDER = normal(RUNS, 1, seed=5)[:, 0].argsort()
FEW = {"draws": 20, "warmup": 10, "chains": 2}


def checked(prior, noise):
    numbers = list(range(1000))
    target = Target(prior, Gaussian(double(0.5)), EMPTY, posteriors.ROWS)
    truths = checking.true_points_of_prior(target, numbers, PLAN.seed)
    observed = checking.simulated(target.likelihood, truths.points, numbers, PLAN.seed)
    sampled = Target(prior, Gaussian(double(noise)), observed, posteriors.ROWS)
    which, pool = Problem(sampled, prior, numbers), Pool.draw(sampled, PLAN.pool, 1)
    return calibrate(checking.check_runs(which, PLAN, truths, ["x1", "x2"], pool)[0])


def test_a_noise_misstated_by_a_fifth_is_found_and_the_right_one_passes():
    prior = posteriors.gaussian_prior()
    assert min(checked(prior, 0.5).adjusted.values()) > 0.01
    assert checked(prior, 0.4).adjusted[f"ranks of {checking.LIKELIHOOD}"] < 0.01


def test_truths_and_observations_are_functions_of_seed_and_number():
    target = Target(posteriors.gaussian_prior(), Gaussian(double(0.5)), EMPTY, posteriors.ROWS)
    whole = checking.true_points_of_prior(target, range(5), 1)
    part = checking.true_points_of_prior(target, [3, 1], 1)
    assert torch.equal(part.points, whole.points[[3, 1]])
    seen = checking.simulated(target.likelihood, whole.points, list(range(5)), 1)
    assert torch.equal(checking.simulated(target.likelihood, part.points, [3, 1], 1), seen[[3, 1]])
    torch.testing.assert_close((seen - whole.points).std(), double(0.5), rtol=0.6, atol=0)


def test_truths_have_labels_of_their_own(learned):
    y = double([[0.5], [-1.0]]).repeat(500, 1)
    target = Target(learned, Gaussian(double(0.5)), EMPTY, 256, y)
    made = checking.true_points_of_prior(target, range(1000), 0)
    expected = 0.64 * y + 0.6 * made.w[:, :1]
    torch.testing.assert_close(made.points[:, :1], expected, rtol=0, atol=0.03)
    again = checking.true_points_of_data(target, made.points, range(1000), 0)
    torch.testing.assert_close(again.w, made.w, rtol=0, atol=0.1)


def test_truths_of_data_have_variables_of_the_prior():
    """Standard normal ones, if the data are as the prior has them."""
    prior, count = posteriors.gaussian_prior(unit=0.5, origin=10.0), 2000
    target = Target(prior, Gaussian(double(0.5)), EMPTY, posteriors.ROWS)
    mean, covariance = prior.moments()
    noise = torch.randn(count, 2, generator=seeded()).double()
    points = mean + noise @ torch.linalg.cholesky(covariance).T
    truths = checking.true_points_of_data(target, points, range(count), 1)
    assert torch.equal(truths.points, points)
    assert (truths.w.mean(dim=0).abs() < 4.5 / count**0.5).all()
    assert ((truths.w.T.cov() - torch.eye(2)).abs() < 4.5 * (2 / count) ** 0.5).all()
    # The noise is that of the first time: without it variables would be those of the points.
    gap = prior.points(truths.w).points - points
    expected = prior.flow.schedule.noise_variance(prior.times[0]).mean() / 0.25
    torch.testing.assert_close(gap.square().mean(), expected, rtol=0.15, atol=0)
    blurred = checking.true_points_of_data(target, points, range(count), 1, blurred=True)
    assert torch.equal(blurred.w, truths.w)
    torch.testing.assert_close(blurred.points, prior.points(truths.w).points, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def learned():
    return posteriors.conditional_prior()


def learnable(noise=None):
    y = 1.25 * normal(RUNS, 1, seed=5)
    noise = normal(RUNS, 2, seed=6) if noise is None else noise
    return torch.cat([0.64 * y + STD * noise[:, :1], noise[:, 1:]], dim=1), y


def of_learned(learned, truths, y, references=None):
    amortized = Amortized(learned, y, rows=2048, draws=60, seed=2)
    return checking.check_learned(amortized, truths, torch.arange(RUNS), "ab", references)


def test_the_right_posterior_passes(learned):
    truths, y = learnable()
    got = of_learned(learned, truths, y)
    assert got.names == ("a", "b", "log density")
    of_truths = torch.distributions.Normal(torch.cat([0.64 * y, 0 * y], 1), torch.tensor([STD, 1]))
    expected = of_truths.log_prob(truths).sum(dim=1)
    # But for the noise of the first time.
    torch.testing.assert_close(got.density, expected, rtol=0, atol=0.15)
    check = calibrate(got)
    mean, error = float(expected.mean()), float(expected.std()) / RUNS**0.5
    assert check.density == pytest.approx((mean, error), abs=0.02)
    assert check.passed


def test_a_posterior_that_is_wrong_for_half_of_the_observations_fails(learned):
    noise = normal(RUNS, 2, seed=6)
    noise[ORDER[: RUNS // 2]] *= 2
    got = of_learned(learned, *learnable(noise))
    assert not calibrate(got).passed


def test_only_points_that_know_conditions_see_a_posterior_that_does_not():
    learned, (truths, y) = posteriors.conditional_prior("off"), learnable()
    assert calibrate(of_learned(learned, truths, y)).passed
    nearest = torch.cat([0.64 * y + STD * normal(RUNS, 1, seed=8), normal(RUNS, 1, seed=9)], dim=1)
    got = calibrate(of_learned(learned, truths, y, nearest))
    assert [name for name, p in got.adjusted.items() if p < 0.01] == ["TARP"]


def test_what_leaks_is_not_taken_for_density(learned):
    """Truths of the posterior between bounds, of which the flow has a third beyond."""
    low = -0.4
    inside = torch.special.ndtr(torch.tensor(low).double())
    level = inside + (1 - inside) * torch.special.ndtr(normal(RUNS, 1, seed=10))
    noise = torch.cat([normal(RUNS, 1, seed=6), torch.special.ndtri(level)], dim=1)
    assert calibrate(of_learned(posteriors.limited(learned, low), *learnable(noise))).passed
    assert not calibrate(of_learned(learned, *learnable(noise))).passed


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize(
    ("narrower", "beside", "passes"), [(1.0, 0.0, True), (0.6, 0.0, False), (1.0, 0.5, False)]
)
def test_narrow_or_moved_draws_fail(dim, narrower, beside, passes):
    likelihood, observed = Gaussian(double(0.05), torch.tensor([0])), double([[0.3]])
    which = posteriors.problem(posteriors.gaussian_prior(dim), likelihood, observed)
    which.target.rows = 256
    mean, covariance = posteriors.posterior(which.coarse, likelihood, observed)
    root = torch.linalg.cholesky(covariance)
    noise = narrower * normal(4 * 500, dim)
    points = mean + (noise + beside * torch.eye(dim).double()[-1]) @ root.T
    start, columns = posteriors.affine(which.coarse)
    w = torch.linalg.solve(columns, (points - start).T).T
    shape = (1, 4, 500)
    got = likelihood.log_prob(points, observed.expand(len(points), -1)).view(shape)
    draws = Draws(w.view(*shape, -1), points.view(*shape, -1), got, ["hmc"], torch.zeros(1))
    text = populations.tested(which.target, draws, torch.tensor([7]))
    assert text.stats["test_worth"] > populations.FEWEST_WORTH
    assert bool(text.stats["test"] <= 1) == passes
    assert text.calls > 0
    assert torch.equal(text.points, draws.points)


def masked(dim, noise, observed):
    likelihood = Gaussian(double(noise), torch.tensor([0]))
    return posteriors.problem(posteriors.gaussian_prior(dim), likelihood, observed)


def test_auto_refines_a_pool_that_is_not_enough_and_anneals_where_it_is_worth_nothing():
    observed = double([[0.3], [5.5], [-1.5]])  # the second is far out
    whole, first = 2**15, sampling.FIRST
    which, few = masked(2, 0.3, observed), {**FEW, "draws": 250, "chains": 4}
    which = replace(which, target=replace(which.target, rows=256))
    draws = posteriors.drawn(which, "auto", pool=whole, **few)
    assert draws.sampler == ["pool", "annealed", "refined"]
    # The rest of the pool is made for the third alone, whatever is beside it.
    for index, size in enumerate((first, first, whole)):
        for name, pool in ((draws.sampler[index], size), ("auto", whole)):
            alone = posteriors.drawn(which.of(torch.tensor([index])), name, pool=pool, **few)
            assert torch.equal(draws.points[index], alone.points[0])
    worth = draws.stats["effective_size"]
    part, all_of_it = (
        posteriors.drawn(which, "pool", pool=size, **few).stats["effective_size"]
        for size in (first, whole)
    )
    assert worth[0] == part[0] > sampling.CONTENT > all_of_it[2] > sampling.DEFENDED > part[2]
    assert all_of_it[1] < sampling.DEFENDED
    # Calls of what was tried first count. What rests on a good pool is not tested further.
    assert draws.calls[0] < draws.calls[2] < draws.calls[1]
    assert draws.stats["test"].isnan().tolist() == [True, False, True]
    assert draws.stats["test"][1] < 1
    assert Summary.from_draws(draws, whole).converged.all()


def test_auto_goes_by_dimensions_and_gradients_and_makes_no_pool_that_cannot_be_enough():
    seen, own = double([[4.0]]), posteriors.Parabola(noise=1e-3)
    curved = posteriors.problem(posteriors.gaussian_prior(9), own, seen)
    for sampler, which in {
        "annealed": masked(8, 1e-3, seen),
        "twisted": masked(9, 1e-3, seen),
        "elliptical": replace(curved, differentiable=False),
        "hmc": curved,
    }.items():
        assert posteriors.drawn(which, "auto", **FEW, particles=20).sampler == [sampler]
    plan, observed = sampling.SamplingPlan(pool=1000), double([[0.3] * 9])
    for noise, sampler in ((2.0, "auto"), (0.05, "twisted")):
        whole = posteriors.problem(posteriors.gaussian_prior(9), Gaussian(double(noise)), observed)
        assert sampling.settled(whole, plan).sampler == sampler
    few = posteriors.problem(posteriors.gaussian_prior(2), Gaussian(double(1e-6)), observed[:, :2])
    assert sampling.settled(few, plan).sampler == "auto"


def made(w, sampler="hmc", **stats):
    known = {name: double([value]) for name, value in stats.items()}
    return Draws(w[None], w[None], w[None, ..., 0], [sampler], torch.zeros(1), known)


def test_summaries_are_those_of_the_draws():
    w = normal(4, 500, 2)
    summary, flat = Summary.from_draws(made(w), 100), w.flatten(0, 1)
    torch.testing.assert_close(summary.mean[0], flat.mean(dim=0))
    torch.testing.assert_close(summary.std[0], flat.std(dim=0))
    torch.testing.assert_close(summary.quantiles[0], flat.quantile(double(LEVELS), dim=0).T)
    torch.testing.assert_close(summary.r_hat[0], convergence(w).r_hat)
    for worth in (100, 3000):
        pool = Summary.from_draws(made(w, "pool", pareto_k=0.3, effective_size=worth), 4096)
        assert pool.r_hat.isnan().all()
        assert (pool.ess_bulk == min(worth, 2000)).all()  # not more than there are


CHAINS = normal(4, 500, 2)
STUCK = CHAINS[:1, :1]
WORTH = {"pareto_k": 0.1, "effective_size": 4000.0}
WIDE = CHAINS.clone()
WIDE[0, :2, 0] = 100.0


def test_what_has_converged():
    for draws, converged in (
        (made(CHAINS, fine_k=0.1), True),
        (made(CHAINS.index_fill(-1, torch.tensor(1), 3.0)), True),  # alike in all
        (made(STUCK.expand_as(CHAINS).clone()), False),  # R-hat is NaN
        (made(torch.cat([STUCK.expand_as(CHAINS[:1]), CHAINS[1:]])), False),
        (made(CHAINS[:, :1].expand_as(CHAINS)), False),  # each at its own place
        (made(CHAINS + torch.arange(4)[:, None, None]), False),
        (made(CHAINS[:, :20]), False),  # too few
        (made(CHAINS, fine_k=0.9), False),  # the fine flow is another
        (made(normal(4, 50, 9)), True),  # in many dimensions less must do
        (made(CHAINS, "pool", **WORTH | {"pareto_k": 0.3, "effective_size": 3000}), True),
        (made(CHAINS, "pool", **WORTH | {"effective_size": 1000}), False),
        (made(CHAINS, "pool", **WORTH | {"pareto_k": 0.9}), False),
        (made(WIDE, "pool", **WORTH), False),  # one draw of a thousand makes most of the width
        (made(CHAINS, "annealed", **WORTH, test=0.5), True),
        (made(CHAINS + 0.3 * torch.arange(4)[:, None, None], "annealed", **WORTH, test=0.5), False),
        (made(CHAINS, "annealed", **WORTH, test=1.5), False),
    ):
        assert Summary.from_draws(draws, 4096).converged.tolist() == [converged]


def test_reasons_have_the_number_that_failed_and_what_it_should_be():
    def why(draws, **more):
        stats = {name: float(value) for name, value in draws.stats.items()}
        return Summary.from_draws(draws, 4096).explained([0], [stats], **more)

    few = made(CHAINS, "pool", **WORTH | {"effective_size": 400})
    said = why(few, more=" or --pool")
    ess, need = re.fullmatch(
        r"Effective sample size is too small: (\d+), need at least ([\d,]+). "
        r"Give more --draws or --pool.",
        said,
    ).groups()
    # A mean needs 900 draws, and a standard deviation of a normal distribution twice as many.
    assert ess == "400"
    assert float(need.replace(",", "")) == pytest.approx(1800, rel=0.1)
    apart = why(made(CHAINS + 3 * torch.arange(4)[:, None, None]))
    assert re.search(r"Chains disagree: R-hat is \d\S*, need at most 1.01. Give more", apart)
    assert "R-hat is unknown, because" in why(made(STUCK.expand_as(CHAINS).clone()))
    assert "weight: Pareto k is 0.90. Give" in why(
        made(CHAINS, "pool", **WORTH | {"pareto_k": 0.9})
    )
    assert "was too coarse: Pareto k is 0.91. Give" in why(made(CHAINS, fine_k=0.91))
    many = why(made(normal(4, 20, 9)))
    assert "need at least 100. Give more --draws." in many
