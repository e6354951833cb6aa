"""The denoising loss, the law of its times, and its targets."""

import math
from itertools import pairwise
from math import nan
from statistics import NormalDist
from unittest import mock

import pytest
import torch

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, exact_flow, random_basis
from tests.support.running import refusal
from torch_utils.seeds import seeded_generator
from training.flow.denoisers import NetworkDenoiser
from training.flow.schedules import EDMSchedule, InflationSchedule, VESchedule
from training.learning import loss
from training.learning.loss import (
    LOG_STD_MEAN,
    LOG_STD_STD,
    LOT_BITS,
    DenoisingLoss,
    DenoisingRegression,
    OtherPoints,
    OthersOfBatch,
    averaging_shift,
)

PRR = InflationSchedule.to_dimension(1, 3, top_variance=2.0)
POINTS, OTHERS, NEAR = 3_000, 64, 16
SIZES = {"dim": 2, "noise_range": [-1.0, 0.3], "width": 24, "depth": 2}


def test_the_loss_is_that_of_the_denoiser_over_c_out(generator):
    count, basis = 64, random_basis(3)
    denoiser = NetworkDenoiser(FunctionNetwork(lambda z, c: z.sin()), basis, PRR)
    loss = DenoisingLoss(PRR, 0.5, 7.0)
    clean = basis.eigenvalues.sqrt() * normal(count, 3, generator=generator)
    draws = loss.draw(count, generator)
    noisy = clean + PRR.noise_variance(draws.t).sqrt() * draws.noise
    error = (denoiser(noisy, draws.t) - clean) / denoiser.coefficients(draws.t).c_out
    values = loss.per_sample(DenoisingRegression(denoiser), clean, draws)
    torch.testing.assert_close(values.double(), error.square().mean(1), rtol=1e-4, atol=1e-5)


def test_uniform_times_fall_once_into_each_stratum_and_noise_is_normal_and_independent():
    generator = seeded()
    loss = DenoisingLoss(PRR, 0.5, 7.0)
    for count in (1, 64):
        draws = loss.draw(count, generator)
        strata = ((draws.t - 0.5) / 6.5 * count).floor()
        assert strata.sort().values.tolist() == [*range(count)]
        assert draws.noise.shape == (count, 3)
    t = torch.stack([loss.draw(8, generator).t for _ in range(300)])
    within = ((t - 0.5) / 6.5 * 8).frac().flatten().sort().values
    ranks = torch.arange(1, len(within) + 1) / len(within)
    # Kolmogorov's bound at 0.1 %.
    assert float((within - ranks).abs().max()) < 1.95 / len(within) ** 0.5
    t, noise = DenoisingLoss(PRR, 0.5, 7.0).draw(40_000, seeded())
    error = len(t) ** -0.5
    assert (noise.mean(0).abs() < 4 * error).all()
    assert ((noise.square().mean(0) - 1).abs() < 4 * 2**0.5 * error).all()
    assert (((t - t.mean()) / t.std() @ noise).abs() / len(t) < 4 * error).all()


def test_times_by_weight_are_uniform_until_late_and_then_fall_as_the_data_do():
    schedule = InflationSchedule.to_dimension(2, 2, rho=2.0, gamma0=1e-3)
    late = schedule.default_t_max()
    t = DenoisingLoss(schedule, 0.0, late + 2.0, "by_weight").draw(40_000, seeded()).t
    # The density is 1 until late, and exp(-2 (t - late)) after it: the integral of the latter is
    after = -math.expm1(-4.0) / 2
    for end, mass in (
        (late / 2, late / 2),
        (late, late),
        (late + 0.5, late - math.expm1(-1.0) / 2),
        (late + 2.0, late + after),
    ):
        share = float((t <= end + 1e-9).double().mean())
        assert share == pytest.approx(mass / (late + after), abs=3e-4)
    early, uniform = (
        DenoisingLoss(schedule, 0.0, late / 2, name).draw(1000, seeded()).t
        for name in ("by_weight", "uniform")
    )
    torch.testing.assert_close(early, uniform)
    arguments = (EDMSchedule(2), 0.01, 1.0, "by_weight")
    assert "by_weight" in refusal(DenoisingLoss, *arguments, kind=UsageError)


