"""Network files: what they keep and refuse, and flows of any question."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import random_basis
from tests.support.running import refusal
from tests.support.trainers import tiny_model
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import Part, read_network, write_network
from training.data.batches import Batch
from training.data.tables.schema import NUMBER, Column
from training.data.tables.table import DataTable
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import Calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.latent import ConditionalMixture
from training.flow.preconditioning import OutputGain
from training.learning.building import ModelConfig
from training.learning.finishing import LatentPlan, find_integrations
from training.names import LOG
from training.networks.mixture import ABSENT, ASKED, EXACT, KNOWN
from training.subjects.record_spaces import choose_space, few_values
from training.subjects.records import CalibrationScores, Margins
from training.trained.architecture import make_schedule
from training.trained.network import TrainedNetwork
from training.trained.questions import EncodedRows, QuestionFlow

DIM, COUNTS = 4, [3, 2]
GENERATOR = seeded_generator("cpu", 7)


@pytest.fixture
def model():
    model, _ = tiny_model(width=16, depth=2)
    torch.nn.init.normal_(model.denoiser.network.output.weight)
    return model


def test_a_saved_model_denoises_as_before_and_is_saved_as_the_same_file(tmp_path):
    first, second, generator = tmp_path / "first.pkl", tmp_path / "second.pkl", seeded()
    for network, space, size in (("mlp", "ES", "width"), ("ToyConvUNet", "IS", "channels")):
        model, _ = tiny_model(network, space, dims_to_keep=1, **{size: 16})
        for parameter in model.denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        model.about |= {"seen": 5, "list": [1, "a", None], "nested": {"lr": 1e-3}}
        model.save(first)
        loaded = TrainedNetwork.load(str(first))
        assert (loaded.about, loaded.architecture) == (model.about, model.architecture)
        x = normal(9, 2, generator=generator)
        model.denoiser.eval()
        for t in (double(2.0), torch.linspace(0, 7, 9)):
            assert torch.equal(loaded.denoiser(x, t), model.denoiser(x, t))
        assert torch.equal(loaded.denoiser.basis.mean, model.denoiser.basis.mean)
        assert not any(parameter.requires_grad for parameter in loaded.denoiser.parameters())
        loaded.save(second)
        (one, about), (other, about_again) = read_network(first), read_network(second)
        assert about == about_again
        assert one.keys() == other.keys()
        for name, part in one.items():
            assert part.arguments == other[name].arguments
            assert all(torch.equal(part.state[key], other[name].state[key]) for key in part.state)


def test_the_scale_is_chosen_when_a_model_is_opened(model, tmp_path):
    model.save(tmp_path / "network.pkl")
    t = double(3.0)
    plain, wide = (
        TrainedNetwork.load(tmp_path / "network.pkl", end_std=a0).flow for a0 in (1.0, 3.0)
    )
    torch.testing.assert_close(wide.schedule.scale(t), 3 * plain.schedule.scale(t))
    x = torch.ones(4, 2, dtype=torch.float64)
    assert torch.equal(plain.denoiser(x, t), wide.denoiser(x, t))


def calibrate(model):
    times = torch.linspace(0, 7, 4, dtype=torch.float64)
    slopes = torch.arange(8, dtype=torch.float64).reshape(4, 2) / 10
    model.denoiser.calibration = Calibration(times, 1 + slopes, slopes)
    return model


def with_output_gain(model):
    times = torch.linspace(0, 7, 4, dtype=torch.float64)
    model.denoiser.output_gain = OutputGain(times, torch.arange(8.0).reshape(4, 2))
    return model


def test_a_calibration_is_saved_and_can_be_left_out_and_an_output_gain_stays(model, tmp_path):
    path = tmp_path / "network.pkl"
    x, t = torch.ones(3, 2, dtype=torch.float64), torch.linspace(1, 6, 3, dtype=torch.float64)
    plain = model.denoiser.eval()(x, t)
    gained = with_output_gain(model).denoiser(x, t)
    calibrated = calibrate(model).denoiser(x, t)
    model.save(path)
    assert torch.equal(TrainedNetwork.load(path).denoiser(x, t), calibrated)
    assert torch.equal(TrainedNetwork.load(path, calibrated=False).denoiser(x, t), gained)
    assert not torch.allclose(calibrated, gained)
    assert not torch.allclose(gained, plain)
    TrainedNetwork.load(path).save(tmp_path / "again.pkl")
    assert torch.equal(TrainedNetwork.load(tmp_path / "again.pkl").denoiser(x, t), calibrated)
    assert not any(p.requires_grad for p in TrainedNetwork.load(path).denoiser.parameters())


def test_courses_are_found_saved_and_of_the_calibrated_flow(model, tmp_path):
    points = normal(60, 2, seed=1)
    find_integrations(model, LatentPlan(lambda count: Batch(points[:count]), None, 600, 0, 128))
    assert {"look", "points"} <= set(model.integrations)
    model.save(tmp_path / "network.pkl")
    loaded = TrainedNetwork.load(tmp_path / "network.pkl")
    assert loaded.digest() == model.digest()
    assert torch.equal(loaded.flow.sample(5, seeded(0)), model.flow.sample(5, seeded(0)))
    assert loaded.integrations["points"].arguments == model.integrations["points"].arguments
    assert not TrainedNetwork.load(tmp_path / "network.pkl", calibrated=False).integrations
    model.integrations["points"].times.zero_()
    model.save(tmp_path / "broken.pkl")
    assert "schedule are not increasing" in refusal(TrainedNetwork.load, tmp_path / "broken.pkl")


def change(**fields):
    def apply(part):
        if "class_name" in fields:
            return replace(part, **fields)
        inside = "state" if next(iter(fields)) in part.state else "arguments"
        return replace(part, **{inside: {**getattr(part, inside), **fields}})

    return apply


def widen_basis(part):
    """A sound basis of three dimensions, which the other parts do not have."""
    return replace(part, state=EigenBasis(torch.zeros(3), torch.ones(3), torch.eye(3)).state_dict())


def drop(part, *names):
    return replace(part, state={key: part.state[key] for key in part.state if key not in names})


FLOATS = torch.arange(9, dtype=torch.float64)
# One example of each part and rule: what tensors, calibrations and gains must be in themselves is
# tested with them.
DAMAGES = {
    "a missing part": ("denoiser", lambda part: None),
    "an unknown network": ("network", change(class_name="Transformer")),
    "an unknown schedule": ("schedule", change(class_name="cosine")),
    "a network of another width": ("network", change(width=17)),
    "a network of other dimensions": ("network", change(dim=3)),
    "an empty noise range": ("network", change(noise_range=[1.0, 0.0])),
    "a basis of other dimensions": ("basis", widen_basis),
    "a basis of no shape": ("basis", change(mean=torch.zeros(2, 2))),
    "a basis without mean": ("basis", lambda part: replace(part, state={})),
    "rising eigenvalues": ("basis", change(eigenvalues=double([0.5, 1.0])), "in decreasing order"),
    "negative eigenvalues": ("basis", change(eigenvalues=double([1.0, -0.5])), "not negative"),
    "eigenvalues of zero": ("basis", change(eigenvalues=double([0.0, 0.0])), "data were constant"),
    "skew axes": ("basis", change(eigenvectors=torch.ones(2, 2).double()), "not orthonormal"),
    "single precision": ("basis", change(eigenvalues=torch.tensor([1.0, 0.5])), "must be float64"),
    "more dimensions kept than there are": ("schedule", change(dims_to_keep=3)),
    "a rate that is no number": ("schedule", change(rho="fast")),
    "an unknown space": ("denoiser", change(space="XS")),
    "a variance of other dimensions": ("denoiser", change(data_variance=torch.ones(3))),
    "a variance of no shape": ("denoiser", change(data_variance=torch.ones(2, 2))),
    "a calibration without times": ("denoiser", lambda part: drop(part, "calibration_times")),
    "gains alone": ("denoiser", lambda part: drop(part, "calibration_times", "calibration_slopes")),
    "a calibration of other dimensions": (
        "denoiser",
        change(calibration_gains=FLOATS[:4, None], calibration_slopes=FLOATS[:4, None]),
    ),
    "an output gain without times": ("denoiser", lambda part: drop(part, "output_gain_times")),
    "an output gain of other dimensions": ("denoiser", change(output_gains=torch.ones(4, 3))),
    "a calibration among the arguments": ("denoiser", change(calibration=5)),
    "a calibration of an isotropic model": ("denoiser", change(preconditioning="edm")),
    "an unknown tensor of the denoiser": (
        "denoiser",
        lambda part: replace(part, state={**part.state, "bias": FLOATS}),
        "an unknown tensor, 'bias'",
    ),
    "an unknown denoiser option": ("denoiser", change(network=None)),
}
"""The part and its change; what is said of some, which other rules would refuse too."""


def test_an_inconsistent_file_is_a_data_error_that_names_it(model, tmp_path):
    path = tmp_path / "network.pkl"
    with_output_gain(calibrate(model)).save(path)
    parts, about = read_network(path)
    for damage, (name, apply, *words) in DAMAGES.items():
        damaged = {**parts, name: apply(parts[name])}
        write_network(path, {key: part for key, part in damaged.items() if part}, about)
        message = refusal(TrainedNetwork.load, path)
        assert all(text in message for text in words), damage


def test_files_that_do_not_say_what_they_are_of_are_refused(model, tmp_path):
    path = tmp_path / "network.pkl"
    for changes, part in (
        ({"data_dim": 3}, "data_dim is 3, but the basis has 2"),
        ({"dims_to_keep": 5}, "dims_to_keep is 5, but the data have 2"),
        ({"tmin": None}, "does not contain the first and last time"),
        ({"tmin": 5.0, "tmax": 4.0}, "the times run from 5.0 to 4.0"),
    ):
        replace(model, about={**model.about, **changes}).save(path)
        assert part in refusal(TrainedNetwork.load, path)
    replace(model, coordinates=Coordinates(3, ["zca"])).save(path)
    assert "coordinates of 3 columns, but a basis of 2" in refusal(TrainedNetwork.load, path)


def test_a_file_with_a_student_network_is_refused(model, tmp_path):
    path = tmp_path / "student.pkl"
    model.save(path)
    parts, about = read_network(path)
    write_network(path, {**parts, "student": parts["network"]}, about)
    assert "no longer supported; train again with train.py" in refusal(TrainedNetwork.load, path)


def test_a_law_of_latents_is_saved_and_refused_where_it_does_not_belong(tmp_path):
    path = tmp_path / "network.pkl"
    model, _ = tiny_model("mlp", "ES", dims_to_keep=1, width=16)
    distribution = ConditionalMixture(1, 1, components=3, width=4)
    replace(model, learned=distribution).save(path)
    loaded = TrainedNetwork.load(path)
    assert loaded.learned is not None
    assert loaded.flow.latent.digest() == replace(model, learned=distribution).flow.latent.digest()
    assert loaded.digest() not in (model.digest(), replace(loaded, learned=None).digest())
    parts, about = read_network(path)
    flat = distribution.state_dict() | {"axes": torch.zeros(1, 1, dtype=torch.float64)}
    single = {name: tensor.float() for name, tensor in distribution.state_dict().items()}
    wide = ConditionalMixture(2, 1)
    for part, text in (
        (Part("ConditionalMixture", distribution.arguments, flat), "cannot be inverted"),
        (
            Part("ConditionalMixture", distribution.arguments, single),
            "latent distribution is not float64",
        ),
        (Part("ConditionalMixture", wide.arguments, wide.state_dict()), "the network keeps 1 of 2"),
        (
            Part("ConditionalMixture", {**distribution.arguments, "components": 100}, flat),
            "give components from 1 to 64",
        ),
        (Part("Pickle", {}, {}), "unknown class 'Pickle'"),
    ):
        write_network(path, {**parts, "latent_law": part}, about)
        assert text in refusal(TrainedNetwork.load, path)


def test_an_architecture_builds_equal_models_and_takes_dimension_and_variance_from_the_basis(model):
    built = []
    for _ in range(2):
        torch.manual_seed(3)
        built.append(model.architecture.build(model.denoiser.basis).state_dict())
    assert all(torch.equal(built[0][key], built[1][key]) for key in built[0])
    basis = random_basis(4)
    schedule = make_schedule("ifs", {"dims_to_keep": 2, "rho": 1.5}, basis, end_std=2.0)
    assert (schedule.dim, schedule.top_variance, schedule.end_std) == (4, basis.top_variance, 2.0)
    assert make_schedule("edm", {"t_min": 0.01}, basis).dim == 4
    assert "ifs, edm" in refusal(make_schedule, "cosine", {}, basis, kind=UsageError)


@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_a_first_time_by_default_is_written_as_it_is_resumed(precond):
    choices, basis = ModelConfig(precond, {}, "mlp", {"width": 8}, "IS", "log"), random_basis(2)
    model, loss = choices.build(basis)
    again, _ = replace(choices, t_min=loss.t_min).build(basis)
    assert model.architecture == again.architecture


def test_parameters_are_counted_and_a_basis_is_described_by_its_spectrum(model):
    # Input 2 (1 + 2 * 4) + 8 features, two hidden layers of 16, output 2.
    assert model.parameter_count == 27 * 16 + 2 * 17 * 16 + 17 * 2
    basis = EigenBasis(torch.zeros(10), torch.tensor([4.0, 1.0] + [0.0] * 8), torch.eye(10))
    text = basis.describe()
    assert text.startswith("Variances 4, 1, 0")
    assert "participation ratio 1.471 of 10" in text


def test_the_digest_knows_each_weight_and_each_correction(model, tmp_path):
    model.save(tmp_path / "network.pkl")
    digest = model.digest()
    assert TrainedNetwork.load(tmp_path / "network.pkl").digest() == digest
    with torch.no_grad():
        model.denoiser.network.output.bias[0] += 1e-3
    changed = model.digest()
    assert changed != digest
    assert calibrate(model).digest() not in (digest, changed)


def drawn(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


ROOTS = 0.4 * drawn(2, DIM, DIM) + 0.7 * torch.eye(DIM)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS, COVARIANCES = 0.8 * drawn(2, DIM), ROOTS @ ROOTS.mT / 2
SHARES = torch.tensor([[0.6, 0.3, 0.1, 0.2, 0.8], [0.1, 0.2, 0.7, 0.5, 0.5]], dtype=torch.float64)


def untrained():
    arguments = {"level_counts": COUNTS, "width": 16, "depth": 1, "components": 2}
    choices = ModelConfig("ifs", {"gamma0": 1e-4}, "questions", arguments, "ES", "log", t_max=20.7)
    ones = torch.ones(DIM, dtype=torch.float64)
    model, _ = choices.build(EigenBasis(0 * ones, ones, ones.diag()))
    network = model.denoiser.eval().requires_grad_(False).network
    network.mixture.hold(WEIGHTS, MEANS, COVARIANCES, SHARES, 100 * ones)
    return QuestionFlow(model.flow, network)


def rows(count):
    which = torch.randint(2, (count,), generator=GENERATOR)
    noise = (torch.linalg.cholesky(COVARIANCES)[which] @ drawn(count, DIM, 1))[..., 0]
    levels = [torch.randint(number, (count,), generator=GENERATOR) for number in COUNTS]
    states = torch.randint(-1, 2, (count, DIM + len(COUNTS)), generator=GENERATOR)
    return EncodedRows(MEANS[which] + noise, torch.stack(levels, dim=1)), states


def log_mixture(row, levels, states, least):
    """Log density ``[]`` of cells of one row whose state is at least this, under the mixture."""
    total = WEIGHTS.log()
    which, level_which = (states >= least).split([DIM, len(COUNTS)])
    at = which.nonzero()[:, 0]
    if len(at):
        noise = torch.where(states[at] == ASKED, 1e-4, EXACT)  # of the first time, or of known ones
        covariances = COVARIANCES[:, at][:, :, at] + noise.diag()
        total = total + MultivariateNormal(MEANS[:, at], covariances).log_prob(row[at])
    for place, first in enumerate((0, COUNTS[0])):
        if level_which[place]:
            total = total + SHARES[:, first + levels[place]].log()
    return total.logsumexp(dim=0)


def test_densities_are_those_of_the_mixture_given_what_is_known():
    flow, (cells, states) = untrained(), rows(40)
    of_numbers, of_levels, _ = flow.log_prob(cells, states)
    order = [*range(DIM, DIM + len(COUNTS)), *range(DIM)]
    for at in range(len(cells)):
        number, level, total = cells.numbers[at], cells.levels[at], 0.0
        state = states[at].masked_fill(states[at] == ASKED, ABSENT)
        for place in order:  # targets one after the other
            if states[at, place] == ASKED:
                state[place] = ASKED
                joint = log_mixture(number, level, state, ASKED)
                total += joint - log_mixture(number, level, state, KNOWN)
                state[place] = KNOWN
        assert abs(of_numbers[at] + of_levels[at] - total) < 0.02


def test_absent_cells_and_other_rows_change_nothing():
    flow, (cells, states) = untrained(), rows(3)
    of_numbers, of_levels, _ = flow.log_prob(cells, states)
    numbers = cells.numbers.clone()
    numbers[states[:, :DIM] == ABSENT] = torch.nan
    levels = cells.levels.masked_fill(states[:, DIM:] == ABSENT, -1)
    each = [slice(at, at + 1) for at in range(3)]
    alone = [flow.log_prob(EncodedRows(numbers[at], levels[at]), states[at]) for at in each]
    assert_close(torch.cat([pair[0] for pair in alone]), of_numbers, atol=1e-4, rtol=0)
    assert_close(torch.cat([pair[1] for pair in alone]), of_levels, atol=1e-6, rtol=0)


def test_probabilities_of_bins_are_integrals_of_the_density_and_add_to_one():
    flow, (cells, _) = untrained(), rows(1)
    edges = torch.linspace(-6, 6, 13, dtype=torch.float64)
    states = torch.tensor([[KNOWN, ASKED, ABSENT, KNOWN, KNOWN, ABSENT]])

    def log_prob(places, half):
        many = cells.at(torch.zeros(len(places), dtype=torch.long))
        numbers = many.numbers.clone()
        numbers[:, 1] = places
        ends = numbers - half, numbers + half
        own = EncodedRows(numbers, many.levels)
        return flow.log_prob(own, states.expand(len(places), -1), ends)[0]

    masses = log_prob((edges[1:] + edges[:-1]) / 2, 0.5).exp()
    assert abs(masses.sum() - 1) < 1e-3
    fine = (torch.arange(2400, dtype=torch.float64) + 0.5) / 200 - 6
    densities = log_prob(fine, 0.0).exp()
    assert_close(densities.view(12, -1).mean(dim=1), masses, atol=1e-3, rtol=0)
    parts = torch.cat([log_prob(part, 0.0) for part in fine[1100:1200].split(7)])
    assert_close(parts, densities[1100:1200].log(), atol=1e-2, rtol=0)


def test_quantiles_ranks_and_draws_of_a_number_agree():
    flow, (cells, _) = untrained(), rows(1)
    many = cells.at(torch.zeros(4000, dtype=torch.long))
    states = torch.tensor([[KNOWN, ASKED, ABSENT, KNOWN, KNOWN, ABSENT]]).repeat(4000, 1)
    levels = torch.tensor([0.05, 0.5, 0.95])
    quantiles = flow.quantiles(many.at(slice(0, 1)), states[:1], 1, levels)[0]
    drawn_rows = flow.draws(many, states, seeded_generator("cpu", 1))
    below = (drawn_rows.numbers[:, 1, None] < quantiles).double().mean(dim=0)
    assert (below - levels).abs().max() < 0.02
    ranks = flow.ranks(many.at(slice(0, 1)), states[:1], 1, quantiles[None])[0]
    assert_close(ranks, levels.double(), atol=1e-3, rtol=0)
    assert_close(drawn_rows.numbers[:, 0], many.numbers[:, 0])
    assert bool(drawn_rows.numbers[:, 2].isnan().all() & (drawn_rows.levels[:, 1] == -1).all())


def test_a_number_without_a_place_in_the_flow_is_impossible_and_no_error():
    """Counts over decades have logarithms, unless a row that is held out has a 0."""
    values = np.exp(3 * np.random.default_rng(0).normal(size=(400, 1))).round(3) + 0.001
    records = DataTable([Column("dose")], values=values, held_out=np.arange(400) % 10 == 0)
    chosen = choose_space(records, 0)
    assert chosen.marginals == LOG
    rows = np.array([[0.0], [1.0], [-2.0]])
    assert chosen.space.impossible(rows)[:, 0].tolist() == [True, False, True]
    assert chosen.space.encoded(rows).numbers[[0, 2], 0].tolist() == pytest.approx([-6, -6])
    values[0] = 0
    chosen = choose_space(records, 0)
    assert chosen.marginals != LOG
    assert not chosen.space.impossible(values).any()


def test_values_that_follow_each_other_are_levels_if_they_are_eight():
    column = Column("month", NUMBER)
    of_each = {count: few_values(column, np.tile(np.arange(count), 10) / 10) for count in (8, 9)}
    assert of_each == {8: tuple(np.arange(8) / 10), 9: ()}
    apart = np.arange(12.0) ** 2
    assert few_values(column, np.tile(apart, 10)) == tuple(apart)
    assert few_values(column, np.tile(apart, 9)) == ()


def test_intervals_cover_what_they_promise_however_few_cells_are_held_out():
    """A flow whose intervals of content c cover c squared; the scores are the values here. With n
    cells coverage is (k / (n + 1)) on average, at least the share."""
    random = np.random.default_rng(0)
    share, every = 0.9, np.ones((1, 2)) - np.eye(2)[[0]]
    for count in (9, 20, 49):
        covered = []
        for _ in range(400):
            rows = np.stack([random.random(count) ** 0.5, random.random(count)], axis=1)
            held = CalibrationScores.of(lambda own, known, place: own[:, place], rows, [0], seed=0)
            covered.append(held.content(0, share, every)[0] ** 2)
        exact = np.ceil((count + 1) * share - 1e-9) / (count + 1)
        assert exact >= share
        assert np.mean(covered) == pytest.approx(exact, abs=4 * np.std(covered) / 20), count


def test_contents_of_intervals_are_scores_of_held_out_cells():
    random = np.random.default_rng(0)
    rows = random.random((1000, 3))
    rows[:, 1] = rows[10:, 2] = np.nan
    known = []

    def scores(values, there, place):
        known.append(there[:, 0].mean() if place else 1.0)
        assert not there[:, place].any()
        return values[:, place]

    own, broken = (
        CalibrationScores.of(scores, rows, [0, 1, 2], seed=0),
        DataError("held-out cells broken"),
    )
    held = CalibrationScores.read(json.loads(json.dumps(own.listed)), 3, broken)
    assert known[2:] == [pytest.approx(0.8, abs=0.3), 1]
    every = np.ones((4, 3)) - np.eye(3)[[0]]
    contents = {at: held.content(at, 0.9, every)[0] for at in range(3)}
    assert contents[0] == pytest.approx(np.sort(rows[:, 0])[900], abs=0.005), "every fifth is kept"
    assert contents[1] == 0.9, "the flow's own"
    assert contents[2] == pytest.approx(np.sort(rows[:10, 2])[9], abs=1e-6), "the largest of ten"
    assert contents[2] < held.content(2, 0.95, every)[0] < 1, "too few for 95 %"
    own = [1000, [0.5, 1.0], [[0.5] * 200, [0.1] * 200]]
    there = np.array([[0, 1, 0], [0, 1, 1]])  # half of the others, and all of them
    each = CalibrationScores.read([own] * 3, 3, broken).content(0, 0.5, there)
    assert each == pytest.approx([0.5, 0.1], abs=0.03), "of each row by itself"
    falls = [[*[0.5] * 199, 0.1]] * 2
    for at, bad in ((2, falls), (0, 9), (0, 10**9), (2, [[2] * 200] * 2), (1, [1]), (0, "2")):
        wrong = [[*own[:at], bad, *own[at + 1 :]]] * 3
        assert "held-out cells broken" in refusal(CalibrationScores.read, wrong, 3, broken)


def test_rows_are_kept_whose_columns_have_the_margins_of_the_data():
    """A heap that draws have half of; what columns have to do with each other stays."""
    random = np.random.default_rng(0)

    def rows(count, heap):
        x = np.where(random.random(count) < heap, 0.5, random.random(count))
        level = random.random(count) < 0.2 + heap
        return np.stack([x, x + 0.1 * random.normal(size=count), level], axis=1)

    real, drawn = rows(4000, 0.3), rows(16_000, 0.15)
    # Of what is missing nothing is known: it may be other than what is there.
    real = np.column_stack([real, np.where(real[:, 0] > 0.5, np.nan, 1.0)])
    drawn = np.column_stack([drawn, random.integers(0, 2, len(drawn))])
    broken = DataError("its margins are broken")
    margins = Margins.read(json.loads(json.dumps(Margins.of(real).listed)), 4, broken)
    kept = drawn[places := margins.kept(drawn, 4000, seed=0)]
    assert len(np.unique(places)) == 4000
    # They are a sample from what is weighed so, whose shares have errors of 0.008.
    assert (kept[:, 0] == 0.5).mean() == pytest.approx((real[:, 0] == 0.5).mean(), abs=0.025)
    assert kept[:, 2].mean() == pytest.approx(real[:, 2].mean(), abs=0.025)
    assert (kept[:, 1] - kept[:, 0]).std() == pytest.approx(0.1, rel=0.03)
    assert kept[:, 3].mean() == pytest.approx(drawn[:, 3].mean(), abs=0.025)
    for wrong in ([], [[[0.0], [1.0]]] * 3, [[[1.0, 0.0], [0.5, 0.2, 0.3]]] * 3, [3] * 3):
        assert "margins are broken" in refusal(Margins.read, wrong, 3, broken)
