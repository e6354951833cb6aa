"""Schedules: rates against autograd, closed forms, laws of the exponents, bad arguments."""

from collections.abc import Callable
from math import exp, inf, log, nan

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from dnnlib.errors import UsageError
from training.flow.isotropic import EDMSchedule, VESchedule, VPSchedule
from training.flow.schedules import InflationSchedule, NoiseSchedule

to_dimension = InflationSchedule.to_dimension
GAP = {"g_type": "constant_inflation_gap"}
INFLATIONS = {
    "PRP": to_dimension(3, 3),
    "PRP scaled": to_dimension(3, 3, rho=2.0, gamma0=1e-3, top_variance=4.0, end_std=0.5),
    "orig": to_dimension(2, 5),
    "orig with shrinking noise": to_dimension(2, 3),
    "constant gap": to_dimension(2, 5, inflation_gap=1.25, **GAP),
    "rescaled": to_dimension(1, 4, g_rescaling=0.5, rho=1.5, top_variance=3.0),
}
ISOTROPIC = {"EDM": EDMSchedule(3), "VP": VPSchedule(3), "VE": VESchedule(3)}
SCHEDULES = {**INFLATIONS, **ISOTROPIC}
TIMES = torch.linspace(0.05, 7, 9, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_isotropic = pytest.mark.parametrize("schedule", ISOTROPIC.values(), ids=ISOTROPIC)
every_inflation = pytest.mark.parametrize("schedule", INFLATIONS.values(), ids=INFLATIONS)


@every_schedule
def test_the_noise_rate_is_the_derivative_of_the_log_noise(schedule: NoiseSchedule) -> None:
    derivative = vmap(jacfwd(lambda t: schedule.noise_variance(t).log()))(TIMES)
    torch.testing.assert_close(schedule.log_noise_rate(TIMES), derivative, rtol=1e-12, atol=0)


@every_schedule
def test_the_scale_rate_is_the_derivative_of_the_log_scale(schedule: NoiseSchedule) -> None:
    derivative = vmap(jacfwd(lambda t: schedule.scale(t).log()))(TIMES)
    torch.testing.assert_close(schedule.log_scale_rate(TIMES), derivative, rtol=1e-12, atol=1e-14)


@every_schedule
def test_a_time_follows_from_its_log_noise(schedule: NoiseSchedule) -> None:
    log_noise = schedule.reference_log_noise(TIMES)
    torch.testing.assert_close(schedule.time_of_log_noise(log_noise), TIMES, rtol=1e-12, atol=1e-12)


@every_schedule
def test_the_reference_noise_is_the_largest_of_all_dimensions(schedule: NoiseSchedule) -> None:
    largest = schedule.noise_variance(TIMES).max(dim=-1).values
    torch.testing.assert_close(schedule.reference_log_noise(TIMES).exp(), largest)


@every_schedule
def test_latent_variance_is_that_of_scaled_noisy_gaussian_data(
    schedule: NoiseSchedule, generator: torch.Generator
) -> None:
    count, t = 100_000, torch.tensor(4.0, dtype=torch.float64)
    data_variance = torch.linspace(2.0, 0.01, schedule.dim, dtype=torch.float64)
    normal = torch.randn(2, count, schedule.dim, generator=generator, dtype=torch.float64)
    clean, noise = data_variance.sqrt() * normal[0], schedule.noise_variance(t).sqrt() * normal[1]
    measured = (schedule.scale(t) * (clean + noise)).square().mean(dim=0)
    ratio = measured / schedule.latent_variance(t, data_variance)
    # The relative standard error of a Gaussian variance is sqrt(2 / count).
    assert ((ratio - 1).abs() < 4 * (2 / count) ** 0.5).all()


@every_inflation
def test_the_top_dimension_has_standard_deviation_A0_at_all_times(
    schedule: InflationSchedule,
) -> None:
    data_variance = torch.full((schedule.dim,), schedule.top_variance, dtype=torch.float64)
    variance = schedule.latent_variance(TIMES, data_variance)[:, 0]
    torch.testing.assert_close(variance, torch.full_like(TIMES, schedule.end_std**2))


@every_inflation
def test_kept_dimensions_all_end_at_A0(schedule: InflationSchedule) -> None:
    data_variance = torch.linspace(schedule.top_variance, 0.0, schedule.dim, dtype=torch.float64)
    late = torch.tensor(60.0, dtype=torch.float64)
    kept = schedule.growth_rates == schedule.growth_rates.max()
    end_std = schedule.latent_variance(late, data_variance).sqrt()
    torch.testing.assert_close(end_std[kept], torch.full_like(end_std[kept], schedule.end_std))
    assert (end_std[~kept] < 1e-6 * schedule.end_std).all()


def test_noise_starts_at_gamma0() -> None:
    variance = INFLATIONS["PRP scaled"].noise_variance(torch.tensor(0.0))
    torch.testing.assert_close(variance, torch.full((3,), 1e-3, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "variance"), [(EDMSchedule, 9.0), (VESchedule, 3.0)])
def test_edm_and_ve_noise_is_a_power_of_t_and_never_scaled(
    kind: type[NoiseSchedule], variance: float
) -> None:
    t = torch.tensor(3.0, dtype=torch.float64)
    assert kind(2).noise_variance(t).tolist() == [variance] * 2
    assert float(kind(2).scale(t)) == 1


def test_vp_keeps_the_variance_of_standardized_data() -> None:
    times = torch.linspace(0.001, 1, 9, dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(VPSchedule(2).latent_variance(times, ones), ones.expand(9, 2))
    # Song et al. 2021: the integral of beta from 0.1 to 20 is 10.05.
    assert float(VPSchedule(2).scale(times[-1])) == pytest.approx(exp(-10.05 / 2))


def test_names_tell_the_kind_of_schedule() -> None:
    assert [to_dimension(3, 3).name, to_dimension(2, 3).name] == ["PRP", "PRRto2D"]
    assert {schedule.name for schedule in ISOTROPIC.values()} == set(ISOTROPIC)


@pytest.mark.parametrize(("kept", "dim"), [(1, 2), (2, 3), (1, 3), (10, 64)])
def test_orig_exponents_sum_to_zero_and_have_gap_D_over_the_compressed(kept: int, dim: int) -> None:
    exponents = to_dimension(kept, dim, rho=1.7).growth_rates / 1.7 - 1
    assert abs(float(exponents.sum())) < 1e-12
    gap = float(exponents.max() - exponents.min())
    assert gap == pytest.approx(dim / (dim - kept), rel=1e-12)


@pytest.mark.parametrize("gap", [0.5, 1.02, 1.5, 2.5])
def test_the_constant_inflation_gap_is_the_difference_of_exponents(gap: float) -> None:
    exponents = to_dimension(2, 5, rho=2.0, inflation_gap=gap, **GAP).growth_rates / 2 - 1
    assert exponents[:2].tolist() == [1.0, 1.0]
    assert float(exponents.max() - exponents.min()) == pytest.approx(gap, rel=1e-12)


def test_rescaling_multiplies_every_exponent() -> None:
    plain, rescaled = to_dimension(1, 4), to_dimension(1, 4, g_rescaling=0.3)
    expected = 0.3 * (plain.growth_rates - 1)
    torch.testing.assert_close(rescaled.growth_rates - 1, expected, rtol=0, atol=1e-14)


def test_exponents_do_not_matter_where_all_dimensions_are_kept() -> None:
    assert to_dimension(4, 4, rho=1.5, inflation_gap=3.0, **GAP).growth_rates.tolist() == [1.5] * 4


@every_inflation
def test_by_default_a_tenth_of_the_top_variance_is_data_at_the_end(
    schedule: InflationSchedule,
) -> None:
    t_max = torch.tensor(schedule.default_t_max(), dtype=torch.float64)
    noise = float(schedule.noise_variance(t_max).max())
    assert schedule.top_variance / (schedule.top_variance + noise) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schedule", "low", "high"),
    [(EDMSchedule(2), 0.002, 80), (VESchedule(2), 0.02, 100), (VPSchedule(2), 0.0105, 152)],
    ids=ISOTROPIC,
)
def test_isotropic_noise_runs_over_the_tabulated_range(
    schedule: NoiseSchedule, low: float, high: float
) -> None:
    ends = torch.tensor([schedule.t_min, schedule.default_t_max()], dtype=torch.float64)
    std = schedule.noise_variance(ends).sqrt()[:, 0].tolist()
    assert std == pytest.approx([low, high], rel=0.01)


@every_schedule
def test_the_times_grid_increases_from_the_first_time_to_the_last(
    schedule: NoiseSchedule,
) -> None:
    end = min(7.01, schedule.default_t_max())
    times = schedule.times(37, end)
    assert times.shape == (38,)
    assert times.dtype == torch.float64
    assert (times.diff() > 0).all()
    ends = torch.tensor([schedule.t_min, end], dtype=torch.float64)
    torch.testing.assert_close(times[[0, -1]], ends, rtol=1e-13, atol=0)


def test_edm_times_are_even_in_their_seventh_roots() -> None:
    roots = EDMSchedule(2).times(10, 80.0) ** (1 / 7)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(10))