@pytest.mark.parametrize(
    ("schedule", "t_min", "t_max"),
    [(EDMSchedule(2), 0.002, 80.0), (EDMSchedule(2), 0.5, 1.0), (PRR, 0.0, 5.0)],
)
def test_normal_times_have_normal_logs(schedule, t_min, t_max):
    count = 256
    t = DenoisingLoss(schedule, t_min, t_max, "normal").draw(count, seeded()).t
    distribution = NormalDist(LOG_STD_MEAN, LOG_STD_STD)

    def probability(times):
        log_std = schedule.reference_log_noise(double(times)) / 2
        return [distribution.cdf(value) for value in log_std.tolist()]

    low, high = probability([t_min, t_max])
    quantiles = torch.tensor([(p - low) / (high - low) for p in probability(t.tolist())])
    centers = (torch.arange(count) + 0.5) / count
    # Stratified: one in each of the equally likely intervals.
    assert float((quantiles.sort().values - centers).abs().max()) < 0.5 / count + 1e-6
    assert float(t.min()) >= t_min
    assert float(t.max()) <= t_max


@pytest.mark.parametrize(("schedule", "ends"), [(VESchedule(2), (0.01, 100.0)), (PRR, (0.5, 5.0))])
def test_logs_of_uniform_are_even(schedule, ends):
    t = DenoisingLoss(schedule, *ends, "log_uniform").draw(64, seeded()).t
    low, high = schedule.reference_log_noise(double(ends))
    quantiles = (schedule.reference_log_noise(t) - low) / (high - low)
    assert (quantiles * 64).floor().sort().values.tolist() == [*range(64)]


def test_rows_are_drawn_alike_whoever_takes_which(monkeypatch):
    loss, count, keys = DenoisingLoss(PRR, 0.5, 7.0), 23, (5, 1, 7)

    def took(*rows, dtype=torch.float64, pairs=False):
        cpu = torch.device("cpu")
        drawn = [loss.draw_rows(part, count, dtype, cpu, keys, antithetic=pairs) for part in rows]
        return [torch.cat(parts) for parts in zip(*drawn, strict=True)]

    whole = slice(0, count)
    expected = [*loss.draw(count, seeded_generator("cpu", *keys))]
    torch.testing.assert_close(took(whole), expected, rtol=0, atol=0)
    for size in (1, 4, 5, 23):  # rows of a block
        monkeypatch.setattr("training.learning.loss.NOISE_BLOCK", 3 * size)
        for dtype in (torch.float32, torch.float64):
            t, noise = took(whole, dtype=dtype)
            assert (t.dtype, noise.dtype, len(noise.unique())) == (torch.float64, dtype, 3 * count)
            paired = took(whole, dtype=dtype, pairs=True)
            assert torch.equal(paired[0][1::2], paired[0][:-1:2])
            assert torch.equal(paired[1][1::2], -paired[1][:-1:2])
            assert len(paired[1].abs().unique()) == 3 * 12
            for cuts in ((0, 11, 23), (0, 1, 4, 20, 23)):
                shares = [slice(*ends) for ends in pairwise(cuts)]
                for pairs, expected in ((False, (t, noise)), (True, paired)):
                    got = took(*shares, dtype=dtype, pairs=pairs)
                    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pairs_are_spread_evenly_over_times(count):
    """Of an odd number of samples the last one is alone, in a stratum of half the width."""
    loss, cpu, rows = DenoisingLoss(PRR, 0.0, 1.0), torch.device("cpu"), slice(0, count)
    steps = ((rows, count, torch.float64, cpu, (0, step)) for step in range(2000))
    t = torch.stack([loss.draw_rows(*step, antithetic=True).t for step in steps])
    first = torch.arange(count).div(2, rounding_mode="floor") * 2 / count
    width = torch.full((count,), 2 / count)
    width[-1] *= 1 - (count % 2) / 2
    assert (t >= first).all()
    assert (t <= first + width).all()
    off = (t.mean(dim=0) - (first + width / 2)).abs()
    assert (off < 5 * width / 12**0.5 / 2000**0.5).all()


def test_a_share_draws_no_more_than_its_blocks(monkeypatch):
    monkeypatch.setattr("training.learning.loss.NOISE_BLOCK", 12)
    with mock.patch.object(torch, "randn", wraps=torch.randn) as drawn:
        loss = DenoisingLoss(PRR, 0.5, 7.0)
        loss.draw_rows(slice(9, 13), 18, torch.float32, torch.device("cpu"), (0,))
    assert [call.args for call in drawn.call_args_list] == [(4, 3), (4, 3)]


def dealt(points, axis=0, most=NEAR):
    """Further points, of which samples take parts in turn."""
    return OthersOfBatch(
        OtherPoints.from_points(points, axis, most), torch.arange(4) << LOT_BITS - 2
    )


