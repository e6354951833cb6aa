"""Training on a table: what is held out is scored in nats, and the best weights are kept."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError
from tests.support.draws import seeded
from tests.support.running import refusal
from tests.support.trainers import run_steps
from training.data.batches import Batch
from training.data.tables.foreign import ForeignTable, TableChoices
from training.data.tables.making import make_table
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.latent.laws import GaussianLaw
from training.learning import held_out
from training.learning.building import Choices
from training.learning.calibrating import calibrate
from training.learning.held_out import HeldOut, Score, Watch
from training.learning.run import Ending, train
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model
from training.subjects.table_spaces import Preparation, Space, choose_space, kept_dimensions

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


def preparation(total=30000, dims_to_keep=3, tick=5000):
    inflation, network = {"dims_to_keep": dims_to_keep, "gamma0": 1e-2}, {"width": 32, "depth": 2}
    choices = Choices("ifs", inflation, "mlp", network, "IS", "log")
    config = TrainingConfig(
        total=total, batch=100, lr=3e-3, lr_ramp=1000, lr_decay=True, tick=tick, state_ticks=1
    )
    return Preparation(table(), choices, config, CPU)


def trained(prepared):
    coordinates = prepared.coordinates(SPACE)
    model, loss = prepared.build(coordinates)
    trainer = Trainer(model, loss, prepared.config)
    run_steps(trainer, prepared.source(coordinates), prepared.config.total_steps)
    return trainer, Watch(prepared.held_out(coordinates, loss), keeps_best=True)


@pytest.mark.parametrize("dims_to_keep", [2, 1])
def test_held_out_nats_of_the_exact_denoiser_are_the_mean_log_density(dims_to_keep, monkeypatch):
    """Of points with the noise of the first time; circles are a mixture whose density is known."""
    monkeypatch.setattr(held_out, "TABLE_DRAWS", 50_000)
    toy = Toy("circles")
    basis = EigenBasis.from_moments(*toy.moments())
    model, loss = preparation(dims_to_keep=dims_to_keep).choices.build(basis)
    denoiser = model.denoiser
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=denoiser.schedule)

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
    start, end = (
        clean + denoiser.schedule.sample_noise(50_000, t, generator) for t in (first, last)
    )
    # What latents are is not quite a Gaussian, least of all where dimensions are compressed.
    gaussian = GaussianLaw(basis.eigenvalues + denoiser.schedule.noise_variance(last))
    missed = (exact.log_density(end, last) - gaussian.log_prob(end)).mean()
    expected = exact.log_density(start, first).mean() - missed + 0.7
    assert (float(missed) > 0.05) == (dims_to_keep == 1)
    assert nats == pytest.approx(float(expected), abs=0.02)


def test_held_out_nats_are_a_bound_that_training_raises():
    prepared = preparation(total=15_000)
    trainer, watch = trained(prepared)
    model, coordinates = trainer.averaged, trainer.averaged.coordinates
    untrained, _ = prepared.build(coordinates)
    start, end = (watch.held_out.score(one).nats for one in (untrained, model))
    generator = seeded(1)
    u, log_det = coordinates(coordinates.dithered(prepared.table.held_out_rows.points, generator))
    noisy = u + 0.1 * torch.randn(u.shape, generator=generator, dtype=torch.float64)
    density = replace(model, coordinates=None).flow.log_prob(noisy) + log_det
    assert start + 0.3 < end < float(density.mean())
    far = Watch(replace(watch.held_out, batch=Batch(10 * watch.held_out.batch.points)))
    far.look(model, 0)
    assert (watch.is_far, far.is_far) == (False, True)


def test_the_coordinates_best_on_held_out_rows_are_chosen(monkeypatch):
    steps = 60
    monkeypatch.setattr("training.subjects.table_spaces.PILOT_STEPS", steps)
    prepared = preparation(total=20_000)
    chosen = choose_space(prepared, Space("auto", "zca"))
    names = ("none", "yeo-johnson", "quantile")
    nats = {name: prepared.pilot(Space(name, "zca"), steps) for name in names}
    assert chosen == Space(max(nats, key=lambda name: nats[name]), "zca")
    assert nats["quantile"] > nats["none"]
    assert choose_space(preparation(dims_to_keep=2), Space("none", "auto")) == Space("none", "none")
    assert choose_space(prepared, Space("none", "pca")) == Space("none", "pca")


def test_rows_far_from_all_others_are_told_of_and_drawn_in():
    prepared, space = preparation(), Space("quantile", "pca")
    assert prepared.told_of_far_rows(prepared.coordinates(space), space) is None
    rows = prepared.table.points.clone()
    rows[:, 2] = rows[:, 0] + 0.02 * rows[:, 1]
    rows[int((~prepared.table.held_out).int().argmax()), 2] += 3  # no odd value in its column
    odd = replace(prepared, table=replace(prepared.table, points=rows))
    text = odd.told_of_far_rows(odd.coordinates(space), space)
    assert text
    assert text.startswith("1 row(s) are up to")
    axes = replace(space, marginals="quantile-axes")
    assert odd.told_of_far_rows(odd.coordinates(axes), axes) is None
    nats = {"none": -3.0, "yeo-johnson": -2.0, "quantile": -1.0}
    for case, expected in ((prepared, "quantile"), (odd, "quantile-axes")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Preparation, "pilot", lambda _, space, steps: nats[space.marginals])
            assert choose_space(case, Space("auto", "pca")) == Space(expected, "pca")


def test_auto_keeps_as_many_dimensions_as_participate():
    made = table()
    assert [kept_dimensions(wanted, made) for wanted in (None, 2, "auto")] == [3, 2, 2]


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
    prepared = preparation(6000, tick=1000)
    coordinates = prepared.coordinates(SPACE)

    def run(name, scores, patience):
        trainer = Trainer(*prepared.build(coordinates), prepared.config)
        watch = Watch(Scores(scores), keeps_best=True, patience=patience)
        train(trainer, prepared.source(coordinates), run_folder(name), watch=watch)
        return trainer

    patient = run("patient", [3, 1, 2, 4, 5, 6], None)
    assert patient.seen == 6000
    hasty = run("hasty", [3, 1, 2, 4], 2)
    assert hasty.seen == 4000
    assert torch.equal(weights_of(hasty), weights_of(patient))  # those of the second look
    last = run("last", [6, 5, 4, 3, 2, 1], None)
    assert not torch.equal(weights_of(last), weights_of(patient))


class Failure(Exception):
    pass


def test_best_weights_are_saved_calibrated_or_not(run_folder):
    prepared = preparation(10_000)
    coordinates = prepared.coordinates(Space("yeo-johnson", "none"))
    trainer = Trainer(*prepared.build(coordinates), prepared.config)
    watch, folder = Watch(Scores([1, 2]), keeps_best=True), run_folder("run")
    plan = prepared.calibration(coordinates, "path")
    got = []

    def finish(model):
        got.append(copy.deepcopy(model))
        calibrate(model, plan)
        raise Failure

    with pytest.raises(Failure):
        train(trainer, prepared.source(coordinates), folder, Ending(closing=finish), watch)
    (best,), saved = got, Model.load(folder.network_path(trainer.seen))
    assert saved.digest() == best.digest()
    weights = watch.state()["best"][""]["weights"]
    assert all(torch.equal(best.denoiser.state_dict()[k], v) for k, v in weights.items())
    assert trainer.averaged.denoiser.calibration.slopes.any()
    held_out = coordinates.to_flow(prepared.table.held_out_rows.points)
    points = plan.points().points
    assert (len(points), len(held_out)) == (600, 600)
    for column in (0, 2):  # the other one is spread over its steps
        assert torch.equal(points[:, column].sort().values, held_out[:, column].sort().values)
    alone = replace(prepared, table=replace(prepared.table, held_out=torch.zeros(3000).bool()))
    assert len(alone.calibration(coordinates, "gain").points().points) == 3000


def test_a_watch_is_resumed_with_its_best_weights_and_its_patience():
    prepared = preparation()
    model, _ = prepared.build(prepared.coordinates(SPACE))
    watch = Watch(Scores([2.0, 1.0, 3.0]), keeps_best=True, patience=2)
    for seen in (1000, 2000):
        watch.look(model, seen)
    best = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    other = Watch(Scores([3.0]), keeps_best=True, patience=1)
    other.restore(watch.state(), model, "state.pt")
    with torch.no_grad():
        model.denoiser.network.output.bias.add_(1)
    other.look(model, 3000)
    assert other.exhausted
    assert other.put_best(model) == Score(1.0)
    assert all(torch.equal(v, best[k]) for k, v in model.denoiser.state_dict().items())
    looked_at_alone = Watch(Scores([1.0]))
    assert looked_at_alone.state() == {}
    looked_at_alone.look(model, 1000)
    assert looked_at_alone.put_best(model) is None
    state = watch.state()["best"][""]
    wide = {"": {**state, "weights": {"a": torch.ones(1)}}}
    with pytest.raises(DataError, match="best weights of another model"):
        other.restore({"best": wide}, model, "state.pt")
    for broken in ({"best": {"seen": 1}}, {"best": {"": {**state, "weights": {"a": 1}}}}):
        assert "state.pt has a broken 'best'" in refusal(other.restore, broken, model, "state.pt")


def test_parts_of_a_network_end_with_their_own_best_weights():
    prepared = preparation()
    model, _ = prepared.build(prepared.coordinates(SPACE))
    parts = [{"input": 2.0, "output": 1.0}, {"input": 1.0, "output": 2.0}]
    watch = Watch(Scores([3.0, 3.0], parts), keeps_best=True, patience=1)
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
