"""Targets that are averaged over where a noisy point may have come from."""

import pytest
import torch
from torch import Tensor

from tests.support.draws import seeded
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import InflationSchedule
from training.learning.targets import (
    LOT_BITS,
    OtherPoints,
    OthersOfBatch,
    averaging_shift,
    telling_axis,
)

POINTS, OTHERS, NEAR = 6_000, 64, 16


def dealt(points: Tensor, axis: int = 0, most: int = NEAR) -> OthersOfBatch:
    """Further points, of which samples take parts in turn."""
    return OthersOfBatch(OtherPoints.of(points, axis, most), torch.arange(4) << LOT_BITS - 2)


def test_points_find_all_that_are_near_or_those_of_a_part() -> None:
    """The half, quarter, ..., as they were drawn, that its lot says."""
    generator = seeded(1)
    points = 2 * torch.rand(203, 3, generator=generator, dtype=torch.float64) - 1
    intervals = torch.tensor([[0.5, 0.08], [0.2, 0.4], [-3, 0.1], [3, 0.1], [0.9, 0.3], [1, 9]])
    places, widths = intervals.double().repeat(20, 1).unbind(dim=1)
    lots = torch.randint(1 << LOT_BITS, (len(places),), generator=generator)
    for axis in (0, 2):
        near, counts = OtherPoints.of(points, axis, most=30).near(places, widths, lots)
        intervals_found = zip(places, widths, lots, near.movedim(1, 0), counts, strict=True)
        for place, width, lot, found, count in intervals_found:
            for parts in (1, 2, 4, 8):
                part = points[:200].view(parts, -1, 3)[
                    lot * parts >> LOT_BITS
                ]  # 203 have no eighths
                inside = part[(part[:, axis] - place).abs() <= width]
                if len(inside) <= 30:
                    break
            expected = inside[inside[:, axis].argsort()].float()
            assert torch.equal(found[:, :count].T, expected)


@pytest.mark.parametrize(("kept", "axis"), [(1, 1), (2, 0)])
def test_points_are_found_along_the_axis_that_tells_most(kept: int, axis: int) -> None:
    toy = Toy("moons")
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(kept, 2, top_variance=basis.top_variance)
    assert telling_axis(basis, schedule, schedule.default_t_max()) == axis


@pytest.mark.parametrize("kept", [1, 2])
def test_the_mean_is_plain_and_variance_less(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where a third of the points are outside of their own intervals, it shows if that does harm.
    monkeypatch.setattr("training.learning.targets.HALF_WIDTH", 1.0)
    toy = Toy("moons")
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(kept, 2, top_variance=basis.top_variance)
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    generator = seeded()
    # Others are drawn anew for each few points: those that share them are not independent.
    clean = basis.to_eigen(toy.sample(POINTS, generator)).view(-1, 4, 2)
    others = basis.to_eigen(toy.sample(len(clean) * OTHERS, generator)).view(-1, OTHERS, 2)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    t = torch.tensor(0.4 * schedule.default_t_max(), dtype=torch.float64)
    variance = schedule.noise_variance(t).expand(4, 2)
    axis = telling_axis(basis, schedule, schedule.default_t_max())
    batches = zip(clean, noise, others, strict=True)
    found = torch.stack(
        [e + averaging_shift(e, n, variance, dealt(more, axis, NEAR)) for e, n, more in batches]
    )
    noisy = clean + variance.sqrt() * noise
    mean = exact(noisy.view(-1, 2), t).view_as(noisy)
    for factor in (torch.ones_like(noisy), noisy, noisy.sin(), noisy.flip(2)):
        off = ((found - mean) * factor).mean(dim=1)
        score = off.mean(dim=0) / (off.std(dim=0) / len(off) ** 0.5)
        assert score.abs().max() < 4.5
    plain, averaged = ((each - mean).square().mean() for each in (clean, found))
    assert averaged < 0.95 * plain


def test_a_point_that_is_far_from_all_others_keeps_its_own() -> None:
    clean, others = torch.zeros(4, 3).double(), torch.full((5, 3), 30.0).double()
    noise, variance = torch.ones(4, 3).double(), torch.full((4, 3), 0.01).double()
    assert averaging_shift(clean, noise, variance, dealt(others)).abs().max() < 1e-30
    # And where noise drowns all, it is any of them.
    found = clean + averaging_shift(clean, noise, 1e12 * variance, dealt(others))
    torch.testing.assert_close(found, torch.full((4, 3), 25.0).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("std", [1e-2, 1e-5])
def test_shifts_are_right_in_units_of_narrow_noise_too(std: float) -> None:
    generator = seeded()
    clean = 2 + torch.rand(4, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    others = clean.repeat(4, 1) + std * torch.randn(16, 3, generator=generator, dtype=torch.float64)
    found = averaging_shift(clean, noise, torch.full((4, 3), std**2).double(), dealt(others))
    offsets = (others.float().double() - clean.float().double()[:, None]) / std
    weights = (-(offsets - noise[:, None]).square().sum(dim=2) / 2).exp()
    own = (-noise.square().sum(dim=1, keepdim=True) / 2).exp()
    expected = (weights[..., None] * offsets).sum(dim=1) / (own + weights.sum(dim=1, keepdim=True))
    torch.testing.assert_close(found / std, expected, rtol=1e-4, atol=1e-5)
