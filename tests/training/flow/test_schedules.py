"""Schedules: rates, closed forms, exponents, and what they standardize; eigenbases."""

from copy import deepcopy
from math import exp, log

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.func import jacfwd, jvp, vmap

from tests.support import flows
from tests.support.draws import double, normal, seeded
from tests.support.flows import random_basis
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import EDMSchedule, InflationSchedule, VESchedule, VPSchedule
from training.flow.solvers import SOLVERS

to_dimension = InflationSchedule.to_dimension
INFLATIONS = {
    "PRP": to_dimension(3, 3),
    "PRP scaled": to_dimension(3, 3, rho=2.0, gamma0=1e-3, top_variance=4.0, end_std=0.5),
    "orig": to_dimension(2, 5),
    "orig with shrinking noise": to_dimension(2, 3),
    "constant gap": to_dimension(2, 5, inflation_gap=1.25, **flows.GAP),
    "rescaled": to_dimension(1, 4, g_rescaling=0.5, rho=1.5, top_variance=3.0),
}
ISOTROPIC = {"EDM": EDMSchedule(3), "VP": VPSchedule(3), "VE": VESchedule(3)}
SCHEDULES = {**INFLATIONS, **ISOTROPIC}
TIMES = torch.linspace(0.05, 7, 9, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
SOME = [flows.SCHEDULES[name] for name in ("PRP", "PRR", "EDM")]
some_schedules = pytest.mark.parametrize("schedule", SOME)
STANDARDIZED = {name: solver for name, solver in SOLVERS.items() if solver.standardized}


@every_schedule
def test_rates_are_derivatives_and_times_follow_from_the_noise(schedule):
    noise = vmap(jacfwd(lambda t: schedule.noise_variance(t).log()))(TIMES)
    torch.testing.assert_close(schedule.log_noise_rate(TIMES), noise, rtol=1e-12, atol=0)
    scale = vmap(jacfwd(lambda t: schedule.scale(t).log()))(TIMES)
    torch.testing.assert_close(schedule.log_scale_rate(TIMES), scale, rtol=1e-12, atol=1e-14)
    log_noise = schedule.reference_log_noise(TIMES)
    torch.testing.assert_close(schedule.time_of_log_noise(log_noise), TIMES, rtol=1e-12, atol=1e-12)
    largest = schedule.noise_variance(TIMES).max(dim=-1).values
    torch.testing.assert_close(log_noise.exp(), largest)
    t, xi = torch.tensor(4.0).double(), torch.linspace(2, 0.01, schedule.dim, dtype=torch.float64)
    expected = schedule.scale(t) ** 2 * (xi + schedule.noise_variance(t))
    torch.testing.assert_close(schedule.latent_variance(t, xi), expected)


@pytest.mark.parametrize("schedule", INFLATIONS.values(), ids=INFLATIONS)
def test_the_top_dimension_has_deviation_A0_as_kept_ones_end(schedule):
    top, end_std = schedule.top_variance, schedule.end_std
    data_variance = torch.linspace(top, 0.0, schedule.dim, dtype=torch.float64)
    variance = schedule.latent_variance(TIMES, data_variance)[:, 0]
    torch.testing.assert_close(variance, torch.full_like(TIMES, end_std**2))
    late = double(60.0)
    kept = schedule.growth_rates == schedule.growth_rates.max()
    std = schedule.latent_variance(late, data_variance).sqrt()
    torch.testing.assert_close(std[kept], torch.full_like(std[kept], end_std))
    assert (std[~kept] < 1e-6 * end_std).all()
    # By default a tenth of the top variance is data at the end.
    t_max = double(schedule.default_t_max())
    assert top / (top + float(schedule.noise_variance(t_max).max())) == pytest.approx(0.1)


def test_flows_with_conditions_last_until_these_tell_nothing_of_latents():
    """A Gaussian x of mean m given y: latents of all x, flowed back, miss m by this many of its
    standard deviations."""
    top, spread, mean = 5.0, 0.4, 5.0**0.5
    schedule = InflationSchedule(torch.ones(1), gamma0=1e-4, top_variance=top)

    def missed(conditional):
        end = double(schedule.default_t_max(conditional))
        gamma = float(schedule.noise_variance(end)[0])
        back = mean * (1 - (spread**2 / (spread**2 + gamma)) ** 0.5)
        return (mean - back) / spread

    assert missed(conditional=False) > 0.3
    assert missed(conditional=True) < 0.04


def test_schedules_have_the_names_and_the_noise_of_their_papers():
    variance = INFLATIONS["PRP scaled"].noise_variance(torch.tensor(0.0))
    torch.testing.assert_close(variance, torch.full((3,), 1e-3, dtype=torch.float64))
    t = double(3.0)
    for schedule, power in ((EDMSchedule(2), 9.0), (VESchedule(2), 3.0)):
        assert schedule.noise_variance(t).tolist() == [power] * 2
        assert float(schedule.scale(t)) == 1
    times = torch.linspace(0.001, 1, 9, dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(VPSchedule(2).latent_variance(times, ones), ones.expand(9, 2))
    # Song et al. 2021: the integral of beta from 0.1 to 20 is 10.05.
    assert float(VPSchedule(2).scale(times[-1])) == pytest.approx(exp(-10.05 / 2))
    assert [to_dimension(3, 3).name, to_dimension(2, 3).name] == ["PRP", "PRRto2D"]
    assert {schedule.name for schedule in ISOTROPIC.values()} == set(ISOTROPIC)
    # log(9 / 5e-4): the noise then has nine times the variance of the data.
    assert to_dimension(2, 2).default_t_max() == pytest.approx(log(18_000))


def exponents(*arguments, rho, **options):
    return to_dimension(*arguments, rho=rho, **options).growth_rates / rho - 1


def test_exponents_have_the_gap_and_the_scale_of_the_arguments():
    for kept, dim in ((1, 2), (2, 3), (10, 64)):
        orig = exponents(kept, dim, rho=1.7)
        assert abs(float(orig.sum())) < 1e-12
        assert float(orig.max() - orig.min()) == pytest.approx(dim / (dim - kept), rel=1e-12)
    for gap in (0.5, 1.02, 2.5):
        constant = exponents(2, 5, rho=2.0, inflation_gap=gap, **flows.GAP)
        assert constant[:2].tolist() == [1.0, 1.0]
        assert float(constant.max() - constant.min()) == pytest.approx(gap, rel=1e-12)
    rescaled = exponents(1, 4, rho=1.0, g_rescaling=0.3)
    torch.testing.assert_close(rescaled, 0.3 * exponents(1, 4, rho=1.0), rtol=0, atol=1e-14)
    # They do not matter where all dimensions are kept.
    kept = to_dimension(4, 4, rho=1.5, inflation_gap=3.0, **flows.GAP)
    assert kept.growth_rates.tolist() == [1.5] * 4


def test_isotropic_noise_runs_over_the_tabulated_range():
    for name, low, high in (("EDM", 0.002, 80), ("VE", 0.02, 100), ("VP", 0.0105, 152)):
        schedule = ISOTROPIC[name]
        ends = double([schedule.t_min, schedule.default_t_max()])
        std = schedule.noise_variance(ends).sqrt()[:, 0].tolist()
        assert std == pytest.approx([low, high], rel=0.01)


@every_schedule
def test_the_times_grid_increases_from_the_first_time_to_the_last(schedule):
    end = min(7.01, schedule.default_t_max())
    times = schedule.times(37, end)
    assert (times.shape, times.dtype) == ((38,), torch.float64)
    steps = {"EDM": times ** (1 / 7), "VE": times.log()}.get(schedule.name, times).diff()
    assert (steps > 0).all()
    torch.testing.assert_close(steps, steps[:1].expand(37))
    ends = double([schedule.t_min, end])
    torch.testing.assert_close(times[[0, -1]], ends, rtol=1e-13, atol=0)


@every_schedule
def test_a_vector_of_times_is_treated_one_by_one(schedule):
    variance = torch.linspace(1.0, 0.1, schedule.dim, dtype=torch.float64)
    names = ("noise_variance", "log_noise_rate", "reference_log_noise", "scale", "log_scale_rate")
    functions = [getattr(schedule, name) for name in names]
    functions.append(lambda t: schedule.latent_variance(t, variance))
    for function in functions:
        one_by_one = torch.stack([function(t) for t in TIMES])
        torch.testing.assert_close(function(TIMES), one_by_one, rtol=1e-14, atol=0)
        table = function(TIMES.reshape(3, 3))
        torch.testing.assert_close(table.flatten(0, 1), one_by_one, rtol=1e-14, atol=0)


@some_schedules
def test_the_standardized_velocity_is_a_change_of_variables(schedule):
    _, flow = flows.exact_flow("bumps3", schedule=schedule)
    y = normal(20, 3)
    for t in schedule.times(5, 4.0):
        # dx/dt = d(std y)/dt = std' y + std y'
        std, rate = jvp(flow.latent_std, (t,), (torch.ones_like(t),))
        expected = (flow.velocity(std * y, t) - rate * y) / std
        got = flow.standardized_velocity(y, t)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@some_schedules
def test_rows_may_have_times_of_their_own(schedule):
    _, flow = flows.exact_flow("bumps3", schedule=schedule)
    y = normal(6, 3)
    t = schedule.times(5, 4.0)
    for kind in ("velocity", "standardized_velocity", "noisy_std", "latent_std"):
        function = getattr(flow, kind)
        points = (y,) if "velocity" in kind else ()
        together = function(*points, t)
        assert together.shape == (6, 3)
        for row in range(6):
            alone = function(*(rows[[row]] for rows in points), t[row])
            torch.testing.assert_close(together[row], alone.view(3), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", STANDARDIZED.values(), ids=STANDARDIZED)
def test_a_dimension_whose_noise_does_not_grow_moves_by_the_scale_alone(solver):
    toy, flow = flows.exact_flow("bumps2", 1, g_type="orig")
    assert flow.schedule.growth_rates.tolist() == [2, 0]
    times = flow.schedule.times(4, flow.schedule.default_t_max())
    melt = flow.melt(toy.sample(16, seeded()), times, solver)
    expected = flow.schedule.scale(times[-1]) / flow.schedule.scale(times[0])
    moved = melt.end / melt.states[0]
    torch.testing.assert_close(moved[:, 1], expected.expand(16), rtol=1e-14, atol=0)
    assert (moved[:, 0] / moved[:, 1] - 1).abs().min() > 1e-3
    assert (flow.standardized_velocity(melt.states[0], times[0])[:, 1] == 0).all()


# Far from zero: naive sums of squares would lose 12 of their 16 digits.
OFFSET = 1e6
UNEVEN = [1, 7, 500, 2, 990]


@pytest.fixture(scope="module")
def points():
    """1500 correlated points of six dimensions, far from the origin."""
    generator = seeded(5)
    mixing = normal(6, 6, generator=generator)
    return OFFSET + normal(1500, 6, generator=generator) @ mixing


def test_a_fit_has_the_axes_of_the_covariance_however_the_data_is_cut_or_shaped(points):
    basis = EigenBasis.fit([points])
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(points.numpy().T, bias=True))
    np.testing.assert_allclose(basis.eigenvalues, eigenvalues[::-1], rtol=1e-9)
    overlap = np.abs(basis.eigenvectors.numpy().T @ eigenvectors[:, ::-1])
    np.testing.assert_allclose(overlap, np.eye(6), atol=1e-8)
    np.testing.assert_allclose(basis.mean, points.mean(0), rtol=1e-15)
    coordinates = np.abs(PCA(svd_solver="full").fit_transform(points.numpy()))
    np.testing.assert_allclose(basis.to_eigen(points).abs(), coordinates, atol=1e-7)
    for sizes in (UNEVEN, list(reversed(UNEVEN)), [100] * 15):
        cut = EigenBasis.fit(points.split(sizes))
        for name, tensor in basis.state_dict().items():
            torch.testing.assert_close(cut.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)
    # Single precision is summed in double.
    flat, shaped = EigenBasis.fit([points]), EigenBasis.fit([points.reshape(-1, 1, 2, 3)])
    assert torch.equal(flat.eigenvectors, shaped.eigenvectors)
    single = (points - OFFSET).float().split(UNEVEN)
    summed, exact = (EigenBasis.fit(parts) for parts in (single, [p.double() for p in single]))
    torch.testing.assert_close(summed.eigenvalues, exact.eigenvalues, rtol=1e-12, atol=0)


def test_participation_ratios_of_known_spectra():
    spectra = {(3.0,) * 5: 5, (2.0, 0.0, 0.0): 1, (4.0, 1.0): 25 / 17, (1.0, 1.0, 0.0, 0.0): 2}
    for variances, ratio in spectra.items():
        covariance = torch.tensor(variances).diag()
        basis = EigenBasis.from_moments(torch.zeros(len(variances)), covariance)
        assert basis.participation_ratio == pytest.approx(ratio, rel=1e-12)


def test_coordinates_come_back_and_second_moments_are_mean_squares(points):
    basis = random_basis(5)
    one, other = data = normal(2, 7, 5)
    torch.testing.assert_close(basis.from_eigen(basis.to_eigen(data)), data, rtol=0, atol=1e-12)
    difference = basis.to_eigen(one) - basis.to_eigen(other)
    torch.testing.assert_close(basis.rotate(one - other), difference)
    torch.testing.assert_close(basis.rotate_back(difference), one - other, rtol=0, atol=1e-12)
    basis = random_basis(6)
    others = points - OFFSET
    expected = basis.to_eigen(others).square().mean(dim=0)
    for sizes in (UNEVEN, [1500]):
        torch.testing.assert_close(basis.second_moments(others.split(sizes)), expected)


def test_variances_of_constant_dimensions_are_floored_and_no_others(points):
    padded = torch.cat([points, torch.full((len(points), 2), 3.0, dtype=torch.float64)], dim=1)
    basis = EigenBasis.fit([padded])
    floored = basis.floored_variance()
    assert (basis.eigenvalues[-2:] < 1e-12).all()
    assert (floored[-2:] == 1e-6 * basis.top_variance).all()
    assert torch.equal(floored[:-2], basis.eigenvalues[:-2])


def test_axes_have_a_sign_and_a_tiny_negative_eigenvalue_is_taken_as_zero(points):
    covariance = points.T.cov()
    for sign in (1, -1):  # a reflected data set keeps its axes
        axes = EigenBasis.from_moments(sign * points.mean(0), covariance).eigenvectors
        assert (axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) > 0).all()
    basis = EigenBasis.from_moments(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, -1e-18]]))
    assert basis.eigenvalues.tolist() == [1.0, 0.0]


def test_rotations_in_single_precision_follow_a_basis_that_is_loaded_moved_or_copied():
    basis = random_basis(4)
    other = EigenBasis(basis.mean, basis.eigenvalues, basis.eigenvectors.flip(0))
    vectors = torch.eye(4)
    with torch.inference_mode():
        basis.rotate(vectors)  # whose copy of W must be of use where there are gradients
    basis.rotate(vectors.requires_grad_()).sum().backward()
    for changed in (basis, deepcopy(basis)):
        changed.rotate(vectors)
        changed.load_state_dict(other.state_dict())
        assert torch.equal(changed.rotate(vectors), other.eigenvectors.float())
        assert torch.equal(changed.rotate_back(vectors), other.eigenvectors.T.float())
    assert changed.to("meta").rotate(vectors.to("meta")).is_meta
