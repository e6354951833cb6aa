"""What is fitted to a trained flow: calibrations of its denoiser, and courses."""

from math import log2

import pytest
import torch

from dnnlib.errors import UsageError
from tests.support import flows
from tests.support.draws import double, normal, seeded
from training.flow import integration_choice
from training.flow.denoisers import (
    PRIOR_STD,
    Calibration,
    ConditionedDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
    fit_calibration,
)
from training.flow.eigenbasis import EigenBasis
from training.flow.integration_choice import LEAST_SIZE, choose_integrations, gauss_rule
from training.flow.integrations import NATS, USES, Integration
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS, fitted
from training.names import METHODS

BIAS = 0.15
DOUBLE = torch.float64
LAST = 6.0
COUNT = 256


def bumps():
    """Three bumps that are wider than others', so that few steps follow their flow."""
    toy = flows.Bumps(3)
    toy.mixture = toy.mixture._replace(covariance=2.5 * toy.mixture.covariance)
    return toy


def biased(slope=BIAS, curve=0.0, variance=None, scale=1.0):
    """The exact denoiser of three bumps, its F off by ``slope z + curve z^3``, all multiplied by
    ``scale``. Its coefficients count on the variance of the data, or on another."""
    toy = bumps()
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(2, 3, top_variance=basis.top_variance)
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)

    def spoiled(z, c_noise):
        t = schedule.time_of_log_noise(8 * c_noise.double())
        c = denoiser.coefficients(t)
        x = z.double() / c.c_in
        return scale * (((exact(x, t) - c.c_skip * x) / c.c_out) + slope * z + curve * z**3)

    network = flows.FunctionNetwork(spoiled)
    denoiser = NetworkDenoiser(network, basis, schedule, data_variance=variance)
    return denoiser


def toy_points(denoiser, count=500, seed=0):
    return denoiser.basis.to_eigen(bumps().sample(count, seeded(seed)))


def nodes(count):
    return torch.linspace(0, 5, count, dtype=torch.float64)


def melted_ratio(denoiser, points, steps=16):
    """Growth ``[D]`` of the second moments of noisy points in a melt, over its closed form."""
    flow = ProbabilityFlow(denoiser, denoiser.schedule, denoiser.basis)
    times = nodes(steps + 1)
    noise = torch.randn(points.shape, generator=seeded(9)).double()
    noisy = points + flow.schedule.noise_variance(times[0]).sqrt() * noise
    start = flow.schedule.scale(times[0]) * noisy
    end = flow.simulate(start, times, SOLVERS["exp_rk5"]).end
    growth = end.square().mean(0) / start.square().mean(0)
    return growth / (flow.latent_law(times[-1]).variance / flow.latent_law(times[0]).variance)


@pytest.fixture
def ramp():
    """Of three dimensions: from t = 1 to 4 gains fall from 2 to 0.5, and slopes rise from 0."""
    times = double([1.0, 2.0, 4.0])
    gains = (2 - (times - 1) / 2)[:, None].expand(3, 3)
    slopes = torch.stack([times - 1, (times - 1) / 3, 0 * times], dim=1)
    return Calibration(times, gains.contiguous(), slopes)