@every_schedule
def test_a_vector_of_times_is_treated_one_by_one(schedule: NoiseSchedule) -> None:
    variance = torch.linspace(1.0, 0.1, schedule.dim, dtype=torch.float64)
    functions: list[Callable[[Tensor], Tensor]] = [
        schedule.noise_variance,
        schedule.log_noise_rate,
        schedule.reference_log_noise,
        schedule.scale,
        schedule.log_scale_rate,
        lambda t: schedule.latent_variance(t, variance),
    ]
    for function in functions:
        one_by_one = torch.stack([function(t) for t in TIMES])
        torch.testing.assert_close(function(TIMES), one_by_one, rtol=1e-14, atol=0)
        table = function(TIMES.reshape(3, 3))
        torch.testing.assert_close(table.flatten(0, 1), one_by_one, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        *({name: bad} for name in ("rho", "gamma0", "end_std") for bad in (0.0, -1.0, nan, inf)),
        *({"dims_to_keep": bad} for bad in (0, -1, 4)),
        {"g_type": "constant"},
        *({"inflation_gap": bad, **GAP} for bad in (0.0, -1.0, nan, inf)),
        *({"g_rescaling": bad} for bad in (0.0, -1.0, nan, inf)),
    ],
    ids=str,
)
def test_impossible_inflations_are_usage_errors(arguments: dict) -> None:
    with pytest.raises(UsageError):
        to_dimension(**{"dims_to_keep": 2, "data_dim": 3, **arguments})


def test_noise_that_never_grows_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no dimension inflates"):
        InflationSchedule(torch.tensor([-1.0, -2.0]))


def test_ve_times_are_geometric() -> None:
    ratios = VESchedule(2).times(10, 1e4).log().diff()
    torch.testing.assert_close(ratios, ratios[:1].expand(10))


@every_isotropic
@pytest.mark.parametrize("bad", [0.0, -1.0, "end", nan])
def test_isotropic_schedules_need_a_first_time_within_their_range(
    schedule: NoiseSchedule, bad: float | str
) -> None:
    t_min = schedule.default_t_max() if bad == "end" else bad
    with pytest.raises(UsageError, match="tmin"):
        type(schedule)(2, t_min=t_min)


def test_usage_errors_name_what_would_be_right() -> None:
    with pytest.raises(UsageError, match="give 1 to 3"):
        to_dimension(4, 3)
    with pytest.raises(UsageError, match="orig, constant_inflation_gap"):
        to_dimension(2, 3, g_type="constant")


def test_the_default_end_of_circles_is_known() -> None:
    # log(9 / 5e-4): the noise then has nine times the variance of the data.
    assert to_dimension(2, 2).default_t_max() == pytest.approx(log(18_000))