def test_points_find_all_that_are_near_or_those_of_a_part():
    """The half, quarter, ..., as they were drawn, that its lot says."""
    generator = seeded(1)
    points = 2 * torch.rand(203, 3, generator=generator, dtype=torch.float64) - 1
    intervals = torch.tensor([[0.5, 0.08], [0.2, 0.4], [-3, 0.1], [3, 0.1], [0.9, 0.3], [1, 9]])
    places, widths = intervals.double().repeat(20, 1).unbind(dim=1)
    lots = torch.randint(1 << LOT_BITS, (len(places),), generator=generator)
    for axis in (0, 2):
        near, counts = OtherPoints.from_points(points, axis, most=30).near(places, widths, lots)
        intervals_found = zip(places, widths, lots, near.movedim(1, 0), counts, strict=True)
        for place, width, lot, got, count in intervals_found:
            for parts in (1, 2, 4, 8):
                # Of 203 there are no eighths.
                part = points[:200].view(parts, -1, 3)[lot * parts >> LOT_BITS]
                inside = part[(part[:, axis] - place).abs() <= width]
                if len(inside) <= 30:
                    break
            assert torch.equal(got[:, :count].T, inside[inside[:, axis].argsort()].float())


@pytest.mark.parametrize(("kept", "axis"), [(1, 1), (2, 0)])
def test_points_are_found_along_the_axis_that_tells_most(kept, axis):
    _, flow = exact_flow("moons", kept)
    assert loss.informative_axis(flow.basis, flow.schedule, flow.end_time) == axis


@pytest.mark.parametrize("kept", [1, 2])
def test_the_mean_is_plain_and_variance_less(kept, monkeypatch):
    # Where a third of the points are outside of their own intervals, it shows if that does harm.
    monkeypatch.setattr("training.learning.loss.HALF_WIDTH", 1.0)
    (toy, flow), generator = exact_flow("moons", kept), seeded()
    # Others are drawn anew for each few points: those that share them are not independent.
    clean = flow.basis.to_eigen(toy.sample(POINTS, generator)).view(-1, 4, 2)
    others = flow.basis.to_eigen(toy.sample(len(clean) * OTHERS, generator)).view(-1, OTHERS, 2)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    t = double(0.4 * flow.end_time)
    variance = flow.schedule.noise_variance(t).expand(4, 2)
    axis = loss.informative_axis(flow.basis, flow.schedule, flow.end_time)
    batches = zip(clean, noise, others, strict=True)
    shifts = [averaging_shift(e, n, variance, dealt(more, axis, NEAR)) for e, n, more in batches]
    got = clean + torch.stack(shifts)
    noisy = clean + variance.sqrt() * noise
    mean = flow.denoiser(noisy.view(-1, 2), t).view_as(noisy)
    for factor in (torch.ones_like(noisy), noisy, noisy.sin(), noisy.flip(2)):
        off = ((got - mean) * factor).mean(dim=1)
        assert (off.mean(dim=0) / (off.std(dim=0) / len(off) ** 0.5)).abs().max() < 4.5
    plain, averaged = ((each - mean).square().mean() for each in (clean, got))
    assert averaged < 0.95 * plain


def test_a_point_that_is_far_from_all_others_keeps_its_own():
    clean, others = torch.zeros(4, 3).double(), torch.full((5, 3), 30.0).double()
    noise, variance = torch.ones(4, 3).double(), torch.full((4, 3), 0.01).double()
    assert averaging_shift(clean, noise, variance, dealt(others)).abs().max() < 1e-30
    # And where noise drowns all, it is any of them.
    got = clean + averaging_shift(clean, noise, 1e12 * variance, dealt(others))
    torch.testing.assert_close(got, torch.full((4, 3), 25.0).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("std", [1e-2, 1e-5])
def test_shifts_are_right_in_units_of_narrow_noise_too(std):
    generator = seeded()
    clean = 2 + torch.rand(4, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    others = clean.repeat(4, 1) + std * torch.randn(16, 3, generator=generator, dtype=torch.float64)
    got = averaging_shift(clean, noise, torch.full((4, 3), std**2).double(), dealt(others))
    offsets = (others.float().double() - clean.float().double()[:, None]) / std
    weights = (-(offsets - noise[:, None]).square().sum(dim=2) / 2).exp()
    own = (-noise.square().sum(dim=1, keepdim=True) / 2).exp()
    expected = (weights[..., None] * offsets).sum(dim=1) / (own + weights.sum(dim=1, keepdim=True))
    torch.testing.assert_close(got / std, expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused():
    for ends in ((2.0, 2.0), (3.0, 2.0), (0.0, nan)):
        assert "tmin" in refusal(DenoisingLoss, PRR, *ends, kind=UsageError)
    with pytest.raises(UsageError, match="choose one of uniform, normal"):
        DenoisingLoss(PRR, 0.0, 1.0, "cosine")