def test_it_scales_the_output_and_subtracts_a_part_of_the_input(ramp):
    out, z = torch.ones(2, 3, dtype=DOUBLE), torch.full((2, 3), 3.0, dtype=DOUBLE)
    at_end = double([0.5 - 9, 0.5 - 3, 0.5])
    at_start = torch.full((3,), 2.0, dtype=DOUBLE)
    for t in (4.0, 9.0):
        corrected = ramp(out, z, double(t))
        torch.testing.assert_close(corrected, at_end.expand(2, 3))
    corrected = ramp(out, z, double([0.0, 4.0]))
    torch.testing.assert_close(corrected, torch.stack([at_start, at_end]))
    corrected = ramp(out.float(), z.float(), torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(corrected, torch.stack([at_start, at_end]))


def output_power(denoiser, points, times):
    """``E[F^2] [K, D]`` under the law of the data with noise."""
    noise = torch.randn(points.shape, generator=seeded(5)).double()
    powers = []
    for t in times:
        noisy = points + denoiser.schedule.noise_variance(t).sqrt() * noise
        out = denoiser.residual(denoiser.coefficients(t).c_in * noisy, t)
        powers.append(out.square().mean(0))
    return torch.stack(powers)


@pytest.mark.parametrize("scale", [0.6, 1.5])
def test_the_gain_that_a_perfect_network_lost_is_found(scale):
    denoiser = biased(scale=scale)
    points, times = toy_points(denoiser, 5000), nodes(9)
    got = fit_calibration(denoiser, points, times, 0)
    # Where the exact F hardly varies there is little to see a gain by. Elsewhere the standard error
    # is at most 1 / sqrt(5000 * 0.1), 4.5 %.
    seen = output_power(biased(slope=0), points, times) > 0.1
    assert seen.sum() >= 6
    assert ((got.gains * scale - 1)[seen].abs() < 0.12).all()
    assert (got.gains * scale - 1)[seen].mean().abs() < 0.03


def test_where_the_output_does_not_vary_its_gain_is_one():
    basis = flows.random_basis(2)
    schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
    silent = NetworkDenoiser(flows.FunctionNetwork(lambda z, c: 0 * z), basis, schedule)
    points = normal(300, 2)
    for method in METHODS:
        got = fit_calibration(silent, points, nodes(3), 0, method)
        torch.testing.assert_close(got.gains, torch.ones_like(got.gains))
        torch.testing.assert_close(got.slopes, torch.zeros_like(got.slopes))


@pytest.mark.parametrize("size", [1, 3])
def test_a_single_point_moves_no_gain_far(size):
    """F is nonzero in the first dimension at one point, which the second tells from the rest."""
    basis = EigenBasis(torch.zeros(2), torch.ones(2), torch.eye(2))
    schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
    points = normal(300, 2)
    points[0, 1] = 1000

    def network(z, c):
        return torch.stack([size * (z[:, 1].abs() > 5), 0 * z[:, 1]], dim=1)

    denoiser = NetworkDenoiser(flows.FunctionNetwork(network), basis, schedule)
    moved = (fit_calibration(denoiser, points, nodes(5), 0).gains[:, 0] - 1).abs()
    assert 0.02 < moved.max() < PRIOR_STD / 2 + 1e-3


def test_a_single_point_moves_no_slope_far():
    denoiser = biased(slope=3)
    got = fit_calibration(denoiser, toy_points(denoiser, 1), nodes(5), 0, "path")
    assert 0.02 < got.slopes.abs().max() < PRIOR_STD / 2 + 1e-3


def test_a_perfect_network_gets_no_slope():
    """Of what the scatter of its points would make one, little is left."""
    denoiser, count = biased(slope=0), 2000
    power = output_power(denoiser, toy_points(denoiser, 5000), nodes(9))
    squares = []
    for seed in range(3):
        got = fit_calibration(denoiser, toy_points(denoiser, count, seed), nodes(9), seed, "path")
        squares.append(got.slopes.square().mean())
    # Of the mean of F z; z has power 1.
    assert torch.stack(squares).mean() < 0.1 * (power / count).mean()


def test_a_fit_of_the_gain_alone_has_no_slopes():
    denoiser = biased(scale=0.6)
    points = toy_points(denoiser, 300)
    got = fit_calibration(denoiser, points, nodes(5), 0)
    assert not got.slopes.any()
    other = fit_calibration(denoiser, points, nodes(5), 0, "path")
    assert torch.equal(got.gains, other.gains)


def test_melted_variances_have_their_closed_form_after_a_path_fit_of_held_out_points_too():
    another = 2 * biased().basis.eigenvalues + 0.1
    for curve, variance in ((0.0, None), (0.03, another)):
        denoiser = biased(BIAS, curve, variance)
        points = toy_points(denoiser)
        assert (melted_ratio(denoiser, points) - 1).abs().max() > 0.2
        denoiser.calibration = fit_calibration(denoiser, points, nodes(17), 0, "path")
        assert (melted_ratio(denoiser, points) - 1).abs().max() < 0.01
    denoiser = biased(BIAS, curve=0.03)
    points = toy_points(denoiser, 2000)
    denoiser.calibration = fit_calibration(denoiser, points, nodes(17), 0, "path")
    ratio = melted_ratio(denoiser, toy_points(denoiser, 2000, seed=1))
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=0.05)


