"""The Gauss-Legendre method: its own inverse backwards, what it solves, and when it gives up."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from equations import START, last, riccati
from torch import Tensor, nn

from dnnlib.errors import DataError
from training.data.toys import Toy
from training.flow.denoisers import NetworkDenoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.flow.solvers.implicit import NODES, STAGES, gauss_legendre

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]

GAUSS4 = SOLVERS["gauss4"]


def roundtrip_error(flow: ProbabilityFlow, data: Tensor, steps: int) -> float:
    """Largest change of data by a melt and the way back, in units of the data."""
    times = flow.schedule.times(steps, flow.schedule.default_t_max())
    back = flow.generate(flow.melt(data, times, GAUSS4).end, times, GAUSS4)
    return float((flow.to_data(back.end, times[0]) - data).abs().max())


@pytest.fixture
def network_flow(exact_flow: ExactFlow) -> Callable[[int], tuple[Toy, ProbabilityFlow]]:
    """Circles, and the flow of a small network of random weights in single precision."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layers = (nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
            self.layers = nn.Sequential(*layers)

        def forward(self, z: Tensor, c_noise: Tensor) -> Tensor:
            return self.layers(torch.cat([z, c_noise.expand(len(z))[:, None]], dim=1))

    def make(kept: int) -> tuple[Toy, ProbabilityFlow]:
        toy, known = exact_flow("circles", kept)
        denoiser = NetworkDenoiser(Network(), known.basis, known.schedule)
        return toy, ProbabilityFlow(denoiser, known.schedule, known.basis)

    return make


