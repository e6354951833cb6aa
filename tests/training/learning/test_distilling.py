"""Students: flow maps that a network learns from the paths of its teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.posteriors import conditional_prior
from training.flow.courses import USES, Course, student_times
from training.flow.eigenbasis import EigenBasis
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers.student import BY_STUDENT
from training.inference.amortized import Amortized, by_teacher
from training.learning.distilling import Lessons, Paths, carry, distill, measure
from training.model.model import Model
from training.model.recipe import Recipe
from training.networks.flow_map import FlowMapMLP

SIZES = {"dim": 2, "noise_range": [-1.0, 0.3], "width": 24, "depth": 2}


def teacher(slope: float) -> Model:
    """A network that was not trained: of Gaussian data, or bent the more its output weighs."""
    basis = EigenBasis(torch.zeros(2), torch.tensor([1.0, 0.3]), torch.eye(2))
    recipe = Recipe("ifs", {"dims_to_keep": 1}, "mlp", SIZES)
    model = Model(recipe.build(basis), recipe, {"data_dim": 2, "dims_to_keep": 1})
    model.about |= {"tmin": 0.0, "tmax": 5.0}
    network = model.denoiser.network
    for weight, seed in ((network.input.weight, 1), (network.output.weight, 2)):
        weight.data = slope * normal(*weight.shape, seed=seed).float() / 3
    model.denoiser.eval().requires_grad_(False)
    return model


def random_student(network: dict[str, Any], slope: float) -> FlowMapMLP:
    student = FlowMapMLP.of(network)
    for layer, seed in ((student.body.output, 3), (student.growth, 4), (student.further, 5)):
        layer.weight.data = slope * normal(*layer.weight.shape, seed=seed).float()
    return student.eval().requires_grad_(False)


def courses_of(flow: ProbabilityFlow) -> dict[str, Course]:
    courses = {}
    for name, use in USES.items():
        courses[name] = Course("student", 3, flow.basis.dim, use.melts)
        courses[name].times.copy_(flow.times(3))
    return courses


def with_student(model: Model, slope: float) -> Model:
    """A student that is off by a random network, and courses by it."""
    model.denoiser.student = random_student(model.recipe.network_arguments, slope)
    model.courses = courses_of(model.flow)
    return model


def test_a_student_without_weights_is_the_flow_map_of_gaussian_data() -> None:
    flow = with_student(teacher(0), 0).flow
    x, times = normal(20, 2), double([4.0, 0.5, 3.0])
    along = flow.simulate(x, times, BY_STUDENT, save_every=1)
    torch.testing.assert_close(along.states, flow.simulate(x, times, "exp_rk5", 1).states)
    assert along.calls == 2
    assert carry(flow, x, times)[1].abs().max() == 0


def test_log_determinants_are_what_a_student_says_or_those_of_its_own_jacobian() -> None:
    flow = with_student(teacher(0), 0.3).flow
    x, times = normal(5, 2), double([0.0, 2.0, 5.0])
    first = flow.carried(x, times[:2])
    second = flow.carried(first, times[1:])
    end, growth = carry(flow, x, times)
    assert torch.equal(end, second[:, :2])
    torch.testing.assert_close(growth, first[:, 2] + second[:, 2])

    def through(row: Tensor) -> Tensor:
        return flow.carried(flow.carried(row[None], times[:2]), times[1:])[0, :2]

    jacobians = torch.stack([torch.autograd.functional.jacobian(through, row) for row in x])
    torch.testing.assert_close(carry(flow, x, times, own=True)[1], jacobians.det().abs().log())


def test_a_student_knows_its_error_and_its_file_carries_it(tmp_path: Path) -> None:
    model = teacher(0.4)
    lessons = Lessons(calls=2, paths=2000, steps=1, batch=256, lr=3e-3, seed=0, width=24)
    before = distill(model, lessons, None)
    after = distill(model, replace(lessons, steps=300), None)
    assert after["generated"] < before["generated"] / 3
    model.save(tmp_path / "student.pkl")
    loaded = Model.load(tmp_path / "student.pkl")
    assert loaded.digest() == model.digest()
    flow, known = loaded.flow, loaded.about["student"]
    knots = student_times(flow.courses)
    fresh = Paths.follow(flow, knots, 400, None, seeded(9), lambda count: None)
    measured = measure(flow, fresh, 2)
    assert set(measured) == set(known) - {"calls"}
    for name, error in measured.items():
        assert known[name] / 2 < error < 2 * known[name], name
    assert flow.courses["densities"].nats == known["nats_melted"]
    # What it says of its own samples, beside what its teacher says of them.
    points = flow.sample(500, seeded(1))
    off = flow.log_prob(points) - flow.log_prob(points, flow.times(), "exp_rk5")
    assert float(off.square().mean().sqrt()) < 3 * known["nats_melted"]
    assert Model.load(tmp_path / "student.pkl", calibrated=False).denoiser.student is None


def test_a_wider_student_starts_as_its_teacher() -> None:
    model = teacher(1)
    distill(model, Lessons(1, 10, 1, 1, 1e-30, 0, width=40), None)
    z, t, to = normal(5, 2).float(), torch.tensor(0.1), torch.tensor(-0.4)
    out = model.denoiser.student(z, t, to)
    torch.testing.assert_close(out[:, :2], model.denoiser.network(z, t))


def test_draws_of_a_wrong_student_are_its_teachers_once_they_are_corrected() -> None:
    prior, y = conditional_prior(), double([[1.0]])
    flow = prior.flow
    network = {"dim": 2, "noise_range": [-1.0, 0.3], "width": 8, "label_dim": 1}
    flow.denoiser.student = random_student(network, 0.15)
    flow.courses = courses_of(flow)
    ways = {name: flow.course(name) for name in ("points_and_densities", "densities")}
    prior = replace(prior, ways=ways)
    draw = Amortized(prior, y, 1000, 1, 4000, 0, Trace("exact"))
    wrong = draw.sample(torch.arange(1)).points[0, 0]
    drawn = replace(draw, log_posterior=by_teacher(flow)).sample(torch.arange(1))
    right, effective = drawn.points[0, 0], float(drawn.stats["effective_size"])
    assert 400 < effective < 3900
    means, stds = double([0.64, 0.0]), double([0.6, 1.0])
    assert ((right.mean(dim=0) - means) / stds).abs().max() < 4 / effective**0.5
    assert (right.std(dim=0) / stds - 1).abs().max() < 4 / effective**0.5
    assert ((wrong.mean(dim=0) - means) / stds).abs().max() > 0.1


def test_what_cannot_be_is_refused() -> None:
    flow = teacher(0).flow
    with pytest.raises(UsageError, match="no student"):
        flow.simulate(normal(3, 2), flow.times(2), "student")
    model = teacher(0)
    model.recipe = replace(model.recipe, network="ToyConvUNet")
    with pytest.raises(UsageError, match="students are of perceptrons"):
        distill(model, Lessons(1, 1, 1, 1, 1.0, 0), None)
    with pytest.raises(UsageError, match="--width is 8, but the teacher's is 24"):
        distill(teacher(0), Lessons(1, 10, 1, 1, 1.0, 0, width=8), None)