def test_a_calibrated_denoiser_is_the_network_corrected_which_training_does_not_see(ramp):
    denoiser = biased()
    x = toy_points(denoiser, 5)
    for t in (double(2.5), torch.linspace(0.5, 4.5, 5, dtype=DOUBLE)):
        denoiser.calibration = None
        c = denoiser.coefficients(t)
        residual = (denoiser(x, t) - c.c_skip * x) / c.c_out
        denoiser.calibration = ramp
        expected = c.c_skip * x + c.c_out * ramp(residual, c.c_in * x, t)
        torch.testing.assert_close(denoiser(x, t), expected)
        torch.testing.assert_close(denoiser(x.float(), t).double(), expected, rtol=1e-4, atol=1e-4)
    denoiser = biased()
    z, t = toy_points(denoiser, 5), double(2.5)
    plain = denoiser.residual(z, t)
    denoiser.calibration = ramp
    assert torch.equal(denoiser.residual(z, t), plain)
    again = fit_calibration(denoiser, toy_points(denoiser, 200), nodes(3), 0, "path")
    denoiser.calibration = None
    fresh = fit_calibration(denoiser, toy_points(denoiser, 200), nodes(3), 0, "path")
    assert torch.equal(again.gains, fresh.gains)
    assert torch.equal(again.slopes, fresh.slopes)


@pytest.mark.parametrize("method", METHODS)
def test_neither_the_block_size_nor_its_last_block_matters(method):
    denoiser = biased()
    points = toy_points(denoiser, 500)
    fits = (
        fit_calibration(denoiser, points, nodes(5), seed, method, block)
        for seed, block in ((0, 500), (0, 33), (1, 500))
    )
    whole, parts, other_seed = (torch.stack([fit.gains, fit.slopes]) for fit in fits)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert (other_seed - whole).abs().max() > 1e-4


def test_conditions_go_to_the_network_row_by_row():
    """A network whose output is its label times z has the weighted mean label for its slope, times
    what gain it is given."""
    basis = flows.random_basis(2)
    schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
    network = flows.FunctionNetwork(lambda z, c, labels: labels * z)
    denoiser = NetworkDenoiser(network, basis, schedule)
    points = normal(700, 2)
    labels = (torch.arange(700) % 2).float()[:, None]

    def mean_label(labels):
        given = {"labels": labels}
        got = fit_calibration(denoiser, points, nodes(2), 0, "path", 64, given)
        return got.slopes[0] / got.gains[0]  # of the points with noise

    got, rest = mean_label(labels), mean_label(1 - labels)
    # But for what the prior takes away.
    torch.testing.assert_close(got + rest, torch.ones_like(got), rtol=0, atol=1e-4)
    assert (got - 0.5).abs().max() < 0.1


def latents_of(flow, count=32, seed=0):
    return flow.latent_law(double(LAST)).sample(count, seeded(seed))


def rms(difference):
    return float(difference.square().mean().sqrt())


def test_times_of_any_number_of_steps_are_quantiles_of_the_grid():
    grid = integration_choice.EqualErrorGrid(double([0.0, 1.0, 4.0]))
    assert (grid(1).tolist(), grid(2).tolist()) == ([0, 4], [0, 1, 4])
    assert grid(4).tolist() == [0, 0.5, 1, 2.5, 4]


