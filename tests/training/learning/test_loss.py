"""The denoising loss: its value, its invariances, and the law of its times."""

from itertools import pairwise
from math import nan
from statistics import NormalDist
from unittest import mock

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, random_basis, rotated
from tests.support.refusals import refusal
from torch_utils.seeds import seeded_generator
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule, VESchedule
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.learning.loss import LOG_STD_MEAN, LOG_STD_STD, DenoisingLoss, DenoisingRegression

PRR = InflationSchedule.to_dimension(1, 3, top_variance=2.0)


def gaussian_data(basis: EigenBasis, count: int, generator: torch.Generator) -> Tensor:
    drawn = normal(count, basis.dim, generator=generator)
    return basis.eigenvalues.sqrt() * drawn


def test_the_loss_is_that_of_the_denoiser_over_c_out(generator: torch.Generator) -> None:
    count, basis = 64, random_basis(3)
    denoiser = NetworkDenoiser(FunctionNetwork(lambda z, c: z.sin()), basis, PRR)
    loss = DenoisingLoss(PRR, 0.5, 7.0)
    clean, draws = gaussian_data(basis, count, generator), loss.draw(count, generator)
    noisy = clean + PRR.noise_variance(draws.t).sqrt() * draws.noise
    error = (denoiser(noisy, draws.t) - clean) / denoiser.coefficients(draws.t).c_out
    values = loss.per_sample(DenoisingRegression(denoiser), clean, draws)
    torch.testing.assert_close(values.double(), error.square().mean(1), rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_same_number_in_both_spaces(generator: torch.Generator) -> None:
    basis, loss = random_basis(3), DenoisingLoss(PRR, 0.0, 7.0)
    network = FunctionNetwork(lambda z, c: (3 * z).sin() + c[:, None])
    clean, draws = gaussian_data(basis, 200, generator), loss.draw(200, generator)
    networks = {"ES": network, "IS": rotated(network, basis)}
    denoisers = [NetworkDenoiser(net, basis, PRR, space=space) for space, net in networks.items()]
    eigen, image = (loss.per_sample(DenoisingRegression(d), clean, draws) for d in denoisers)
    torch.testing.assert_close(image, eigen, rtol=1e-4, atol=1e-5)


def test_uniform_times_are_uniform_and_fall_once_into_each_stratum() -> None:
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


def test_the_noise_is_standard_normal_and_independent_of_the_times() -> None:
    t, noise = DenoisingLoss(PRR, 0.5, 7.0).draw(40_000, seeded())
    error = len(t) ** -0.5
    assert (noise.mean(0).abs() < 4 * error).all()
    assert ((noise.square().mean(0) - 1).abs() < 4 * 2**0.5 * error).all()
    assert (((t - t.mean()) / t.std() @ noise).abs() / len(t) < 4 * error).all()


@pytest.mark.parametrize(
    ("schedule", "t_min", "t_max"),
    [(EDMSchedule(2), 0.002, 80.0), (EDMSchedule(2), 0.5, 1.0), (PRR, 0.0, 5.0)],
    ids=["EDM", "EDM, a short range", "PRR"],
)
def test_normal_times_have_normal_logs(schedule: NoiseSchedule, t_min: float, t_max: float) -> None:
    count = 256
    t = DenoisingLoss(schedule, t_min, t_max, "normal").draw(count, seeded()).t
    law = NormalDist(LOG_STD_MEAN, LOG_STD_STD)

    def probability(times: list[float]) -> list[float]:
        log_std = schedule.reference_log_noise(double(times)) / 2
        return [law.cdf(value) for value in log_std.tolist()]

    low, high = probability([t_min, t_max])
    quantiles = torch.tensor([(p - low) / (high - low) for p in probability(t.tolist())])
    centers = (torch.arange(count) + 0.5) / count
    # Stratified: one in each of the equally likely intervals.
    assert float((quantiles.sort().values - centers).abs().max()) < 0.5 / count + 1e-6
    assert float(t.min()) >= t_min
    assert float(t.max()) <= t_max


@pytest.mark.parametrize(("schedule", "ends"), [(VESchedule(2), (0.01, 100.0)), (PRR, (0.5, 5.0))])
def test_logs_of_uniform_are_even(schedule: NoiseSchedule, ends: tuple[float, float]) -> None:
    t = DenoisingLoss(schedule, *ends, "log_uniform").draw(64, seeded()).t
    low, high = schedule.reference_log_noise(double(ends))
    quantiles = (schedule.reference_log_noise(t) - low) / (high - low)
    assert (quantiles * 64).floor().sort().values.tolist() == [*range(64)]


def test_draws_follow_from_the_generator_and_impossible_laws_are_refused() -> None:
    loss = DenoisingLoss(PRR, 0.0, 7.0)
    first, again, other = (loss.draw(8, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.t, again.t)
    assert torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, other.noise)
    for ends in ((2.0, 2.0), (3.0, 2.0), (0.0, nan)):
        assert "tmin" in refusal(DenoisingLoss, PRR, *ends, kind=UsageError)
    with pytest.raises(UsageError, match="choose one of uniform, normal"):
        DenoisingLoss(PRR, 0.0, 1.0, "cosine")


def test_rows_are_drawn_alike_whoever_takes_which(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, count, keys = DenoisingLoss(PRR, 0.5, 7.0), 23, (5, 1, 7)

    def taken(
        *rows: slice, dtype: torch.dtype = torch.float64, pairs: bool = False
    ) -> list[Tensor]:
        cpu = torch.device("cpu")
        drawn = [loss.draw_rows(part, count, dtype, cpu, keys, antithetic=pairs) for part in rows]
        return [torch.cat(parts) for parts in zip(*drawn, strict=True)]

    whole = slice(0, count)
    torch.testing.assert_close(
        taken(whole), list(loss.draw(count, seeded_generator("cpu", *keys))), rtol=0, atol=0
    )
    for size in (1, 4, 5, 23):  # rows of a block
        monkeypatch.setattr("training.learning.loss.NOISE_BLOCK", 3 * size)
        for dtype in (torch.float32, torch.float64):
            t, noise = taken(whole, dtype=dtype)
            assert (t.dtype, noise.dtype, len(noise.unique())) == (torch.float64, dtype, 3 * count)
            paired = taken(whole, dtype=dtype, pairs=True)
            assert torch.equal(paired[0][1::2], paired[0][:-1:2])
            assert torch.equal(paired[1][1::2], -paired[1][:-1:2])
            assert len(paired[1].abs().unique()) == 3 * 12
            for cuts in ((0, 11, 23), (0, 1, 4, 20, 23)):
                shares = [slice(*ends) for ends in pairwise(cuts)]
                for pairs, expected in ((False, (t, noise)), (True, paired)):
                    found = taken(*shares, dtype=dtype, pairs=pairs)
                    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pairs_are_spread_evenly_over_times(count: int) -> None:
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


def test_a_share_draws_no_more_than_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.learning.loss.NOISE_BLOCK", 12)
    with mock.patch.object(torch, "randn", wraps=torch.randn) as drawn:
        loss = DenoisingLoss(PRR, 0.5, 7.0)
        loss.draw_rows(slice(9, 13), 18, torch.float32, torch.device("cpu"), (0,))
    assert [call.args for call in drawn.call_args_list] == [(4, 3), (4, 3)]
