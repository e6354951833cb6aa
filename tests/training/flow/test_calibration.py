"""Second-moment calibration: what it finds, what it mends, what it does not depend on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from dnnlib.errors import UsageError
from torch_utils import distributed
from training.data.toys import Toy
from training.flow.calibration import METHODS, Calibration, fit_calibration
from training.flow.denoisers import MixtureDenoiser, NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS

BIAS = 0.15
END = 5.0


def biased(
    slope: float = BIAS, curve: float = 0.0, variance: Tensor | None = None
) -> NetworkDenoiser:
    """The exact denoiser of the S curve (3-D, two dimensions kept), its F spoiled.

    F is what the exact denoiser asks of the network, plus ``slope z`` and ``curve z^3``; its
    coefficients count on the data's own variance, or on another one.
    """
    toy = Toy("s_curve")
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(2, 3, top_variance=basis.top_variance)
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)

    class Spoiled(nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
            t = schedule.time_of_log_noise(8 * c_noise.double())
            c = denoiser.coefficients(t)
            x = z.double() / c.c_in
            ideal = (exact(x, t) - c.c_skip * x) / c.c_out
            return ideal + slope * z + curve * z**3

    denoiser = NetworkDenoiser(Spoiled(), basis, schedule, data_variance=variance)
    return denoiser


def toy_points(denoiser: NetworkDenoiser, count: int = 500, seed: int = 0) -> Tensor:
    points = Toy("s_curve").sample(count, torch.Generator().manual_seed(seed))
    return denoiser.basis.to_eigen(points)


def nodes(count: int) -> Tensor:
    return torch.linspace(0, END, count, dtype=torch.float64)


def melted_ratio(denoiser: NetworkDenoiser, points: Tensor, steps: int = 32) -> Tensor:
    """Growth ``[D]`` of the second moments of noisy points in a melt, over its closed form."""
    flow = ProbabilityFlow(denoiser, denoiser.schedule, denoiser.basis)
    times = nodes(steps + 1)
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(9)).double()
    start = flow.schedule.scale(times[0]) * (
        points + flow.schedule.noise_variance(times[0]).sqrt() * noise
    )
    end = flow.simulate(start, times, SOLVERS["rk4"]).end
    growth = end.square().mean(0) / start.square().mean(0)
    return growth / (flow.latent_variance(times[-1]) / flow.latent_variance(times[0]))


@pytest.fixture
def ramp() -> Calibration:
    """Slopes that are linear in t from (0, 1) at t = 1 to (3, -1) at t = 4."""
    times = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    slopes = torch.stack([times - 1, 1 - (times - 1) * 2 / 3], dim=1)
    return Calibration(times, slopes)


def test_slopes_of_a_line_are_linear_and_constant_outside(ramp: Calibration) -> None:
    t = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.7, 4.0, 9.0], dtype=torch.float64)
    inside = t.clamp(1, 4)
    expected = torch.stack([inside - 1, 1 - (inside - 1) * 2 / 3], dim=1)
    torch.testing.assert_close(ramp.slope(t), expected)
    for index, time in enumerate(t):
        torch.testing.assert_close(ramp.slope(time), expected[index])
    torch.testing.assert_close(ramp.slope(t.float()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nodes", [2, 3, 4, 17])
def test_slopes_are_a_natural_cubic_spline(nodes: int, generator: torch.Generator) -> None:
    times = torch.rand(nodes, generator=generator, dtype=torch.float64).cumsum(0)
    slopes = torch.randn(nodes, 3, generator=generator, dtype=torch.float64)
    calibration = Calibration(times, slopes)
    t = torch.linspace(float(times[0]), float(times[-1]), 101, dtype=torch.float64)
    expected = CubicSpline(times, slopes, bc_type="natural")(t)
    torch.testing.assert_close(calibration.slope(t), torch.from_numpy(expected))


DOUBLE = torch.float64


@pytest.mark.parametrize(
    ("times", "slopes"),
    [
        (torch.zeros(1, dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE)),
        (torch.arange(3, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)),
        (torch.arange(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)),
        (torch.arange(4, dtype=DOUBLE).reshape(2, 2), torch.zeros(2, 2, dtype=DOUBLE)),
        (torch.tensor([0.0, 1.0, 1.0], dtype=DOUBLE), torch.zeros(3, 2, dtype=DOUBLE)),
        (torch.arange(3).float(), torch.zeros(3, 2, dtype=DOUBLE)),
        (torch.arange(3, dtype=DOUBLE), torch.zeros(3, 2)),
        (torch.arange(3, dtype=DOUBLE), torch.full((3, 2), torch.nan, dtype=DOUBLE)),
    ],
)
def test_what_is_no_calibration_is_refused(times: Tensor, slopes: Tensor) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Calibration(times, slopes)


def test_an_unknown_method_is_a_usage_error() -> None:
    denoiser = biased()
    with pytest.raises(UsageError, match="path, marginal"):
        fit_calibration(denoiser, toy_points(denoiser, 9), nodes(3), 0, method="melt")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bias", [0.0, BIAS])
def test_the_slope_that_a_perfect_network_was_spoiled_with_is_found(
    method: str, bias: float
) -> None:
    denoiser = biased(bias)
    found = fit_calibration(denoiser, toy_points(denoiser, 5000), nodes(5), 0, method)
    # The rest of F is below one in size and uncorrelated with z: 3.5 standard errors of the mean.
    torch.testing.assert_close(found.slopes, torch.full_like(found.slopes, bias), rtol=0, atol=0.05)


def test_a_variance_that_is_not_the_datas_is_no_bias() -> None:
    basis = biased().basis
    denoiser = biased(BIAS, variance=2 * basis.eigenvalues + 0.1)
    found = fit_calibration(denoiser, toy_points(denoiser, 5000), nodes(5), 0)
    torch.testing.assert_close(found.slopes, torch.full_like(found.slopes, BIAS), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("curve", "other_variance"),
    [(0.0, False), (0.03, False), (0.03, True)],
    ids=["linear", "cubic", "cubic, another variance"],
)
def test_melted_variances_have_their_closed_form_after_a_path_fit(
    curve: float, other_variance: bool
) -> None:
    variance = 2 * biased().basis.eigenvalues + 0.1 if other_variance else None
    denoiser = biased(BIAS, curve, variance)
    points = toy_points(denoiser)
    before = melted_ratio(denoiser, points)
    assert (before - 1).abs().max() > 0.2
    denoiser.calibration = fit_calibration(denoiser, points, nodes(17), 0)
    assert (melted_ratio(denoiser, points) - 1).abs().max() < 0.01


def test_held_out_points_melt_as_they_should_too() -> None:
    denoiser = biased(BIAS, curve=0.03)
    denoiser.calibration = fit_calibration(denoiser, toy_points(denoiser, 2000), nodes(17), 0)
    ratio = melted_ratio(denoiser, toy_points(denoiser, 2000, seed=1))
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=0.05)


def test_a_calibrated_denoiser_is_the_network_minus_the_slope(ramp: Calibration) -> None:
    denoiser = biased()
    x = toy_points(denoiser, 5)
    calibration = Calibration(ramp.times, torch.cat([ramp.slopes, ramp.slopes[:, :1]], dim=1))
    for t in (torch.tensor(2.5, dtype=DOUBLE), torch.linspace(0.5, 4.5, 5, dtype=DOUBLE)):
        denoiser.calibration = None
        c, plain = denoiser.coefficients(t), denoiser(x, t)
        denoiser.calibration = calibration
        expected = plain - c.c_out * calibration.slope(t) * c.c_in * x
        torch.testing.assert_close(denoiser(x, t), expected)
        torch.testing.assert_close(denoiser(x.float(), t).double(), expected, rtol=1e-4, atol=1e-4)


def test_training_sees_nothing_of_a_calibration(ramp: Calibration) -> None:
    denoiser = biased()
    z, t = toy_points(denoiser, 5), torch.tensor(2.5, dtype=DOUBLE)
    plain = denoiser.residual(z, t)
    slopes = torch.ones(3, 3, dtype=DOUBLE)
    denoiser.calibration = Calibration(ramp.times, slopes)
    assert torch.equal(denoiser.residual(z, t), plain)
    again = fit_calibration(denoiser, toy_points(denoiser, 200), nodes(3), 0)
    denoiser.calibration = None
    fresh = fit_calibration(denoiser, toy_points(denoiser, 200), nodes(3), 0)
    assert torch.equal(again.slopes, fresh.slopes)


def test_a_calibration_moves_with_its_denoiser(ramp: Calibration) -> None:
    denoiser = biased()
    denoiser.calibration = ramp
    denoiser.to("meta")
    assert ramp.times.device.type == ramp.slopes.device.type == "meta"


def test_a_calibrated_flow_goes_back_where_it_came_from() -> None:
    denoiser = biased(curve=0.03)
    denoiser.calibration = fit_calibration(denoiser, toy_points(denoiser), nodes(17), 0)
    flow = ProbabilityFlow(denoiser, denoiser.schedule, denoiser.basis)
    start = toy_points(denoiser, 100, seed=2) * flow.schedule.scale(torch.tensor(0.0).double())
    errors = []
    for steps in (10, 20):
        melt = flow.simulate(start, nodes(steps + 1), SOLVERS["rk4"]).end
        back = flow.generate(melt, nodes(steps + 1), SOLVERS["rk4"]).end
        errors.append(float((back - start).square().mean().sqrt()))
    assert errors[1] < 1e-4
    assert errors[1] < errors[0] / 4


@pytest.mark.parametrize("method", METHODS)
def test_neither_the_block_size_nor_its_last_block_matters(method: str) -> None:
    denoiser = biased()
    points = toy_points(denoiser, 500)
    whole, parts, other_seed = (
        fit_calibration(denoiser, points, nodes(5), seed, method, block).slopes
        for seed, block in ((0, 500), (0, 33), (1, 500))
    )
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert (other_seed - whole).abs().max() > 1e-4


def test_conditions_go_to_the_network_row_by_row(
    function_network: Callable[..., nn.Module], random_basis: Callable[[int], EigenBasis]
) -> None:
    """A network whose output is its label times z has a slope that is the weighted mean label."""

    class Labelled(nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
            return labels * z

    basis = random_basis(2)
    schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
    denoiser = NetworkDenoiser(Labelled(), basis, schedule)
    points = torch.randn(700, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    labels = (torch.arange(700) % 2).float()[:, None]
    conditions = {"labels": labels}
    found = fit_calibration(denoiser, points, nodes(3), 0, "marginal", 64, conditions).slopes
    flipped = {"labels": 1 - labels}
    rest = fit_calibration(denoiser, points, nodes(3), 0, "marginal", 64, flipped).slopes
    torch.testing.assert_close(found + rest, torch.ones_like(found), rtol=0, atol=1e-5)
    assert (found - 0.5).abs().max() < 0.1


def fit_share(method: str) -> Tensor:
    denoiser = biased(curve=0.03)
    points = toy_points(denoiser, 501)
    mine = points[distributed.shard(len(points))]
    return fit_calibration(denoiser, mine, nodes(4), 3, method, block=100).slopes


def rank_main(rank: int, folder: Path) -> None:
    """One of two ranks: joins the other, fits, writes what it got."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({method: fit_share(method) for method in METHODS}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_fit_what_one_fits(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_main, (tmp_path,), nprocs=2)
    for rank in range(2):
        fitted = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for method in METHODS:
            torch.testing.assert_close(fitted[method], fit_share(method), rtol=1e-4, atol=1e-5)