@pytest.mark.parametrize("name", ["heun", "exp_rk5"])
def test_times_by_error_make_nearly_equal_errors_that_add_up_to_less(name):
    flow, solver = flows.curved_flow(), SOLVERS[name]
    latents, best = latents_of(flow), SOLVERS["exp_rk5"]
    grid = integration_choice.fit_equal_error_grid(
        flow, latents, flow.schedule.times(1, LAST), solver
    )
    even = flow.schedule.times(24, LAST)
    got = grid(24)
    assert got[[0, -1]].tolist() == [0, LAST]
    steps = got.diff()
    assert (steps > 0).all()
    assert steps.max() / steps.min() <= 1.01 / integration_choice.LEAST_DENSITY

    def spread(times):
        """How much the error of a step varies, in powers of two."""
        errors = []
        starts = flow.generate(latents, times, best, save_every=1).states
        for low in range(len(times) - 1):
            pair, start = times[[low, low + 1]], starts[len(times) - 2 - low]
            fine = torch.linspace(float(pair[0]), float(pair[1]), 5, dtype=torch.float64)
            exact = flow.generate(start, fine, best).end
            std = flow.latent_std(pair[0]) if solver.standardized else torch.ones(2)
            errors.append(rms((flow.generate(start, pair, solver).end - exact) / std))
        return log2(max(errors) / min(errors))

    assert spread(got) < 0.75 * spread(even)
    # Latents that the grid was not fitted to.
    others = latents_of(flow, 200, seed=1)
    exact = flow.generate(others, flow.schedule.times(100, LAST), best).end
    plain = flow.schedule.times(10, LAST)
    ends = (flow.generate(others, times, solver).end for times in (grid(10), plain))
    adapted, plain = (rms(end - exact) for end in ends)
    assert adapted < plain or not solver.standardized


def with_courses(flow, noisy):
    latents = flow.latent.sample(len(noisy), seeded(2))
    flow.integrations = choose_integrations(lambda rows: flow, noisy, latents, steps=32)
    return flow


@pytest.fixture(scope="module", params=["circles", pytest.param("bumps5", marks=pytest.mark.slow)])
def flow(request):
    """A flow that keeps all dimensions, or compresses most of five, with its courses."""
    toy, flow = flows.exact_flow(request.param, dims_to_keep=2)
    return with_courses(flow, flows.noisy_points(toy, flow, COUNT, flow.times()[0], seeded(1)))


def usual(off):
    """What 9 of 10 are off by at most: where modes part, a few are off by much more."""
    return float(off.abs().flatten().quantile(0.9))


def test_courses_are_as_good_as_they_say_on_latents_at_few_calls(flow):
    latents = flow.latent.sample(500, seeded(3))
    right = flow.generate(latents, flow.times(40), "exp_rk5")
    points = flow.to_data(right.end, flow.times()[0])
    density = flow.log_prob(points, flow.times(40), "exp_rk5")
    assert usual(flow.log_prob(points) - density) < 2 * NATS
    for name, use in USES.items():
        integration = flow.integrations[name]
        assert integration.error <= use.error
        start, simulate = (points, flow.melt) if use.melts else (latents, flow.generate)
        way = simulate(start, *flow.integration(name))
        assert way.calls == integration.calls <= 30
        off = (way.end - (latents if use.melts else right.end)) / flow.latent_std(way.times[-1])
        assert usual(off) < 2 * integration.error
    assert flow.integrations["look"].calls < flow.integrations["points"].calls


def test_flows_go_by_courses_unless_times_or_a_solver_are_given(flow):
    latents = flow.latent.sample(5, seeded(4))
    assert torch.equal(flow.sample(5, seeded(4)), flow.decode(latents, *flow.integration("points")))
    finer = flow.sample(5, seeded(4), flow.times())
    assert torch.equal(finer, flow.decode(latents, flow.times(), "exp_rk5"))
    assert torch.equal(flow.sample(5, seeded(4), solver="exp_rk5"), finer)
    elsewhere = ProbabilityFlow(
        flow.denoiser, flow.schedule, flow.basis, flow.end_time - 1, integrations=flow.integrations
    )
    assert torch.equal(elsewhere.integration("points")[0], elsewhere.times())


