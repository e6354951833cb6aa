"""Errors of a roundtrip and of a denoiser, against known ones, and what is measured of images."""

from math import pi

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.draws import normal, seeded
from tests.support.flows import FunctionNetwork, exact_flow
from training.data.images.batches import normalize_pixels, to_pixels
from training.flow.denoisers import NetworkDenoiser
from training.flow.pfode import ProbabilityFlow
from training.measure.excess_error import excess_error, noisy_points
from training.measure.image_quantities import BANDS, image_quantities
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors


def data_of(levels: object) -> Tensor:
    """Gray levels as data."""
    return torch.as_tensor(levels, dtype=torch.float64) / LEVELS_PER_UNIT - 1


@pytest.fixture
def originals() -> Tensor:
    return torch.randint(256, (9, 20), generator=seeded()).to(torch.uint8)


def test_exact_returns_have_no_error_and_differences_do_not_wrap(originals: Tensor) -> None:
    summary = RoundtripErrors.of(originals, normalize_pixels(originals)).summary()
    # Data in single precision are off by 1e-5 gray levels.
    assert summary.pop("max_abs_error") < 2e-5
    assert summary.pop("mse_float") < 1e-10
    assert summary == {"mse": 0.0, "exact_pixels": 1.0}
    black, white = torch.zeros(1, 5, dtype=torch.uint8), torch.full((1, 5), 255, dtype=torch.uint8)
    for original, returned in ((black, white), (white, black)):
        summary = RoundtripErrors.of(original, normalize_pixels(returned)).summary()
        assert (summary["mse"], summary["mse_float"]) == (255**2, pytest.approx(255**2))
        assert (summary["max_abs_error"], summary["exact_pixels"]) == (pytest.approx(255), 0)


def test_examples_by_hand_also_of_fractions_of_a_gray_level() -> None:
    originals = torch.tensor([[0, 255, 100, 7], [1, 2, 3, 4]], dtype=torch.uint8)
    # Differences -2, +3, +0.4, -0.6, of which two round to nothing more than black and white.
    errors = RoundtripErrors.of(originals, data_of([[-2, 258, 100.4, 6.4], [1, 2, 3, 4.75]]))
    torch.testing.assert_close(errors.mse_float, torch.tensor([13.52 / 4, 0.5625 / 4]).double())
    torch.testing.assert_close(errors.largest, torch.tensor([3, 0.75]).double())
    torch.testing.assert_close(errors.mse, torch.tensor([1 / 4, 1 / 4]).double())
    torch.testing.assert_close(errors.exact, torch.tensor([3 / 4, 3 / 4]).double())
    summary = errors.summary()
    assert (summary["mse"], summary["mse_float"]) == (0.25, pytest.approx(14.0825 / 8))
    assert (summary["max_abs_error"], summary["exact_pixels"]) == (pytest.approx(3.0), 0.75)
    errors = RoundtripErrors.of(torch.tensor([[10.3, 20.6]]), data_of([[10.4, 20.2]]))
    assert float(errors.largest) == pytest.approx(0.4, rel=1e-5)
    assert float(errors.mse_float) == pytest.approx((0.1**2 + 0.4**2) / 2, rel=1e-5)
    assert float(errors.exact) == 0.5  # 10 stays 10, but 21 becomes 20
    assert float(errors.mse) == 0.5


def test_rounding_is_that_of_saved_images(originals: Tensor) -> None:
    noise = 1.2 * normal(9, 20)
    returned = data_of(originals.double() + noise)
    errors = RoundtripErrors.of(originals, returned)
    difference = to_pixels(returned).numpy().astype(np.int64) - originals.numpy()
    np.testing.assert_allclose(errors.mse, (difference**2).mean(axis=1))
    np.testing.assert_allclose(errors.exact, (difference == 0).mean(axis=1))
    np.testing.assert_allclose(errors.mse_float, (noise**2).mean(dim=1), rtol=1e-9)
    np.testing.assert_allclose(errors.largest, noise.abs().amax(dim=1), rtol=1e-9)


