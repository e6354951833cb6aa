"""Samplers: known posteriors, precision, refusals; populations, annealed and twisted; leapfrogs."""

from dataclasses import replace
from math import inf
from unittest import mock

import pytest
import torch

from dnnlib.errors import UsageError
from tests.support import posteriors
from tests.support.draws import double, normal, seeded
from tests.support.flows import Bumps, exact_flow
from tests.support.posteriors import Parabola, affine, drawn, gaussian_prior, posterior, problem
from tests.support.running import refusal, slowly
from training.flow.coordinates.coordinates import Coordinates
from training.flow.solvers import get_solver
from training.inference import lookahead, proposals, sampling
from training.inference.draws import weighted_picks, z_order
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.inference.lookahead import Bridge, LowRank
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.proposals import Proposal
from training.inference.samplers import populations, twisted
from training.inference.samplers.hamiltonian import Hamiltonian
from training.inference.samplers.twisted import Diffusion, Narrowing, Particles, Renoising, twist
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target
from training.names import PARTICLE_STEPS

EYE = torch.eye(40).double()
SEEN = double([[0.3, 0.1], [-0.5, 0.2]])
NARROW = Gaussian(double(0.03))
GRID = torch.cartesian_prod(*[torch.linspace(-5, 5, 501).double()] * 2)


def test_a_narrow_posterior_is_worth_more_at_a_cost_that_is_told(monkeypatch):
    monkeypatch.setattr(sampling, "DEFENDED", 0)  # else it would be tested, at a cost of its own
    which = problem(gaussian_prior(), NARROW, SEEN)
    pool, refined = (drawn(which, sampler, draws=500) for sampler in ("pool", "refined"))
    worth = refined.stats["effective_size"]
    assert worth.min() > 1000
    assert (worth > 5 * pool.stats["effective_size"]).all()
    assert refined.stats["pareto_k"].max() < 0.7
    mean, covariance = posterior(which.coarse, NARROW, SEEN)
    posteriors.assert_moments(refined, mean, covariance.diagonal().sqrt().expand_as(mean))
    points = affine(which.coarse)[0] + refined.w @ affine(which.coarse)[1].T
    torch.testing.assert_close(refined.points, points)
    seen = SEEN[:, None, None].expand_as(points).flatten(0, 2)
    expected = NARROW.log_prob(points.flatten(0, 2), seen)
    torch.testing.assert_close(refined.log_likelihood.flatten(), expected)
    calls_of_a_point = float(pool.calls[0]) * len(SEEN) / 4096
    assert calls_of_a_point >= posteriors.STEPS
    torch.testing.assert_close(
        refined.calls, pool.calls + sum(populations.DRAWN) * calls_of_a_point
    )


def wrong(draws, worth, uniform):
    """Narrow, and beside the posterior."""
    count, (size, dim) = uniform.shape[1], draws.shape[::2]
    mean = torch.linspace(-2, 2, count, dtype=torch.float64)[:, None].expand(size, count, dim)
    root = 0.2 * torch.eye(dim, dtype=torch.float64).expand(size, count, dim, dim)
    return Proposal(torch.full_like(uniform, 1 / count), mean, root)


def test_the_pool_defends_against_wrong_fits():
    which = problem(gaussian_prior(), Parabola(), double([[0.3], [-1.0]]))
    exact = posteriors.by_quadrature(which.coarse, which.target.likelihood, which.target.observed)
    with mock.patch.object(Proposal, "fit", wrong):
        posteriors.assert_moments(drawn(which, "refined"), *exact)


@pytest.mark.parametrize("heaviest", [64, 2**13])
def test_weights_sum_to_the_evidence(heaviest, monkeypatch):
    """Wherever the few draws end at which densities are taken."""
    monkeypatch.setattr(populations, "HEAVIEST", heaviest)
    which = problem(gaussian_prior(), NARROW, SEEN)
    got = drawn(which, "refined", pool=2**13).stats["evidence"]
    mean, root = affine(which.coarse)
    covariance = root @ root.T + 0.03**2 * torch.eye(2).double()
    distribution = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(got, distribution.log_prob(SEEN), rtol=0, atol=0.05)