@pytest.mark.parametrize("steps", [6, 10, 50])
@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
def test_generating_from_a_melt_gives_the_data_back_at_any_number_of_steps(
    kept: int, steps: int, exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow("circles", kept)
    assert roundtrip_error(flow, toy.sample(64, generator), steps) <= 1e-12


@pytest.mark.parametrize("steps", [3, 10, 50])
@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
def test_melting_what_was_generated_gives_the_latents_back(
    kept: int, steps: int, exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    _, flow = exact_flow("circles", kept)
    times = flow.schedule.times(steps, flow.schedule.default_t_max())
    latents = flow.latent_law(times[-1]).sample(32, generator)
    points = flow.to_data(flow.generate(latents, times, GAUSS4).end, times[0])
    back = flow.melt(points, times, GAUSS4).end
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-12)


def test_a_step_of_several_solutions_is_an_error_and_no_wrong_way_back(
    exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    """One of these samples is carried past a solution that repels the iteration."""
    toy, flow = exact_flow("circles", 1)
    with pytest.raises(DataError, match="has no solution that"):
        roundtrip_error(flow, toy.sample(300, generator), 1)


def test_slopes_that_are_linear_in_time_are_known_from_the_last_step() -> None:
    times = torch.tensor([0.0, 1.0, 1.5, 3.5, 2.0], dtype=torch.float64)
    called = [0]

    def line(x: Tensor, t: Tensor) -> Tensor:
        called[-1] += 1
        return torch.ones_like(x) * (1 + 2 * t)

    for state, t in zip(gauss_legendre(line, START, times), times[1:], strict=True):
        torch.testing.assert_close(state, START + t + t**2, rtol=1e-14, atol=0)
        called.append(0)
    # An iteration, which changes nothing; the first step knows of one time, and needs another.
    assert called == [5, 2, 2, 2, 0]


@pytest.mark.parametrize("steps", [6, 10, 50])
@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
def test_a_network_in_single_precision_is_inverted_to_its_rounding(
    kept: int,
    steps: int,
    network_flow: Callable[[int], tuple[Toy, ProbabilityFlow]],
    generator: torch.Generator,
) -> None:
    toy, flow = network_flow(kept)
    assert roundtrip_error(flow, toy.sample(64, generator), steps) <= 1e-5


def test_the_equations_of_the_stages_are_solved() -> None:
    times = torch.tensor([0.0, 0.4, 0.5, 1.0], dtype=torch.float64)
    asked: list[tuple[Tensor, Tensor]] = []

    def noted(x: Tensor, t: Tensor) -> Tensor:
        asked.append((t, riccati(x, t)))
        return asked[-1][1]

    before = START
    states = gauss_legendre(noted, START, times)
    for (t, following), after in zip(pairwise(times), states, strict=True):
        h = following - t
        # The last calls at both nodes give the slopes of the step.
        slopes = [
            next(k for s, k in reversed(asked) if torch.allclose(s, t + node * h)) for node in NODES
        ]
        for i in range(2):
            inside = before + h * sum(a * k for a, k in zip(STAGES[i], slopes, strict=True))
            expected = riccati(inside, t + NODES[i] * h)
            torch.testing.assert_close(slopes[i], expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(after, before + h * sum(slopes) / 2, rtol=0, atol=1e-14)
        before = after


def test_rotations_keep_lengths(generator: torch.Generator) -> None:
    def rotation(x: Tensor, t: Tensor) -> Tensor:
        speed = 1 + x.square().sum(dim=1, keepdim=True)
        return speed * torch.stack([-x[:, 1], x[:, 0]], dim=1)

    x = torch.rand(20, 2, generator=generator, dtype=torch.float64)
    times = torch.linspace(0, 3, 13, dtype=torch.float64)
    for state in gauss_legendre(rotation, x, times):
        torch.testing.assert_close(state.norm(dim=1), x.norm(dim=1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("ratio", [1.0, 0.2, 5.0])
def test_a_step_back_undoes_a_step(ratio: float) -> None:
    times = torch.tensor([0.0, 0.1, 0.1 + 0.1 * ratio], dtype=torch.float64)
    there = last(gauss_legendre, riccati, START, times)
    back = last(gauss_legendre, riccati, there, times.flip(0))
    torch.testing.assert_close(back, START, rtol=0, atol=1e-14)


def test_a_sample_is_the_same_alone_and_in_a_batch(
    exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow("circles", 1)
    data = toy.sample(12, generator)
    times = flow.schedule.times(10, flow.schedule.default_t_max())
    together = flow.melt(data, times, GAUSS4).end
    for row in range(12):
        alone = flow.melt(data[[row]], times, GAUSS4).end
        torch.testing.assert_close(alone, together[[row]], rtol=0, atol=1e-14)


def test_a_batch_has_the_bits_of_its_members_where_the_velocity_has() -> None:
    """Members need different numbers of iterations; none goes on for another's sake."""
    stiffness = torch.tensor([[0.01], [1.0], [3.0]], dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    together = last(gauss_legendre, lambda x, t: -stiffness * x**3, x, times)
    for row in range(3):
        rate = stiffness[row]
        alone = last(gauss_legendre, lambda x, t, rate=rate: -rate * x**3, x[[row]], times)
        assert torch.equal(alone, together[[row]])


def test_a_slow_contraction_is_followed_to_its_end() -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for rate in (1.0, 2.0, 2.2):
        x = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
        end = last(gauss_legendre, lambda x, t, rate=rate: -rate * x, x, times)
        ratio = (1 - rate / 2 + rate**2 / 12) / (1 + rate / 2 + rate**2 / 12)
        torch.testing.assert_close(end, ratio * x, rtol=1e-12, atol=0)


def test_many_dimensions_that_swing_while_they_contract_are_no_rounding_errors(
    generator: torch.Generator,
) -> None:
    weights = torch.tensor(STAGES, dtype=torch.float64)
    later = weights.tril(-1)
    errors = []
    dim = 32
    for size in torch.linspace(2.3, 2.7, 80, dtype=torch.float64):
        matrix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        matrix *= size / torch.linalg.eigvals(matrix).abs().max()
        x = torch.randn(1, dim, generator=generator, dtype=torch.float64)
        slope = x @ matrix.T
        one = torch.eye(2 * dim, dtype=torch.float64)
        # How an iteration changes an error: by at most so much, in the long run.
        first = torch.kron(torch.eye(2, dtype=torch.float64) * weights.diagonal(), matrix)
        first += torch.kron(weights.triu(1), matrix)
        contraction = torch.linalg.solve(one - torch.kron(later, matrix), first)
        if torch.linalg.eigvals(contraction).abs().max() > 0.96:
            continue
        right = torch.linalg.solve(one - torch.kron(weights, matrix), slope.repeat(1, 2)[0])
        try:
            end = last(
                gauss_legendre,
                lambda y, t, matrix=matrix: y @ matrix.T,
                x,
                torch.tensor([0.0, 1.0], dtype=torch.float64),
            )
        except DataError:
            continue
        expected = x + right.view(2, dim).mean(dim=0)
        errors.append(float((end - expected).abs().max() / expected.abs().max()))
    assert len(errors) > 20
    # Of the size of rounding errors of float32, from which slow changes cannot be told.
    assert max(errors) < 1e-6


@pytest.mark.parametrize("kind", ["linear", "bounded", "not a number", "infinite"])
def test_a_velocity_that_is_too_stiff_is_a_data_error(kind: str) -> None:
    velocities: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "linear": lambda x, t: -1000 * x,
        "bounded": lambda x, t: -100 * (10 * x).sin(),
        "not a number": lambda x, t: torch.where(t > 0.3, torch.nan, x),
        "infinite": lambda x, t: x / torch.zeros_like(x),
    }
    x = torch.tensor([[1.0, 0.3], [0.4, -2.0]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    with pytest.raises(DataError) as caught:
        last(gauss_legendre, velocities[kind], x, times)
    message = str(caught.value)
    assert "\n" not in message
    assert "use more steps" in message
    assert "of size 0.5" in message
    assert "t = 0 " in message


def test_an_iteration_that_leaves_a_solution_has_not_found_it() -> None:
    """Its first changes are as small as rounding errors may be, and grow from there."""
    x = torch.tensor([[1e-5, -1e-5]], dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(DataError, match="has no solution that"):
        last(gauss_legendre, lambda x, t: -8 * x.tanh(), x, times)


def test_one_stiff_member_is_enough_for_the_error() -> None:
    stiffness = torch.tensor([[1.0], [1000.0], [1.0]], dtype=torch.float64)
    x = torch.ones(3, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    with pytest.raises(DataError, match="has no solution that"):
        last(gauss_legendre, lambda x, t: -stiffness * x, x, times)
