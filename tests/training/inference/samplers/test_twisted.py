"""Twisted particles: posteriors that are not Gaussian, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import Bumps
from tests.support.posteriors import Parabola, drawn, gaussian_prior, moments_on_grid, problem
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.inference.lookahead import LookAhead, no_lookahead, shrunk
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.samplers import twisted
from training.inference.samplers.twisted import twist
from training.inference.target import Target

LINE = torch.linspace(-5, 5, 501).double()
GRID = torch.cartesian_prod(LINE, LINE)


def bumps(coordinates: Coordinates | None = None, kept: int = 2) -> Prior:
    """Three Gaussians with their own denoiser."""
    toy = Bumps(2)
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(kept, 2, top_variance=basis.top_variance, gamma0=0.01)
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    flow = ProbabilityFlow(exact, schedule, basis, coordinates=coordinates)
    return Prior(flow, flow.times(24), get_solver("exp_ab2"))


def bent() -> Coordinates:
    """Columns that are curved, and then mixed."""
    coordinates = Coordinates(2, ["yeo-johnson", "zca"])
    coordinates.maps[0].hold(exponent=double([0.4, 1.7]))
    turned = double([[0.8, -0.6], [0.6, 0.8]])
    coordinates.maps[1].hold(axes=turned, std=double([1.5, 0.7]), mean=double([0.1, -0.2]))
    return coordinates


def by_quadrature(prior: Prior, likelihood: Gaussian, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations ``[M, 2]`` under the density of the exact denoiser."""
    flow = prior.flow
    states = flow.basis.to_eigen(GRID)
    density = flow.denoiser.log_density(states, prior.times[0])
    return moments_on_grid(prior.of_states(states), density, likelihood, observed)


@pytest.mark.parametrize("curved", [False, True], ids=["linear", "curved"])
def test_posteriors_of_several_modes(curved: bool) -> None:
    prior = bumps(bent() if curved else None)
    likelihood = Gaussian(double(0.3), torch.tensor([1]))
    observed = double([[0.2], [-1.0], [1.4]])
    target = Target(prior, likelihood, observed, 4096)
    draws = twist(target, 0, [0, 1, 2], chains=4, draws=1000, particles=2000)
    mean, std = by_quadrature(prior, likelihood, observed)
    points = draws.points.flatten(1, 2)
    assert (std[:, 0] > 2 * std[:, 1]).any(), "the hidden coordinate has several modes"
    torch.testing.assert_close((points.mean(dim=1) - mean) / std, 0 * mean, atol=0.1, rtol=0)
    torch.testing.assert_close(points.std(dim=1) / std, 0 * std + 1, atol=0.06, rtol=0)
    # Populations agree, and their points are those of their variables.
    apart = draws.points.mean(dim=2) - draws.points.mean(dim=(1, 2), keepdim=True)[:, :, 0]
    assert (apart.abs() < 0.3 * std[:, None]).all()
    again = prior.points(draws.w.flatten(0, 2)).points.view_as(draws.points)
    assert (again - draws.points).abs().mean() < 0.02


def test_draws_do_not_depend_on_how_many_move_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood = Gaussian(double(0.3), torch.tensor([1]))
    target = Target(bumps(bent()), likelihood, double([[0.2], [-1.0]]), 256)
    parts: list[float] = []
    together = twist(target, 0, [0, 1], chains=2, draws=50, particles=50, on_part=parts.append)
    assert abs(sum(parts) - 1) < 1e-9
    monkeypatch.setattr(twisted, "AT_ONCE", 1)
    alone = twist(target, 0, [0, 1], chains=2, draws=50, particles=50)
    torch.testing.assert_close(alone.points, together.points, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(alone.calls, together.calls)


def test_single_precision_makes_the_same_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def normal(self: Noise, step: int, size: int) -> Tensor:
        return torch.randn(1, 100, size, generator=seeded(step)).to(twisted.DTYPE)

    monkeypatch.setattr(Noise, "normal", normal)
    # No weights choose, since a choice jumps.
    monkeypatch.setattr(twisted, "WORTH", 0.0)
    monkeypatch.setattr(twisted, "systematic", lambda weights, *_: torch.arange(50).expand(2, -1))
    target = Target(bumps(bent()), Gaussian(double(0.1), torch.tensor([1])), double([[0.2]]), 100)
    found = []
    for dtype in (torch.float32, torch.float64):
        monkeypatch.setattr(twisted, "DTYPE", dtype)
        found.append(twist(target, 0, [0], chains=2, draws=50, particles=50))
    torch.testing.assert_close(found[0].points, found[1].points, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0].stats, found[1].stats, rtol=1e-4, atol=0)


def test_covariances_of_few_errors_keep_what_they_can_tell() -> None:
    alone = normal(64, 40, seed=1)
    together = alone + 3 * normal(64, 1, seed=2)
    plain, shared = shrunk(alone), shrunk(together)
    for errors, found in ((alone, plain), (together, shared)):
        torch.testing.assert_close(found.diagonal(), errors.square().mean(dim=0))
        assert torch.linalg.eigvalsh(found).min() > 0, "fewer draws than would tell all"
    off = ~torch.eye(40, dtype=torch.bool)
    assert plain[off].abs().max() < 0.1
    assert (shared[off] / (together.T @ together / 64)[off]).min() > 0.9


def test_observations_share_what_is_measured_once() -> None:
    which = problem(gaussian_prior(), Gaussian(double(0.4), torch.tensor([0])), double([[0.3]]))
    ahead = LookAhead(4, 0, 0.5)
    first, second = (
        twist(which.target.of(torch.tensor([0])), 0, [0], 2, 10, 10, ahead=ahead) for _ in range(2)
    )
    assert torch.equal(first.points, second.points)
    assert first.calls == second.calls
    assert ahead.calls > 0


def test_likelihoods_without_a_lookahead_are_told() -> None:
    observed = double([[0.3]])
    seen = Gaussian(double(0.4), torch.tensor([0]))
    mixed = Gaussian(double(0.4), operator=double([[1.0, 0.7]]))
    plain = problem(gaussian_prior(), seen, observed)
    labelled = replace(plain.target, labels=torch.zeros(1, 1))
    others = {
        "one's own": problem(gaussian_prior(), Parabola(), observed),
        "clean": problem(gaussian_prior(deblurred=True), seen, observed),
        "does not grow": problem(bumps(kept=1), seen, observed),
        "operator": problem(bumps(bent()), mixed, observed),
        "conditions": replace(plain, target=labelled),
    }
    assert no_lookahead(plain.target) is None
    for message, which in others.items():
        assert no_lookahead(which.target)
        with pytest.raises(UsageError, match=message):
            drawn(which, "twisted", particles=20)