def test_columns_are_the_attributes_of_each_image_and_become_them_again(originals: Tensor) -> None:
    returned = data_of(originals.double() + torch.randn(9, 20, generator=seeded()))
    errors = RoundtripErrors.of(originals, returned)
    columns = errors.columns()
    assert (columns.shape, columns.dtype) == ((9, 4), torch.float64)
    again = RoundtripErrors.from_columns(columns)
    for index, name in enumerate(("mse", "mse_float", "largest", "exact")):
        assert torch.equal(columns[:, index], getattr(errors, name))
        assert torch.equal(getattr(again, name), getattr(errors, name))
    assert again.summary() == errors.summary()
    pairs = zip(originals.split(4), returned.split(4), strict=True)
    parts = torch.cat([RoundtripErrors.of(*pair).columns() for pair in pairs])
    torch.testing.assert_close(parts, columns, rtol=1e-14, atol=0)


@pytest.fixture
def points() -> tuple[ProbabilityFlow, Tensor]:
    """An exact flow, and more clean points of it than one chunk holds."""
    toy, flow = exact_flow("bumps2", 1)
    return flow, flow.basis.to_eigen(toy.sample(9000, seeded()))


def test_a_right_network_has_no_excess_error(points: tuple[ProbabilityFlow, Tensor]) -> None:
    flow, clean = points
    x, t = noisy_points(clean[:100], flow.schedule, 4.0, seeded())
    zero = FunctionNetwork(lambda z, c: torch.zeros_like(z))
    denoiser = NetworkDenoiser(zero, flow.basis, flow.schedule)
    c = denoiser.coefficients(t)
    residual = ((flow.denoiser(x, t) - c.c_skip * x) / c.c_out).float()
    right = NetworkDenoiser(FunctionNetwork(lambda z, c: residual), flow.basis, flow.schedule)
    assert excess_error(right, flow.denoiser, x, t).max() < 1e-10
    untrained = excess_error(denoiser, flow.denoiser, x, t)
    torch.testing.assert_close(untrained, residual.double().square(), rtol=1e-4, atol=1e-8)


def test_errors_come_one_a_sample_in_order(points: tuple[ProbabilityFlow, Tensor]) -> None:
    flow, clean = points
    x, t = noisy_points(clean, flow.schedule, 4.0, seeded())
    ones = FunctionNetwork(lambda z, c: torch.ones_like(z))
    one = NetworkDenoiser(ones, flow.basis, flow.schedule)
    whole = excess_error(one, flow.denoiser, x, t)
    assert whole.shape == (9000, 2)
    last = excess_error(one, flow.denoiser, x[-10:], t[-10:])
    torch.testing.assert_close(whole[-10:], last)


def test_points_are_noisy_by_their_own_times(points: tuple[ProbabilityFlow, Tensor]) -> None:
    flow, clean = points
    x, t = noisy_points(clean, flow.schedule, 4.0, seeded())
    assert (t / 4 * len(t)).floor().tolist() == [*range(len(t))]
    noise = (x - clean) / flow.schedule.noise_variance(t).sqrt()
    assert ((noise.square().mean(0) - 1).abs() < 4 * (2 / len(t)) ** 0.5).all()


def test_quarters_are_where_they_are_and_powers_add_up_to_the_variance() -> None:
    images = normal(5, 2 * 6 * 8, seed=1)
    values = {name: f(images) for name, f in image_quantities((2, 6, 8)).items()}
    pixels = images.view(5, 2, 6, 8)
    torch.testing.assert_close(values["mean upper right"], pixels[:, :, :3, 4:].mean((1, 2, 3)))
    torch.testing.assert_close(values["mean lower left"], pixels[:, :, 3:, :4].mean((1, 2, 3)))
    columns = (torch.arange(8) / 8).expand(6, 8)
    # By Parseval the power of a wave of amplitude 1 is half of the pixels, all in its band.
    for wave, name in ((columns, "long"), (4 * columns, "short"), (2 * columns, "middle")):
        image = torch.cos(2 * pi * wave).double().flatten()[None]
        functions = image_quantities((1, 6, 8))
        powers = {band: float(functions[f"power of {band} waves"](image)) for band in BANDS}
        assert max(powers, key=powers.__getitem__) == name
        assert sum(value < 1e-12 for value in powers.values()) == 2
