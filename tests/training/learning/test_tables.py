"""Training on tables: held-out nats, the best weights, and flows given conditions."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow
from tests.support.running import refusal
from tests.support.tables import table_of
from tests.support.trainers import run_steps
from torch_utils.snapshots import Part, read_network, write_network
from training.data.batches import Batch
from training.data.tables import table as tables
from training.data.tables.formats import ForeignTable, TableChoices
from training.data.tables.making import make_table
from training.data.tables.schema import Column
from training.flow.latent import GaussianLatents
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.prior import Prior
from training.learning import held_out
from training.learning.building import ModelConfig
from training.learning.finishing import calibrate
from training.learning.held_out import HeldOut, Score, Validation
from training.learning.loss import DenoisingRegression
from training.learning.run import PostTraining, train
from training.learning.trainer import Trainer
from training.networks.mlp import ToyMLP
from training.recipes import Recipe
from training.subjects import table_spaces
from training.subjects.table_spaces import Preparation, Space, choose_space
from training.subjects.table_training import about_table
from training.trained.network import TrainedNetwork

CPU = torch.device("cpu")
SPACE = Space("yeo-johnson", "zca")


def table(count=3000):
    """A skewed column, a column in steps, and a third that follows the square of the first."""
    draw = np.random.default_rng(0)
    a, b = draw.gamma(2, 1, count), draw.integers(0, 6, count) * 0.5
    values = np.stack([a, b, a**2 + 0.3 * draw.normal(size=count)], axis=1)
    foreign = ForeignTable("x.csv", list("abc"), lambda: iter([values]))
    made, _ = make_table(foreign, TableChoices(held_out=0.2))
    return made


def preparation(duration=0.03, dims_to_keep=3, tick=5):
    inflation, network = {"dims_to_keep": dims_to_keep, "gamma0": 1e-2}, {"width": 32, "depth": 2}
    choices = ModelConfig("ifs", inflation, "mlp", network, "IS", "log")
    recipe = Recipe(
        duration=duration, batch=100, lr=3e-3, lr_ramp=1e-3, lr_decay=True, tick=tick, dump=1
    )
    return Preparation(table(), choices, recipe, CPU)


@pytest.mark.parametrize("dims_to_keep", [2, 1])
def test_held_out_nats_of_the_exact_denoiser_are_the_mean_log_density(dims_to_keep, monkeypatch):
    """Of points with the noise of the first time; circles are a mixture whose density is known."""
    monkeypatch.setattr(held_out, "TABLE_DRAWS", 50_000)
    toy, flow = exact_flow("circles", dims_to_keep, gamma0=1e-2)
    basis, exact = flow.basis, flow.denoiser
    model, loss = preparation(dims_to_keep=dims_to_keep).model_config.build(basis)
    denoiser = model.denoiser

    def residual(z, t):
        c = denoiser.coefficients(t)
        x = z / c.c_in
        return (exact(x, t) - c.c_skip * x) / c.c_out

    # float32 of z would cost digits where the noise is least
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    monkeypatch.setattr(denoiser, "residual", residual)
    points = toy.sample(50_000, seeded())
    shift = torch.full((50_000,), 0.7, dtype=torch.float64)
    nats = HeldOut.of_rows(points, shift, loss, seed=0).score(model).nats
    clean, generator = basis.to_eigen(points), seeded(1)
    first, last = torch.tensor([loss.t_min, loss.t_max], dtype=torch.float64)
    start, end = (clean + flow.schedule.sample_noise(50_000, t, generator) for t in (first, last))
    # What latents are is not quite a Gaussian, least of all where dimensions are compressed.
    gaussian = GaussianLatents(basis.eigenvalues + denoiser.schedule.noise_variance(last))
    missed = (exact.log_density(end, last) - gaussian.log_prob(end)).mean()
    expected = exact.log_density(start, first).mean() - missed + 0.7
    assert (float(missed) > 0.05) == (dims_to_keep == 1)
    assert nats == pytest.approx(float(expected), abs=0.02)


def test_held_out_nats_are_a_bound_that_training_raises():
    prepared = preparation(duration=0.015)
    coordinates = prepared.coordinates(SPACE)
    untrained, loss = prepared.build(coordinates)
    trainer = Trainer(*prepared.build(coordinates), prepared.recipe)
    run_steps(trainer, prepared.source(coordinates), prepared.recipe.steps)
    model, watch = trainer.averaged, Validation(prepared.held_out(coordinates, loss))
    start, end = (watch.held_out.score(one).nats for one in (untrained, model))
    generator = seeded(1)
    u, log_det = coordinates(
        coordinates.dequantized(prepared.table.held_out_rows.points, generator)
    )
    noisy = u + 0.1 * torch.randn(u.shape, generator=generator, dtype=torch.float64)
    density = replace(model, coordinates=None).flow.log_prob(noisy) + log_det
    assert start + 0.3 < end < float(density.mean())
    far = Validation(replace(watch.held_out, batch=Batch(10 * watch.held_out.batch.points)))
    far.look(model, 0)
    assert (watch.is_far, far.is_far) == (False, True)


def test_the_coordinates_best_on_held_out_rows_are_chosen(monkeypatch):
    steps = 60
    monkeypatch.setattr("training.subjects.table_spaces.PILOT_STEPS", steps)
    prepared = preparation(duration=0.02)
    chosen = choose_space(prepared, Space("auto", "zca"))
    names = ("none", "yeo-johnson", "ranks")
    nats = {name: prepared.pilot(Space(name, "zca"), steps) for name in names}
    assert chosen == Space(max(nats, key=lambda name: nats[name]), "zca")
    assert nats["ranks"] > nats["none"]
    assert choose_space(preparation(dims_to_keep=2), Space("none", "auto")) == Space("none", "none")
    assert choose_space(prepared, Space("none", "pca")) == Space("none", "pca")


def test_rows_far_from_all_others_are_told_of_and_drawn_in():
    prepared, space = preparation(), Space("ranks", "pca")
    assert prepared.describe_far_rows(prepared.coordinates(space), space) is None
    rows = prepared.table.values.copy()
    rows[:, 2] = rows[:, 0] + 0.02 * rows[:, 1]
    rows[(~prepared.table.held_out).argmax(), 2] += 3  # no odd value in its column
    odd = replace(prepared, table=replace(prepared.table, values=rows))
    text = odd.describe_far_rows(odd.coordinates(space), space)
    assert text
    assert text.startswith("1 row(s) are up to")
    axes = replace(space, marginals="ranks-axes")
    assert odd.describe_far_rows(odd.coordinates(axes), axes) is None
    nats = {"none": -3.0, "yeo-johnson": -2.0, "ranks": -1.0}
    for case, expected in ((prepared, "ranks"), (odd, "ranks-axes")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Preparation, "pilot", lambda _, space, steps: nats[space.marginals])
            assert choose_space(case, Space("auto", "pca")) == Space(expected, "pca")


def test_auto_keeps_as_many_dimensions_as_participate():
    made = table()
    assert [table_spaces.kept_dimensions(wanted, made) for wanted in (None, 2, "auto")] == [3, 2, 2]


class Scores:
    """Stands for what is held out: gives the scores of a list, one after the other."""

    def __init__(self, losses, parts=None):
        of_parts = parts or [{}] * len(losses)
        self._scores = map(lambda loss, own: Score(loss, parts=own), losses, of_parts)

    def score(self, model):
        return next(self._scores)


def weights_of(trainer):
    return torch.cat([p.flatten() for p in trainer.averaged.denoiser.parameters()])


def test_patience_ends_it_with_the_best_weights(run_folder):
    prepared = preparation(0.006, tick=1)
    coordinates = prepared.coordinates(SPACE)

    def run(name, scores, patience):
        trainer = Trainer(*prepared.build(coordinates), prepared.recipe)
        watch = Validation(Scores(scores), keeps_best=True, patience=patience)
        train(trainer, prepared.source(coordinates), run_folder(name), watch=watch)
        return trainer

    patient = run("patient", [3, 1, 2, 4, 5, 6], None)
    assert patient.seen == 6000
    coarse = run("hasty", [3, 1, 2, 4], 2)
    assert coarse.seen == 4000
    assert torch.equal(weights_of(coarse), weights_of(patient))  # those of the second look
    last = run("last", [6, 5, 4, 3, 2, 1], None)
    assert not torch.equal(weights_of(last), weights_of(patient))


def test_best_weights_are_saved_calibrated_or_not(run_folder):
    prepared = preparation(0.01)
    coordinates = prepared.coordinates(Space("yeo-johnson", "none"))
    trainer = Trainer(*prepared.build(coordinates), prepared.recipe)
    watch, folder = Validation(Scores([1, 2]), keeps_best=True), run_folder("run")
    plan = prepared.calibration(coordinates)
    got = []

    def finish(model):
        got.append(copy.deepcopy(model))
        calibrate(model, plan)
        raise DataError("no fit")

    with pytest.raises(DataError, match="no fit"):
        train(trainer, prepared.source(coordinates), folder, PostTraining(closing=finish), watch)
    (best,), saved = got, TrainedNetwork.load(folder.network_path(trainer.seen))
    assert saved.digest() == best.digest()
    weights = watch.state()["best"][""]["weights"]
    assert all(torch.equal(best.denoiser.state_dict()[k], v) for k, v in weights.items())
    assert trainer.averaged.denoiser.calibration.gains.std()
    held_out = coordinates.to_flow(prepared.table.held_out_rows.points)
    points = plan.points().points
    assert (len(points), len(held_out)) == (600, 600)
    for column in (0, 2):  # the other one is spread over its steps
        assert torch.equal(points[:, column].sort().values, held_out[:, column].sort().values)
    alone = replace(prepared, table=replace(prepared.table, held_out=np.zeros(3000, dtype=bool)))
    assert len(alone.calibration(coordinates).points().points) == 3000


def test_a_watch_is_resumed_with_its_best_weights_and_its_patience():
    prepared = preparation()
    model, _ = prepared.build(prepared.coordinates(SPACE))
    watch = Validation(Scores([2.0, 1.0, 3.0]), keeps_best=True, patience=2)
    for seen in (1000, 2000):
        watch.look(model, seen)
    best = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    other = Validation(Scores([3.0]), keeps_best=True, patience=1)
    other.restore(watch.state(), model, "state.pt")
    with torch.no_grad():
        model.denoiser.network.output.bias.add_(1)
    other.look(model, 3000)
    assert other.exhausted
    assert other.put_best(model) == Score(1.0)
    assert all(torch.equal(v, best[k]) for k, v in model.denoiser.state_dict().items())
    looked_at_alone = Validation(Scores([1.0]))
    assert looked_at_alone.state() == {}
    looked_at_alone.look(model, 1000)
    assert looked_at_alone.put_best(model) is None
    state = watch.state()["best"][""]
    wide = {"": {**state, "weights": {"a": torch.ones(1)}}}
    with pytest.raises(DataError, match="best weights of another model"):
        other.restore({"best": wide}, model, "state.pt")
    for broken in ({"best": {"seen": 1}}, {"best": {"": {**state, "weights": {"a": 1}}}}):
        assert "state.pt: 'best' is damaged" in refusal(other.restore, broken, model, "state.pt")


def test_parts_of_a_network_end_with_their_own_best_weights():
    prepared = preparation()
    model, _ = prepared.build(prepared.coordinates(SPACE))
    parts = [{"input": 2.0, "output": 1.0}, {"input": 1.0, "output": 2.0}]
    watch = Validation(Scores([3.0, 3.0], parts), keeps_best=True, patience=1)
    with torch.no_grad():
        for seen in (1000, 2000):
            for weights in model.denoiser.parameters():
                weights.fill_(seen)
            watch.look(model, seen)
    assert watch.seen == 2000
    assert not watch.exhausted
    assert watch.put_best(model) == Score(2.0, parts={"input": 1.0, "output": 1.0})
    assert (model.denoiser.network.input.bias == 2000).all()
    assert (model.denoiser.network.output.bias == 1000).all()


LINEAR = Space("none", "zca", "on")
SEEN = double([[1.0, 0.5], [0.0, 2.0], [-1.0, 0.3]])
TELLING = [3, 17]


def gaussian(count):
    """Three standard normal columns, given two linear maps of them with noise of variance 0.5."""
    points = normal(count, 3, seed=1)
    conditions = points @ SEEN + 0.5**0.5 * normal(count, 2, seed=2)
    held_out = torch.arange(count) % 5 == 0
    return table_of([*map(Column, "abc")], points, held_out, conditions, ["y1", "y2"])


def bent(count):
    """A column between bounds that follows from the size of its condition."""
    y = normal(count, 1, seed=3)
    points = torch.special.ndtr(y.abs() - 1 + 0.3 * normal(count, 1, seed=4))
    held_out = torch.arange(count) % 5 == 0
    return table_of([Column("a", low=0.0, high=1.0)], points, held_out, y, "y")


def conditional(table, steps=100, members=1):
    more = {"members": members} if members > 1 else {}
    network = {"width": 32, "depth": 2, "label_dim": table.condition_dim, **more}
    inflation = {"dims_to_keep": table.dim, "gamma0": 1e-4}
    choices = ModelConfig("ifs", inflation, "mlp", network, "IS", "log")
    recipe = Recipe(duration=1e-4 * steps, batch=100, lr=5e-3, lr_ramp=1e-3, lr_decay=True)
    return Preparation(table, choices, recipe, CPU)


def trained(prepared):
    coordinates = prepared.coordinates(LINEAR)
    trainer = Trainer(*prepared.build(coordinates), prepared.recipe)
    run_steps(trainer, prepared.source(coordinates), prepared.recipe.steps)
    return trainer.averaged


def exact_posterior(y):
    covariance = torch.linalg.inv(torch.eye(3).double() + 2 * SEEN @ SEEN.T)
    return MultivariateNormal(2 * y @ SEEN.T @ covariance, covariance)


def test_an_untrained_flow_is_the_linear_gaussian_posterior():
    """To sampling error: 40,000 rows determine means and covariances to about 1 %."""
    prepared = conditional(gaussian(50_000))
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
    prepared = conditional(gaussian(1000))
    assert choose_space(prepared, Space("auto", "auto", "auto")) == LINEAR
    assert choose_space(prepared, Space("none", "pca", "off")) == Space("none", "pca", "off")
    limited = conditional(bent(1000), steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preparation, "pilot", lambda _, space, steps: space.bounded == "reject")
        assert choose_space(limited, Space("none", "zca", "on", "auto")).bounded == "reject"
    assert choose_space(limited, Space("none", "zca", "on", "map")).bounded == "map"
    plain = replace(prepared, table=prepared.table.without_conditions())
    assert choose_space(plain, Space("none", "zca", "auto")) == Space("none", "zca", "off")
    values = (prepared.table.values > 0).astype(float)
    columns = [Column.of_numbers(name, step=1.0) for name in "abc"]
    rounded = replace(prepared.table, values=values, columns=columns)
    answers = replace(prepared, table=rounded, likelihood=True)
    for wanted in (Space("auto", "auto", "auto"), Space("none", "none")):  # as a resumed run does
        assert choose_space(answers, wanted) == Space("none", "none")


def decades(count):
    """A parameter that is positive over six decades, and its logarithm with noise."""
    power = torch.rand(count, 1, generator=seeded(5)).double() * 6 - 3
    held_out = torch.arange(count) % 5 == 0
    y = power + 0.3 * normal(count, 1, seed=6)
    return table_of([Column("a")], 10**power, held_out, y, "y")


def test_logarithms_of_wide_parameters_are_taken(caplog):
    caplog.set_level("INFO")
    table = decades(500)
    chosen = choose_space(conditional(table), Space("auto", "auto", "on"))
    assert (chosen.marginals, "more: a; the log transform is tried" in caplog.text) == ("log", True)
    # A row that is held out and not positive has no logarithm.
    table.points[0] = -1
    assert choose_space(conditional(table), Space("auto", "auto", "on")).marginals == "none"
    caplog.clear()
    table.points[0] = 1
    assert choose_space(conditional(table), Space("none", "auto", "on")).marginals == "none"
    assert "log transform" not in caplog.text


def test_coordinates_of_many_rows_are_fitted_to_a_part_with_the_extremes(monkeypatch):
    prepared = preparation()
    whole = prepared.coordinates(SPACE)
    monkeypatch.setattr(table_spaces, "MOST_FITTED", 800)
    part = preparation()
    rows = part.table.train_rows.at(part.fitted).points
    assert 800 <= len(rows) <= 806
    for extreme in (Tensor.amin, Tensor.amax):
        assert torch.equal(extreme(rows, 0), extreme(part.table.train_rows.points, 0))
    fitted = part.coordinates(SPACE)
    assert torch.equal(fitted.least, whole.least)
    assert torch.equal(fitted.most, whole.most)
    there = fitted.to_flow(prepared.table.train_rows.points)
    torch.testing.assert_close(there.mean(dim=0), torch.zeros(3).double(), rtol=0, atol=0.15)
    torch.testing.assert_close(there.T.cov(), torch.eye(3).double(), rtol=0, atol=0.25)


@pytest.mark.parametrize("conditions", [False, True])
def test_blocks_of_rows_make_the_batches_of_the_whole_table(conditions, monkeypatch):
    prepared = conditional(gaussian(300), steps=1) if conditions else preparation()
    coordinates = prepared.coordinates(SPACE)

    def made():
        batch = next(prepared.source(coordinates).batches(0))
        far = prepared.describe_far_rows(coordinates, SPACE)
        return batch, far, about_table(prepared.table, "x")["rows"]

    whole, *others = made()
    monkeypatch.setattr(tables, "BLOCK", 7)
    blocks, *same = made()
    torch.testing.assert_close(blocks.points, whole.points)
    torch.testing.assert_close(blocks.labels, whole.labels)
    assert same == others


@pytest.mark.parametrize("in_place", [False, True])
def test_rows_for_training_become_a_part_of_the_memory_of_all(in_place, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 7)
    table = gaussian(100)
    wanted = [
        (rows.points.clone(), rows.conditions.clone())
        for rows in (table.train_rows, table.held_out_rows)
    ]
    first = table.with_held_out_last(in_place)
    assert (first is table) == in_place
    for rows, (points, conditions) in zip(
        (first.train_rows, first.held_out_rows), wanted, strict=True
    ):
        assert torch.equal(rows.points, points)
        assert torch.equal(rows.conditions, conditions)
        assert rows.points.untyped_storage().data_ptr() == first.values.ctypes.data
    assert torch.equal(table.train_rows.points, wanted[0][0])


def among_noise(count):
    """The same, its two conditions standing at places 3 and 17 among 28 that tell nothing."""
    table = gaussian(count)
    noise = normal(count, 30, seed=6)
    noise[:, TELLING] = table.rows.conditions
    columns = [Column(f"y{place}") for place in range(30)]
    return replace(table, conditions=noise.numpy(), condition_columns=columns)


def test_conditions_that_tell_nothing_are_left_out_of_account(tmp_path):
    prepared = conditional(among_noise(1000), steps=1)
    assert table_spaces.relevant_conditions(prepared.table.train_rows, 0) == TELLING
    assert conditional(gaussian(1000)).relevant == []
    space = choose_space(prepared, Space("none", "zca", "on", "map", "on"))
    model, _ = prepared.build(prepared.coordinates(space))
    model.save(tmp_path / "network.pkl")
    flow = TrainedNetwork.load(tmp_path / "network.pkl").flow
    y = normal(1, 30, seed=7)
    points = normal(5, 3, seed=8)
    got = flow.given(labels=y).log_prob(points)
    alone = conditional(gaussian(1000), steps=1)
    fewer, _ = alone.build(alone.coordinates(LINEAR))
    torch.testing.assert_close(got, fewer.flow.given(labels=y[:, TELLING]).log_prob(points))
    other = y + 100
    other[:, TELLING] = y[:, TELLING]
    torch.testing.assert_close(flow.given(labels=other).log_prob(points), got, rtol=0, atol=0)
    coordinates = flow.coordinates
    torch.testing.assert_close(coordinates.surprise(other), coordinates.surprise(y))
    assert "C = 30" in refusal(lambda: flow.given(labels=y[:, TELLING]).log_prob(points))


def test_screening_is_chosen_by_what_it_gains():
    prepared = conditional(among_noise(300), steps=100)
    assert choose_space(prepared, Space("none", "zca", "on", "map", "auto")).cond_screen == "on"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preparation, "pilot", lambda _, space, steps: space.cond_screen == "off")
        space = Space("none", "zca", "on", "map", "auto")
        assert choose_space(prepared, space).cond_screen == "off"


def test_densities_given_conditions_integrate_to_one_and_follow_them():
    model = trained(conditional(bent(4000), steps=400))
    grid = (torch.arange(300).double() + 0.5)[:, None] / 300
    means = []
    for value in (0.0, 1.3):
        given = model.flow.given(labels=double([[value]]))
        density = given.log_prob(grid).exp()
        assert float(density.mean()) == pytest.approx(1, abs=2e-3)
        prior = Prior(model.flow, model.flow.times(12), get_solver("exp_rk5"))
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
    prepared = conditional(gaussian(500), members=2)
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
    prepared = conditional(gaussian(500), steps=5, members=2)
    model = trained(prepared)
    model.about |= about_table(prepared.table, "gaussian")
    model.save(path)
    return model


def test_a_conditional_ensemble_is_read_as_it_was_written_also_without_a_surprise(tmp_path):
    path = tmp_path / "network.pkl"
    model, read = saved(path), TrainedNetwork.load(path)
    assert read.digest() == model.digest()
    points, y = normal(5, 3), normal(5, 2, seed=7)
    got, expected = (m.flow.given(labels=y).log_prob(points) for m in (read, model))
    assert torch.equal(got, expected)
    assert read.about["condition_names"] == ["y1", "y2"]
    assert read.coordinates.surprise
    parts, about = read_network(path)
    new = parts["coordinates"]
    state = {name: value for name, value in new.state.items() if not name.startswith("surprise")}
    arguments = {name: value for name, value in new.arguments.items() if name != "surprise"}
    without = Part("Coordinates", arguments, state)
    write_network(path, {**parts, "coordinates": without}, about)
    read = TrainedNetwork.load(path)
    assert read.coordinates.surprise is None
    read.save(path)
    assert read_network(path)[0]["coordinates"].arguments == arguments


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
        (names, {"conditions": 0}, "needs at least one condition"),
        (good.state, {"conditions": 3}, "do not match its architecture"),
        (good.state, {"relevant": [2]}, "skewed or has long tails, is out of range"),
        (good.state, {"skewed": [2]}, "skewed or has long tails, is out of range"),
        (good.state, {"tails": [2]}, "skewed or has long tails, is out of range"),
        ({**good.state, "least": double([1.0, 0.0, 0.0])}, {}, "column exceeds its largest"),
        (
            {name.replace("maps.2", "maps.1"): value for name, value in plain.items()},
            {"conditions": 0, "maps": ["standardize", "zca"], "surprise": False},
            "0 conditions, but its network has 2",
        ),
    ):
        arguments = {**good.arguments, **arguments}
        write_network(path, {**parts, "coordinates": Part("Coordinates", arguments, state)}, about)
        assert text in refusal(TrainedNetwork.load, path)


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
