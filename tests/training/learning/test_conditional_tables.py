"""Conditional flows of tables: where they start from, their densities, ensembles, and files."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.running import refusal
from tests.support.trainers import run_steps
from torch_utils.snapshots import Part, read_network, write_network
from training.data.tables.table import Columns, DataTable, Dropped
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.prior import Prior
from training.learning.building import Choices
from training.learning.loss import DenoisingRegression
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model
from training.networks.mlp import ToyMLP
from training.subjects.table_spaces import Preparation, Space, choose_space, relevant_conditions
from training.subjects.table_training import about_table

CPU = torch.device("cpu")
LINEAR = Space("none", "zca", "on")
SEEN = double([[1.0, 0.5], [0.0, 2.0], [-1.0, 0.3]])
GAMMA0 = 1e-4
TELLING = [3, 17]


def gaussian(count):
    """Three standard normal columns, given two linear maps of them with noise of variance 0.5."""
    points = normal(count, 3, seed=1)
    conditions = points @ SEEN + 0.5**0.5 * normal(count, 2, seed=2)
    held_out = torch.arange(count) % 5 == 0
    columns = Columns.plain("abc")
    return DataTable(points, columns, held_out, Dropped.none("abc"), conditions, ["y1", "y2"])


def bent(count):
    """A column between bounds that follows from the size of its condition."""
    y = normal(count, 1, seed=3)
    points = torch.special.ndtr(y.abs() - 1 + 0.3 * normal(count, 1, seed=4))
    columns = replace(Columns.plain("a"), low=torch.zeros(1).double(), high=torch.ones(1).double())
    held_out = torch.arange(count) % 5 == 0
    return DataTable(points, columns, held_out, Dropped.none("a"), y, ["y"])


def preparation(table, steps=100, members=1):
    more = {"members": members} if members > 1 else {}
    network = {"width": 32, "depth": 2, "label_dim": table.condition_dim, **more}
    inflation = {"dims_to_keep": table.dim, "gamma0": GAMMA0}
    choices = Choices("ifs", inflation, "mlp", network, "IS", "log")
    config = TrainingConfig(total=100 * steps, batch=100, lr=5e-3, lr_ramp=1000, lr_decay=True)
    return Preparation(table, choices, config, CPU)


def trained(prepared):
    coordinates = prepared.coordinates(LINEAR)
    trainer = Trainer(*prepared.build(coordinates), prepared.config)
    run_steps(trainer, prepared.source(coordinates), prepared.config.total_steps)
    return trainer.averaged


def exact_posterior(y):
    covariance = torch.linalg.inv(torch.eye(3).double() + 2 * SEEN @ SEEN.T)
    return MultivariateNormal(2 * y @ SEEN.T @ covariance, covariance)


def test_an_untrained_flow_is_the_linear_gaussian_posterior():
    """To sampling error: 40,000 rows determine means and covariances to about 1 %."""
    prepared = preparation(gaussian(50_000))
    coordinates = prepared.coordinates(LINEAR)
    model, loss = prepared.build(coordinates)
    y = double([[0.3, -1.0]])
    exact = exact_posterior(y[0])
    drawn = model.flow.given(labels=y).sample(20_000, seeded())
    std = exact.variance.sqrt()
    assert ((drawn.mean(dim=0) - exact.mean).abs() < 0.04 * std).all()
    scale = std[:, None] * std
    assert ((drawn.T.cov() - exact.covariance_matrix).abs() < 0.05 * scale).all()
    got = model.flow.given(labels=y).log_prob(drawn[:200])
    torch.testing.assert_close(got, exact.log_prob(drawn[:200]), rtol=0, atol=0.15)
    assert float((got - exact.log_prob(drawn[:200])).mean().abs()) < 0.02
    held_out = prepared.held_out(coordinates, loss)
    rows = prepared.table.held_out_rows
    expected = exact_posterior(rows.conditions).log_prob(rows.points).mean()
    assert held_out.score(model).nats == pytest.approx(float(expected), abs=0.1)


def test_both_starts_are_tried_where_nothing_is_said():
    prepared = preparation(gaussian(1000))
    assert choose_space(prepared, Space("auto", "auto", "auto")) == LINEAR
    assert choose_space(prepared, Space("none", "pca", "off")) == Space("none", "pca", "off")
    limited = preparation(bent(1000), steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preparation, "pilot", lambda _, space, steps: space.bounded == "reject")
        assert choose_space(limited, Space("none", "zca", "on", "auto")).bounded == "reject"
    assert choose_space(limited, Space("none", "zca", "on", "map")).bounded == "map"
    plain = replace(prepared, table=prepared.table.without_conditions())
    assert choose_space(plain, Space("none", "zca", "auto")) == Space("none", "zca", "off")
    points, columns = (
        (prepared.table.points > 0).double(),
        replace(prepared.table.columns, steps=torch.ones(3, dtype=torch.float64)),
    )
    answers = replace(
        prepared, table=replace(prepared.table, points=points, columns=columns), likelihood=True
    )
    for wanted in (Space("auto", "auto", "auto"), Space("none", "none")):  # as a resumed run does
        assert choose_space(answers, wanted) == Space("none", "none")


def decades(count):
    """A parameter that is positive over six decades, and its logarithm with noise."""
    power = torch.rand(count, 1, generator=seeded(5)).double() * 6 - 3
    held_out = torch.arange(count) % 5 == 0
    y = power + 0.3 * normal(count, 1, seed=6)
    return DataTable(10**power, Columns.plain("a"), held_out, Dropped.none("a"), y, ["y"])


def test_logarithms_of_wide_parameters_are_taken(caplog):
    caplog.set_level("INFO")
    table = decades(500)
    chosen = choose_space(preparation(table), Space("auto", "auto", "on"))
    assert (chosen.marginals, "more: a; logarithms are tried" in caplog.text) == ("log", True)
    # A row that is held out and not positive has no logarithm.
    table.points[0] = -1
    assert choose_space(preparation(table), Space("auto", "auto", "on")).marginals == "none"
    caplog.clear()
    table.points[0] = 1
    assert choose_space(preparation(table), Space("none", "auto", "on")).marginals == "none"
    assert "more: a; logarithms are not tried: give --marginals=log" in caplog.text


def among_noise(count):
    """The same, its two conditions standing at places 3 and 17 among 28 that tell nothing."""
    table = gaussian(count)
    noise = normal(count, 30, seed=6)
    noise[:, TELLING] = table.conditions
    return replace(table, conditions=noise, condition_names=[f"y{place}" for place in range(30)])


def test_conditions_that_tell_nothing_are_left_out_of_account(tmp_path):
    prepared = preparation(among_noise(1000), steps=1)
    assert relevant_conditions(prepared.table.train_rows, 0) == TELLING
    assert preparation(gaussian(1000)).relevant == []
    space = choose_space(prepared, Space("none", "zca", "on", "map", "on"))
    model, _ = prepared.build(prepared.coordinates(space))
    model.save(tmp_path / "network.pkl")
    flow = Model.load(tmp_path / "network.pkl").flow
    y = normal(1, 30, seed=7)
    points = normal(5, 3, seed=8)
    got = flow.given(labels=y).log_prob(points)
    alone = preparation(gaussian(1000), steps=1)
    fewer, _ = alone.build(alone.coordinates(LINEAR))
    torch.testing.assert_close(got, fewer.flow.given(labels=y[:, TELLING]).log_prob(points))
    other = y + 100
    other[:, TELLING] = y[:, TELLING]
    torch.testing.assert_close(flow.given(labels=other).log_prob(points), got, rtol=0, atol=0)
    coordinates = flow.coordinates
    torch.testing.assert_close(coordinates.surprise(other), coordinates.surprise(y))
    assert "C = 30" in refusal(lambda: flow.given(labels=y[:, TELLING]).log_prob(points))


def test_screening_is_chosen_by_what_it_gains():
    prepared = preparation(among_noise(300), steps=100)
    assert choose_space(prepared, Space("none", "zca", "on", "map", "auto")).cond_screen == "on"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preparation, "pilot", lambda _, space, steps: space.cond_screen == "off")
        space = Space("none", "zca", "on", "map", "auto")
        assert choose_space(prepared, space).cond_screen == "off"


def test_densities_given_conditions_integrate_to_one_and_follow_them():
    model = trained(preparation(bent(4000), steps=400))
    grid = (torch.arange(300).double() + 0.5)[:, None] / 300
    means = []
    for value in (0.0, 1.3):
        given = model.flow.given(labels=double([[value]]))
        density = given.log_prob(grid).exp()
        assert float(density.mean()) == pytest.approx(1, abs=2e-3)
        prior = Prior(model.flow, model.flow.times(12), get_solver("exp_rk5", 1e-6, 1e-6))
        sharp, labels = replace(prior, sharpened=True), {"labels": double([[value]])}
        sharpened = sharp.log_density(grid, labels, Trace("exact")).exp()
        assert float(sharpened.mean()) == pytest.approx(1, abs=2e-3)
        assert float(sharpened.square().mean()) > float(density.square().mean())
        means.append(float((density * grid[:, 0]).mean()))
        drawn = given.sample(2000, seeded())
        assert float(drawn.min()) > 0
        assert float(drawn.max()) < 1
        assert float(drawn.mean()) == pytest.approx(means[-1], abs=0.02)
    assert means[0] == pytest.approx(0.17, abs=0.06)
    assert means[1] == pytest.approx(0.61, abs=0.06)


def test_equal_members_are_one_network_and_each_learns_for_itself():
    one = ToyMLP(2, (-1.0, 1.0), width=8, depth=2, label_dim=3)
    torch.nn.init.normal_(one.output.weight)
    three = ToyMLP(2, (-1.0, 1.0), width=8, depth=2, label_dim=3, members=3)
    same = {name: v.expand(3, *v.shape) for name, v in one.state_dict().items()}
    three.load_state_dict(same)
    z, t, labels = normal(6, 2).float(), torch.linspace(-1, 1, 6), normal(6, 3, seed=9)
    expected = one(z, t, labels)
    torch.testing.assert_close(three.eval()(z, t, labels), expected)
    torch.testing.assert_close(three.train()(z, t, labels), expected.expand(3, -1, -1))
    assert "3 conditions" in refusal(one, z, t, kind=UsageError)
    assert "at least 1" in refusal(ToyMLP, 2, (-1.0, 1.0), members=0, kind=UsageError)


def test_the_loss_of_an_ensemble_is_the_mean_of_its_members_losses():
    prepared = preparation(gaussian(500), members=2)
    model, loss = prepared.build(prepared.coordinates(LINEAR))
    torch.nn.init.normal_(model.denoiser.network.output.weight)
    batch = next(prepared.source(prepared.coordinates(LINEAR)).batches(0))
    draws = loss.draw(100, seeded())

    def losses(denoiser):
        return loss.per_sample(denoiser, batch.points, draws, batch.conditions(CPU))

    together = losses(DenoisingRegression(model.denoiser.train()))
    apart = []
    for member in range(2):
        alone = copy.deepcopy(model.denoiser).eval()
        for weights in alone.network.parameters():
            weights.data = weights[[member, member]].detach()
        apart.append(losses(DenoisingRegression(alone)))
    torch.testing.assert_close(together, (apart[0] + apart[1]) / 2)
    assert not torch.allclose(apart[0], apart[1])


def saved(path):
    prepared = preparation(gaussian(500), steps=5, members=2)
    model = trained(prepared)
    model.about |= about_table(prepared.table, "gaussian")
    model.save(path)
    return model


def test_a_conditional_ensemble_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "network.pkl"
    model, read = saved(path), Model.load(path)
    assert read.digest() == model.digest()
    points, y = normal(5, 3), normal(5, 2, seed=7)
    got, expected = (m.flow.given(labels=y).log_prob(points) for m in (read, model))
    assert torch.equal(got, expected)
    assert read.about["condition_names"] == ["y1", "y2"]


def test_a_file_whose_conditions_do_not_fit_is_refused(tmp_path):
    path = tmp_path / "network.pkl"
    saved(path)
    parts, about = read_network(path)
    good = parts["coordinates"]
    own = ("scale", "surprise")
    names = {name: value for name, value in good.state.items() if not name.startswith(own)}
    plain = {name: value for name, value in names.items() if "slopes" not in name}
    for state, arguments, text in (
        ({**good.state, "scale.gain": -torch.ones(2).double()}, {}, "gain"),
        ({**good.state, "surprise.quantiles": -torch.ones(4).double()}, {}, "quantiles"),
        (names, {"conditions": 0}, "needs conditions"),
        (good.state, {"conditions": 3}, "do not fit"),
        (good.state, {"relevant": [2]}, "a relevant or skewed condition is none of 2"),
        (good.state, {"skewed": [2]}, "a relevant or skewed condition is none of 2"),
        (good.state, {"tails": [2]}, "a relevant or skewed condition is none of 2"),
        (
            {**good.state, "least": double([1.0, 0.0, 0.0])},
            {},
            "a column's smallest value is above its largest",
        ),
        (
            {name.replace("maps.2", "maps.1"): value for name, value in plain.items()},
            {"conditions": 0, "maps": ["standardize", "zca"], "surprise": False},
            "0 conditions, its network takes 2",
        ),
    ):
        arguments = {**good.arguments, **arguments}
        write_network(path, {**parts, "coordinates": Part("Coordinates", arguments, state)}, about)
        assert text in refusal(Model.load, path)


def test_a_file_without_a_surprise_does_not_know_what_is_surprising(tmp_path):
    path = tmp_path / "network.pkl"
    model = saved(path)
    assert model.coordinates
    assert model.coordinates.surprise
    parts, about = read_network(path)
    new = parts["coordinates"]
    state = {name: value for name, value in new.state.items() if not name.startswith("surprise")}
    arguments = {name: value for name, value in new.arguments.items() if name != "surprise"}
    without = Part("Coordinates", arguments, state)
    write_network(path, {**parts, "coordinates": without}, about)
    read = Model.load(path)
    assert read.coordinates
    assert read.coordinates.surprise is None
    read.save(path)
    assert read_network(path)[0]["coordinates"].arguments == arguments


def test_a_network_that_sees_no_waves_of_conditions_is_one_that_ignores_them():
    few, many = (
        ToyMLP(2, (-1.0, 1.0), width=8, depth=2, label_dim=3, condition_features=k) for k in (0, 4)
    )
    torch.nn.init.normal_(few.output.weight)
    weights = few.state_dict()
    waves = torch.zeros(8, 2 * 4 * 3)
    weights["input.weight"] = torch.cat([weights["input.weight"], waves], dim=1)
    many.load_state_dict(weights)
    z, t, labels = normal(6, 2).float(), torch.linspace(-1, 1, 6), normal(6, 3, seed=9)
    torch.testing.assert_close(many(z, t, labels), few(z, t, labels))