def test_a_fit_finds_the_components():
    centers, count = double([[-2.0, 0.0], [2.0, 1.0]]), 2000
    draws = centers.repeat_interleave(count // 2, dim=0) + 0.3 * normal(count, 2)
    uniform = torch.rand(1, 2, generator=seeded()).double()
    got = Proposal.fit(draws[None], double([float(count)]), uniform)
    order = got.mean[0, :, 0].argsort()
    torch.testing.assert_close(got.mean[0, order], centers, rtol=0, atol=0.05)
    torch.testing.assert_close(got.shares, double([[0.5, 0.5]]), rtol=0, atol=0.01)
    torch.testing.assert_close(got.root[0, 0].diagonal().mean(), double(0.345), rtol=0.05, atol=0)
    # Draws that are worth nothing leave what the prior on covariances says.
    wide = Proposal.fit(draws[None], double([1e-9]), uniform)
    one, other = (plan.root.diagonal(dim1=2, dim2=3)[..., 0] for plan in (wide, got))
    assert (one > 2 * other).all()


def test_densities_and_draws_are_those_of_a_mixture():
    generator = seeded(1)
    uniform = torch.rand(2, 3, generator=generator).double()
    distribution = Proposal.fit(normal(2, 200, 2), double([200.0, 20.0]), uniform)
    w = distribution.draw(torch.rand(2, 20000, 3, generator=generator).double())
    for index in range(2):
        parts = torch.distributions.MultivariateNormal(
            distribution.mean[index], scale_tril=distribution.root[index]
        )
        shares = torch.distributions.Categorical(distribution.shares[index])
        mixture = torch.distributions.MixtureSameFamily(shares, parts)
        torch.testing.assert_close(distribution.log_prob(w)[index], mixture.log_prob(w[index]))
        error = (mixture.variance / len(w[index])).sqrt()
        assert ((w[index].mean(dim=0) - mixture.mean).abs() < 4.5 * error).all()
        torch.testing.assert_close(w[index].var(dim=0), mixture.variance, rtol=0.05, atol=0)


SAMPLERS = ["pool", "refined", "annealed", "elliptical", "hmc"]
GAUSSIAN = [*SAMPLERS, "twisted"]
# Many chains cost what few do.
LONG = {
    "elliptical": {"chains": 32, "draws": 40, "warmup": 20},
    "hmc": {"chains": 32, "draws": 12, "warmup": 12},
}
OBSERVED = double([[0.3], [-1.0]])


@pytest.mark.parametrize("sampler", slowly(SAMPLERS, "elliptical", "hmc"))
def test_a_banana(sampler):
    which = problem(gaussian_prior(), Parabola(), OBSERVED)
    exact = posteriors.by_quadrature(which.coarse, which.target.likelihood, OBSERVED)
    posteriors.assert_moments(drawn(which, sampler, **LONG.get(sampler, {})), *exact)


@pytest.mark.parametrize("sampler", ["pool", "refined", "annealed"])
def test_two_modes(sampler):
    which = problem(gaussian_prior(), Parabola(slope=0), double([[1.5], [2.0]]))
    exact = posteriors.by_quadrature(which.coarse, which.target.likelihood, which.target.observed)
    draws = drawn(which, sampler, pool=16384)
    posteriors.assert_moments(draws, *exact)
    first = draws.points[:, :, :, 0]
    assert first.abs().min() > 0.3, "these are two modes"
    assert (((first > 0).double().mean(dim=(1, 2)) - 0.5).abs() < 0.49).all()


@pytest.mark.parametrize("sampler", slowly(["elliptical", "hmc"], "elliptical"))
def test_chains_of_a_coarse_flow_are_corrected(sampler):
    likelihood, observed = Gaussian(double(0.5)), double([[0.3, 0.1], [-1.0, 0.4]])
    fine, coarse = gaussian_prior(), gaussian_prior(error=0.03)
    assert (affine(fine)[1] - affine(coarse)[1]).abs().max() > 0.03
    which, parts = problem(fine, likelihood, observed, coarse), list[float]()
    draws = drawn(which, sampler, on_part=parts.append, **LONG.get(sampler, {}))
    assert abs(sum(parts) - 1) < 1e-9
    mean, covariance = posterior(fine, likelihood, observed)
    posteriors.assert_moments(draws, mean, covariance.diagonal().sqrt().expand_as(mean))
    of_fine = fine.points(draws.w.flatten(0, 2)).points
    torch.testing.assert_close(draws.points.flatten(0, 2), of_fine)


@pytest.mark.parametrize("sampler", GAUSSIAN)
def test_draws_are_of_seed_and_number_alone(sampler, monkeypatch):
    monkeypatch.setattr(populations, "MOST_ROUNDS", 3)
    monkeypatch.setattr(populations, "MOST_FINAL", 2)
    seen = Gaussian(double(0.4), operator=double([[1.0, 0.7]]))
    likelihood = seen if sampler == "twisted" else Parabola()
    which = problem(gaussian_prior(), likelihood, double([[0.3], [-1.0], [2.0]]))
    few, places = {"draws": 4, "warmup": 4, "particles": 16, "pool": 256}, [2, 0]
    draws, some = drawn(which, sampler, **few), which.of(torch.tensor(places))
    of_some = drawn(some, sampler, **few)
    for name in ("w", "points", "log_likelihood"):
        assert torch.equal(getattr(of_some, name), getattr(draws, name)[places]), name
    for name, values in of_some.stats.items():
        assert torch.equal(values, draws.stats[name][places]), name
    other_seed = drawn(which.of(torch.tensor([2])), sampler, seed=1, **few)
    assert not torch.equal(other_seed.w, of_some.w[:1])


class Half(Parabola):
    """No likelihood where ``x_1`` is below a level."""

    def __init__(self, level):
        super().__init__()
        self._level = level

    def log_prob(self, points, observed):
        # Its gradient is 0 where the likelihood is.
        return torch.where(points[:, 0] > self._level, 0 * points[:, 0], -torch.inf)


@pytest.mark.parametrize("sampler", slowly(SAMPLERS, "hmc"))
def test_points_without_likelihood_are_never_drawn(sampler):
    prior = gaussian_prior()
    mean, root = affine(prior)
    level = float(mean[0] + 1.2 * root[0].norm())  # 11.5 % of the prior
    half = problem(prior, Half(level), torch.zeros(1, 0).double())
    draws = drawn(half, sampler, draws=50, warmup=5)
    assert draws.points[..., 0].min() > level
    assert draws.w.isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_cannot_be_drawn_is_told(sampler):
    which = problem(gaussian_prior(), Half(1e9), torch.zeros(1, 0).double())
    assert "the likelihood is 0 at all" in refusal(drawn, which, sampler, draws=20)
    assert f"not{sampler}" in refusal(drawn, which, f"not{sampler}", kind=UsageError)


@pytest.mark.parametrize("sampler", slowly(GAUSSIAN, "annealed"))
def test_observations_far_off_are_found(sampler, monkeypatch):
    monkeypatch.setattr(populations, "MOST_FINAL", 2)
    which = problem(gaussian_prior(), Gaussian(double(1e-3)), double([[4000.0, 0.0]]))
    draws = drawn(which, sampler, draws=10, warmup=10, particles=32, pool=512)
    assert draws.points.isfinite().all()


def sampled(observed, noise):
    """Draws given the first two of three coordinates of bumps, and the exact posterior."""
    toy, flow = exact_flow("bumps3", gamma0=1e-4)
    likelihood = Gaussian(double(noise), torch.tensor([0, 1]))
    prior = Prior(flow, flow.times(24), get_solver("exp_ab2"))
    target = Target(prior, likelihood, observed, 256)
    draws = sample_posteriors(Problem(target, prior, [0]), SamplingPlan(pool=2**12))
    weights, means, covariance, _ = toy.mixture
    noisy = covariance + 1e-4 * torch.eye(3).double()
    return draws, ExactPosterior.from_components(weights, means, noisy, likelihood, observed)


def test_narrow_posteriors_are_as_wide_as_they_should_be():
    """The noise is a tenth of the first time's: among latents a thin curved thread."""
    observed = Bumps(3).sample(1, seeded(4))[:, :2]
    draws, exact = sampled(observed, 1e-3)
    summary = Summary.from_draws(draws, 2**12)
    assert draws.sampler == ["annealed"]
    assert summary.converged.all()
    assert ((summary.std / exact.std).log().abs() < 0.05).all()
    assert ((summary.mean - exact.mean).abs() < 0.1 * exact.std).all()


def test_where_steps_are_too_few_the_test_fails(monkeypatch):
    """Between two bumps, ten of their widths from each, the flow is not integrated well."""
    monkeypatch.setattr(populations, "MOST_FINAL", 2)  # else it looks on for what it cannot find
    observed = Bumps(3).mixture.means[:2, :2].mean(dim=0, keepdim=True)
    draws, exact = sampled(observed, 5e-3)
    summary = Summary.from_draws(draws, 2**12)
    assert ((summary.std / exact.std).log().abs() > 0.2).any()
    assert not summary.converged.any()


def test_a_conditioned_mixture_is_mixture_times_likelihood(monkeypatch):
    monkeypatch.setattr(proposals, "LEAST_SHARE", 0.0)
    uniform = torch.rand(1, 3, generator=seeded()).double()
    distribution = Proposal.fit(normal(1, 200, 3), double([200.0]), uniform)
    operator, observed = normal(2, 3, seed=1), double([[0.5, -0.3]])
    noise = double([[[0.2, 0.05], [0.05, 0.1]]])
    rows = normal(1, 50, 3, seed=2)
    seen = torch.distributions.MultivariateNormal(rows @ operator.T, noise)
    apart = distribution.log_prob(rows) + seen.log_prob(observed)
    apart = apart - distribution.conditioned(operator, observed, noise).log_prob(rows)
    torch.testing.assert_close(apart, apart[:, :1].expand_as(apart))
    exact = distribution.conditioned(
        operator, observed, 1e-16 * noise
    )  # far below what squares can hold
    torch.testing.assert_close(exact.mean @ operator.T, observed[:, None].expand(-1, 3, -1))
    seen = 1e8 * operator @ exact.root
    assert (seen @ seen.mT - noise[:, None]).abs().max() < 1e-6


def test_picks_along_a_curve_keep_moments_that_random_ones_lose():
    rows = normal(1, 4000, 2)
    equal, ranked = torch.zeros(1, 4000).double(), z_order(rows)
    assert ranked.sort().values.tolist() == [list(range(4000))]
    error = {}
    for name, order in (("curve", ranked), ("none", torch.arange(4000)[None])):
        picks = [weighted_picks(equal, torch.tensor([seed]), 200, order)[0] for seed in range(50)]
        means = torch.stack([rows[0, each].mean(dim=0) for each in picks])
        error[name] = float((means - rows[0].mean(dim=0)).square().mean().sqrt())
    assert error["curve"] < error["none"] / 3


def bumps(coordinates=None, kept=2):
    """Three Gaussians with their own denoiser."""
    _, flow = exact_flow("bumps2", kept, gamma0=0.01)
    flow.coordinates = coordinates
    return Prior(flow, flow.times(24), get_solver("exp_ab2"))


def bent():
    """Columns that are curved, and then mixed."""
    coordinates = Coordinates(2, ["yeo-johnson", "zca"])
    coordinates.maps[0].hold(exponent=double([0.4, 1.7]))
    turned = double([[0.8, -0.6], [0.6, 0.8]])
    coordinates.maps[1].hold(axes=turned, std=double([1.5, 0.7]), mean=double([0.1, -0.2]))
    return coordinates


NEAR = {"atol": 0.05, "rtol": 0}


def quadrature(prior, likelihood, observed):
    """Means and standard deviations ``[M, 2]`` under the density of the exact denoiser."""
    flow = prior.flow
    states = flow.basis.to_eigen(GRID)
    density = flow.denoiser.log_density(states, prior.times[0])
    return posteriors.moments_on_grid(prior.of_states(states), density, likelihood, observed)


CASES = [(0, 0.9, 8.0), (1, 0.1, 8.0), (1, 0.9, 8.0), (0, 0.1, -39.999), (0, 0.0, -9.999)]


@pytest.mark.parametrize("case", slowly(CASES, CASES[0], CASES[2], CASES[3]))
def test_posteriors_of_several_modes(case, monkeypatch):
    curved, worth, chance = case
    monkeypatch.setattr(twisted, "LEAST_WORTH", worth)
    monkeypatch.setattr(twisted, "ENOUGH", 2000 if curved else 256)
    monkeypatch.setattr(twisted, "ISLAND", 1000)
    monkeypatch.setattr(twisted, "CHANCE", chance)
    monkeypatch.setattr(twisted, "HELPS", torch.inf)
    prior = bumps(bent() if curved else None)
    likelihood, observed = Gaussian(double(0.3), torch.tensor([1])), double([[0.2], [-1.0], [1.4]])
    size, most = (2000, torch.inf) if worth else (500, 100)  # these are far apart, and come anew
    which = Target(prior, likelihood, observed, 4096)
    ahead = lookahead.LookAhead(24, 0, 1 / 3, most=most)
    draws = twist(which, 0, [0, 1, 2], 4, size // 2, size, ahead=ahead)
    (mean, std), points = quadrature(prior, likelihood, observed), draws.points.flatten(1, 2)
    assert (std[:, 0] > 2 * std[:, 1]).any(), "the hidden coordinate has several modes"
    torch.testing.assert_close((points.mean(dim=1) - mean) / std, 0 * mean, atol=0.1, rtol=0)
    torch.testing.assert_close(points.std(dim=1) / std, 0 * std + 1, atol=0.06, rtol=0)
    apart = draws.points.mean(dim=2) - draws.points.mean(dim=(1, 2), keepdim=True)[:, :, 0]
    assert (apart.abs() < 0.3 * std[:, None]).all(), "populations agree"
    again = prior.points(draws.w.flatten(0, 2)).points.view_as(draws.points)
    assert (again - draws.points).abs().mean() < 0.02
    assert (draws.stats["stages"] >= 5).any() == (curved and worth > 0.5), "noise was made wider"
    assert chance > -39 or (draws.calls > 600_000).all(), "populations were moved on"
    assert worth or (draws.stats["effective_size"] > 1999).all(), "1,700 if none came anew"


@pytest.mark.slow
def test_noise_that_is_put_on_and_taken_off_leads_to_posteriors_of_several_modes(monkeypatch):
    which = Target(bumps(bent()), Gaussian(double(0.3), torch.tensor([1])), double([[0.2]]), 4096)
    seen = lookahead.times_and_errors(which, 24, 0)
    diffusion = Diffusion(seen.times, seen.errors, lookahead.added_noise(which, seen.times))
    noise = Noise(0, [0], 1500, which.device, chunk=1)
    moves, step = (
        Renoising(which, lookahead.LinearObservation.from_target(which).alone(0), diffusion, noise),
        0,
    )
    left_open = torch.stack([errors.variance.sum() for errors in diffusion.errors])
    first = int((left_open < 0.3 * left_open[-1]).sum())
    assert [moves._highest(more * moves.widest)[0] - first for more in (1, 1.01)] == [0, -1]
    uneven = replace(moves, diffusion=replace(diffusion, added=diffusion.added * double([1, 5])))
    assert (moves.goes, uneven.goes) == (True, False), "one dimension hardly moves"
    particles = Particles.at(which, torch.zeros(1500, 2).double())
    for _ in range(15):
        particles, step = moves.moved(particles, 1.0, step)
    monkeypatch.setattr(twisted, "WORTH", 0.995)
    monkeypatch.setattr(twisted, "monotonic", lambda: which.calls / 1500)
    for most, seconds in ((20, inf), (40, inf), (inf, 20), (inf, 40)):
        before = which.calls
        narrowing = Narrowing(moves, 3, step, most, seconds)
        narrowing.narrowed(particles, torch.zeros(3, 500), 1e-4, True)
        taken = (which.calls - before) / 1500
        assert taken == pytest.approx(min(most, seconds), abs=12), "102 if not bounded"
    (mean,), (std,) = quadrature(which.prior, which.likelihood, which.observed)
    torch.testing.assert_close((particles.points.mean(dim=0) - mean) / std, 0 * mean, **NEAR)
    torch.testing.assert_close(particles.points.std(dim=0) / std, 0 * std + 1, **NEAR)


def test_a_budget_leaves_time_for_arrivals_and_latents(monkeypatch):
    monkeypatch.setattr(lookahead, "monotonic", lambda: 10.0)
    budget = lookahead.MoveBudget(110.0, waiting=4, behind=2, arrival=10.0, latents=5.0)
    assert budget.of_next() == (100 - 20 - 20) / 4
    assert budget.of_next() == (100 - 20 - 15) / 3
    assert lookahead.MoveBudget(5.0, 1).of_next() == 0


def test_draws_do_not_depend_on_how_many_move_at_once(monkeypatch):
    likelihood, prior = Gaussian(double(0.3), torch.tensor([1])), bumps(bent())
    integrations = {"latents": (prior.flow.times(4), get_solver("exp_rk5"))}
    target = Target(
        replace(prior, integrations=integrations), likelihood, double([[0.2], [-1.0]]), 8
    )
    parts: list[float] = []
    ahead = lookahead.LookAhead(PARTICLE_STEPS, 0, 1 / 2)
    together = twist(target, 0, [0, 1], 2, 50, 50, parts.append, ahead)
    # Latents take most of the calls here: they are counted in the estimate, and move the progress.
    assert abs(sum(parts) - 1) < 1e-9
    assert max(parts) < 0.15
    assert 0.9 < float(together.calls.sum()) / twisted.calls_of(target, 2, ahead, 2, 50, 50) <= 1
    monkeypatch.setattr(twisted, "AT_ONCE", 1)
    alone = twist(target, 0, [0, 1], chains=2, draws=50, particles=50)
    torch.testing.assert_close(alone.points, together.points, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(alone.calls, together.calls)


def test_islands_count_alike_however_likely_what_they_hold(monkeypatch):
    monkeypatch.setattr(twisted, "ISLAND", 20)
    target = Target(bumps(), Gaussian(double(0.3), torch.tensor([1])), double([[0.2], [1.4]]), 120)
    noise = Noise(0, [0, 1], 120, target.device, chunk=1, dtype=twisted.DTYPE)
    cloud = twisted.Descent(target, lookahead.LookAhead(8, 0, 1 / 2), noise, 2, 0.0).arrived()
    shares = cloud.log_weights.exp().view(2, 6, 20).sum(dim=2)
    torch.testing.assert_close(shares, torch.ones_like(shares))
    assert (cloud.by_weight(30) // 20).flatten().bincount().tolist() == [20] * 6


def test_each_label_has_a_lookahead_of_its_own():
    y, seen = double([[0.3], [-1.0], [0.3]]), double([[0.5], [0.2], [-1.0]])
    likelihood = Gaussian(double(0.4), torch.tensor([0]))
    target = Target(posteriors.conditional_prior(), likelihood, seen, 4096, y)
    draws = twist(target, 0, [0, 1, 2], chains=2, draws=1000, particles=1000)
    apart = draws.points[..., 0].flatten(1) - 0.64 * y - 0.36 / 0.52 * (seen - 0.64 * y)
    off = apart / (0.36 * 0.16 / 0.52) ** 0.5
    torch.testing.assert_close(off.mean(dim=1), 0 * off[:, 0], **NEAR)
    torch.testing.assert_close(off.std(dim=1), 0 * off[:, 0] + 1, **NEAR)
    alone = twist(target.of(torch.tensor([1])), 0, [1], chains=2, draws=1000, particles=1000)
    assert torch.equal(alone.points[0], draws.points[1])


def test_single_precision_makes_the_same_of_them(monkeypatch):
    def normal(self, step, size):
        return torch.randn(1, 100, size, generator=seeded(step)).to(twisted.DTYPE)

    monkeypatch.setattr(Noise, "normal", normal)
    # No weights choose, since a choice jumps.
    monkeypatch.setattr(twisted, "WORTH", 0.0)
    monkeypatch.setattr(twisted, "systematic", lambda weights, *_: torch.arange(50).expand(2, -1))
    target = Target(bumps(bent()), Gaussian(double(0.1), torch.tensor([1])), double([[0.2]]), 100)
    got = []
    for dtype in (torch.float32, torch.float64):
        monkeypatch.setattr(twisted, "DTYPE", dtype)
        got.append(twist(target, 0, [0], chains=2, draws=50, particles=50))
    torch.testing.assert_close(got[0].points, got[1].points, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[0].stats, got[1].stats, rtol=1e-4, atol=0)


def test_covariances_of_few_errors_keep_what_they_can_tell():
    alone = normal(64, 40, seed=1)
    together = alone + 3 * normal(64, 1, seed=2)
    plain, shared = (LowRank.shrunk(each).seen(EYE) for each in (alone, together))
    for errors, got in ((alone, plain), (together, shared)):
        torch.testing.assert_close(got.diagonal(), errors.square().mean(dim=0))
        assert torch.linalg.eigvalsh(got).min() > 0, "fewer draws than would tell all"
    off = EYE == 0
    assert plain[off].abs().max() < 0.1 < 0.9 < (shared / (together.T @ together / 64))[off].min()


def test_what_a_step_tells_of_its_end_is_what_whole_matrices_say():
    seen, pull, noise = normal(7, 40, seed=3), normal(40, seed=4).sigmoid(), normal(40).exp()
    for count, least in ((256, 1.0), (32, 1.0), (256, 1e-9)):
        bridge = Bridge(pull, least * noise, LowRank.shrunk(normal(count, 40, seed=5)))
        end, step = bridge.end.seen(EYE), bridge.step.seen(EYE)
        torch.testing.assert_close(step, (least * noise).diag() + pull[:, None] * end * pull)
        mean, left = bridge.end_after(seen)
        torch.testing.assert_close(mean @ step, bridge.end.beside(seen) * pull)
        torch.testing.assert_close(left + mean @ (pull * end).T @ seen.T, seen @ end @ seen.T)
        steps = normal(5, 40, seed=6)
        torch.testing.assert_close(bridge.end_moved(steps) @ seen.T, steps @ mean.T)
        assert torch.linalg.eigvalsh(left).min() > 0, "though nearly nothing is left open"


def variance_of_steps(count, share):
    """Of a standard normal law, where V was measured as a share of what it is."""
    added = torch.cat([double([0]), torch.logspace(-6, 1, count).double()])[:, None]
    errors = [LowRank(torch.zeros(1, 0).double(), share * g / (1 + g)) for g in added]
    diffusion = Diffusion(torch.arange(count + 1), errors, added)
    # States are linear in the normal numbers of all steps: a row says how they are in one of them.
    unit = torch.eye(count + 1).double()[:, :, None]
    states, ends = unit[0] * (1 + added[-1]).sqrt(), unit[0] / (1 + added[-1]).sqrt()
    for high in range(count, 0, -1):
        bridge = diffusion.bridge(high, high - 1)
        by = bridge.step.sample(unit[high])
        states, expected = states.lerp(ends, bridge.pull) + by, ends + bridge.end_moved(by)
        if high > 1:
            ends = states / (1 + added[high - 1])
            states, ends = diffusion.corrected(states, ends, expected, high, high - 1)
    return float(states.square().sum())


def test_steps_are_exact_where_errors_are_as_they_were_measured_and_else_of_second_order():
    assert variance_of_steps(4, 1.0) == pytest.approx(1, abs=1e-12)
    for share in (0.5, 2.0):
        off = [abs(variance_of_steps(count, share) - 1) for count in (32, 64, 128)]
        assert off[0] / off[1] > 3.3, "2 without corrections"
        assert off[1] / off[2] > 3.5


def test_steps_lie_where_errors_have_no_one_normal_law_and_more_are_advised_there():
    rate, even = double([2.0] * 20), torch.linspace(0, 8, 9, dtype=torch.float64)
    alike = normal(256, 20) @ normal(20, 20, seed=1)
    apart = torch.where(torch.arange(256)[:, None] < 128, 0.3, 1.4) * normal(256, 20)
    wrong = torch.stack([lookahead.step_errors(each, rate) for each in (alike, apart)])
    assert wrong[0] < 0 < wrong[1]
    torch.testing.assert_close(lookahead.times_by_need(even, wrong[[0] * 8])(8), even)
    lengths = lookahead.times_by_need(even, wrong[[0, 0, 0, 1, 0, 0, 0, 0]])(8).diff()
    assert lengths[3:5].max() < 0.6 < lengths.max() < 4 * lengths.min()
    seen = (Gaussian(double(0.3), torch.tensor([1])), double([[0.2]]), 4096)
    priors = (gaussian_prior(), bumps())
    alike, apart = (lookahead.times_and_errors(Target(prior, *seen), 8, 0) for prior in priors)
    assert alike.needed < 0.5 < 1 < apart.needed
    assert [replace(apart, needed=each).advised for each in (23.9, 24.1)] == [None, 17]


def test_exact_numbers_that_follow_from_each_other_are_no_error(monkeypatch):
    monkeypatch.setattr(twisted, "LEAST_WORTH", 2.0)  # but noise that leaves no move stays
    thrice = Gaussian(double(1e-9), operator=double([[1, 0], [0, 1], [1, 1]]))
    which = Target(gaussian_prior(), thrice, double([[0.3, 0.1, 0.4]]), 20)
    points = twist(which, 0, [0], chains=2, draws=10, particles=10).points
    torch.testing.assert_close(points.flatten(0, 2), double([[0.3, 0.1]] * 20), rtol=0, atol=1e-5)


def test_likelihoods_without_a_lookahead_are_told():
    observed = double([[0.3]])
    seen = Gaussian(double(0.4), torch.tensor([0]))
    mixed = Gaussian(double(0.4), operator=double([[1.0, 0.7]]))
    plain = problem(gaussian_prior(), seen, observed)
    others = {
        "a user-defined likelihood": problem(gaussian_prior(), Parabola(), observed),
        "noise grows in all dimensions, unlike": problem(bumps(kept=1), seen, observed),
        "operator": problem(bumps(bent()), mixed, observed),
        "conditions": replace(plain, target=replace(plain.target, labels=torch.eye(33))),
    }
    assert lookahead.no_lookahead(plain.target) is None
    for message, which in others.items():
        assert lookahead.no_lookahead(which.target)
        with pytest.raises(UsageError, match=message):
            drawn(which, "twisted", particles=20)


LEAPING = 4
W, Q = normal(2 * LEAPING, 2, seed=1), normal(2, LEAPING, 2, seed=2)


def leap(w, q, size, leaps):
    """Where chains ``w [M C, dim]`` of momenta ``q [M, C, dim]`` end after some steps, and by how
    much the energy has changed. The metric is not the identity."""
    kernel = Hamiltonian(problem(gaussian_prior(), Parabola(), OBSERVED).target, leaps)
    state = kernel.start(w, LEAPING)
    kernel._root = double([[1.5, 0.0], [0.4, 0.8]]).expand(2, 2, 2)
    kernel._size = torch.full((2,), size).double()
    noise = mock.create_autospec(Noise, instance=True)
    noise.normal.return_value = q
    noise.uniform.return_value = torch.zeros(2, LEAPING, 1).double()  # all are accepted
    noise.shared_integer.return_value = leaps
    before = kernel._energy(state, q)
    with mock.patch.object(kernel, "_energy", wraps=kernel._energy) as energy:
        kernel.step(state, noise, 0)
    momentum = energy.call_args.args[1]
    return state.w, momentum, kernel._energy(state, momentum) - before


def test_leapfrog_with_the_momentum_turned_goes_back():
    end, momentum, _ = leap(W, Q, 0.1, 7)
    assert (end - W).abs().min() > 1e-3
    back, turned, _ = leap(end, -momentum, 0.1, 7)
    torch.testing.assert_close(back, W, rtol=0, atol=1e-10)
    torch.testing.assert_close(-turned, Q, rtol=0, atol=1e-10)


def test_leapfrog_keeps_volume_and_the_energy_to_the_square_of_the_step():
    step, columns = 1e-5, []
    for axis in range(4):
        shift = step * torch.eye(4).double()[axis]
        ends = []
        for sign in (1, -1):
            moved_w, moved_q, _ = leap(W + sign * shift[:2], Q + sign * shift[2:], 0.2, 3)
            ends.append(torch.cat([moved_w, moved_q.flatten(0, 1)], dim=1))
        columns.append((ends[0] - ends[1]) / (2 * step))
    determinants = torch.linalg.det(torch.stack(columns, dim=2))
    torch.testing.assert_close(determinants, torch.ones_like(determinants), rtol=0, atol=1e-6)
    coarse, fine = (leap(W, Q, 0.4 / n, n)[2].abs() for n in (8, 16))
    torch.testing.assert_close(coarse / fine, torch.full_like(fine, 4), rtol=0.15, atol=0)


@pytest.mark.parametrize("kind", ["curvature", "covariance"])
def test_the_metric_is_learned(kind):
    """Of a Gaussian posterior it is its inverse covariance, however it is learned."""
    likelihood = Gaussian(double(0.2), operator=double([[1.0, 0.7]]))
    target = problem(gaussian_prior(), likelihood, OBSERVED).target
    kernel = Hamiltonian(target)
    curvature = target.curvature(normal(1, 2), torch.zeros(1, dtype=torch.int64))
    mass = torch.eye(2).double() + curvature[0]
    if kind == "covariance":
        with mock.patch.object(Hamiltonian, "_is_curved", False):
            state = kernel.start(torch.zeros(2 * LEAPING, 2).double(), LEAPING)
            root = torch.linalg.cholesky(torch.linalg.inv(mass))
            kernel._covariance.add((normal(20000, 2, seed=3) @ root.T).expand(2, -1, -1))
            kernel._learn_metric(state)
        tolerance = 0.05
    else:
        kernel.start(normal(2 * LEAPING, 2), LEAPING)
        tolerance = 1e-9
    got = kernel._root @ kernel._root.mT
    torch.testing.assert_close(got, mass.expand(2, 2, 2), rtol=tolerance, atol=tolerance)