def test_a_gaussian_flow_stands_still_and_takes_the_fewest_calls():
    schedule = InflationSchedule.to_dimension(3, 3, top_variance=2.0)
    flow = flows.gaussian_flow(flows.random_basis(3), schedule)
    noisy = flow.noisy_std(flow.times()[0]) * normal(COUNT, 3, seed=1)
    with_courses(flow, noisy)
    assert [integration.calls for integration in flow.integrations.values()] == [4, 4, 4, 4, 18]
    assert flow.integrations["densities"].nats == pytest.approx(0, abs=1e-9)


def test_each_trajectory_is_followed_under_its_own_conditions():
    toy, flow = flows.exact_flow("circles")
    shifts = normal(2 * COUNT, 2, seed=5)
    denoiser = flow.denoiser

    def shifted(x, t, labels):
        return denoiser(x - 0.1 * labels, t) + 0.1 * labels

    def under(rows):
        return flow.with_denoiser(ConditionedDenoiser(shifted, {"labels": shifts[rows]}))

    noisy = flows.noisy_points(toy, flow, COUNT, flow.times()[0], seeded(1)) + 0.1 * shifts[:COUNT]
    integrations = choose_integrations(under, noisy, flow.latent.sample(COUNT, seeded(2)), steps=32)
    assert set(integrations) == set(USES)
    assert integrations["points"].calls <= 16


def test_a_fitted_method_goes_its_own_way_alone_and_a_course_says_what_is_wrong():
    way = double([0.0, 1.0, 3.0])
    weights = double([[1.0, 0.0], [-1.0, 3.0]])
    method = fitted(way, weights, double([0.5, 2.5]), dim=1).method
    with pytest.raises(UsageError, match="fixed times, 2 steps from 0 to 3: choose"):
        list(method(lambda x, t: x, double([[1.0]]), way + 1))
    bare = fitted(way, weights, None, dim=1).method
    with pytest.raises(UsageError, match="cannot compute log densities"):
        list(bare(lambda x, t: x, double([[1.0, 0.0]]), way))
    # Two steps by hand: slopes are 1 and 2, and beside the state t is integrated.
    velocity = lambda x, t: torch.stack([x[:, 0], t.expand(len(x))], dim=1)  # noqa: E731
    states = list(method(velocity, double([[1.0, 0.0]]), way))
    assert states[-1].tolist() == [[2.0 - 1.0 + 6.0, 2.5]]
    integration = Integration("fitted", 3, 2, melts=False)
    with pytest.raises(ValueError, match="are not increasing"):
        integration.check()
    with pytest.raises(ValueError, match="'nothing', an unknown solver"):
        Integration("nothing", 3, 2, melts=False).check()


@pytest.mark.parametrize(("melts", "sign"), [(True, 1), (False, -1)])
def test_a_quadrature_is_right_for_sizes_times_polynomials(melts, sign):
    integration = Integration("exp_rk5", 8, 5, melts, quadrature=True)
    fine = torch.linspace(0.5, 2.5, 100_001, dtype=torch.float64)
    sizes = (1 + LEAST_SIZE) * (0.5 - fine).exp() - LEAST_SIZE
    integration.place(lambda steps: fine[[0, -1]], gauss_rule(fine[::5000], sizes[::5000]))
    for power in range(14):
        right = torch.trapezoid((-fine).exp() * fine**power, fine)
        reached = integration.integrals @ ((-integration.way).exp() * integration.way**power)
        assert float(reached) == pytest.approx(sign * float(right), rel=1e-8)
    assert (
        (sign * integration.integrals[1:-1]).min() > 0 == integration.integrals[[0, -1]].abs().max()
    )
