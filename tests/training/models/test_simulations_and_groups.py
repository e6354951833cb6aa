"""Runs: what is settled of networks and times, and what runs of many posteriors tell."""

import logging
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, InflationError, UsageError
from dnnlib.files import plain_name
from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow
from tests.support.image_models import END, SHAPE, save_image_model, write_image_set
from tests.support.posteriors import conditional_prior, gaussian_prior, posterior, problem
from tests.support.running import refusal
from torch_utils.results import save_arrays
from torch_utils.snapshots import read_network, write_network
from training.flow.denoisers import BLOCK_ROWS
from training.flow.latent import ConditionalMixture, GaussianLatents, LearnedLatents
from training.flow.schedules import InflationSchedule, VPSchedule
from training.inference.likelihoods import Gaussian
from training.inference.lookahead import calls_to_look
from training.inference.samplers.twisted import calls_of, twist
from training.inference.sampling import SamplingPlan
from training.measure.posterior.calibration import RunValues, calibrate
from training.models import checkpoint
from training.models import group_sampling as posteriors
from training.models.checkpoint import Checkpoint, PartFormat
from training.models.group_sampling import planned, sample_groups
from training.models.integration_settings import LatentChoice, TimeChoice
from training.models.posterior_reports import report_check, warn_of_outliers
from training.subjects import ImageFlow, open_subject
from training.subjects.images import draw_classes
from training.subjects.subject import summarize_variances
from training.trained.network import TrainedNetwork

CPU = torch.device("cpu")


@pytest.fixture
def open_flow(networks):
    """``open_flow(name, data_name, ...)``: the flow of one of the networks."""

    def start(name, data_name=None, expected=None, **choice):
        file = TrainedNetwork.open(str(networks[name]), **choice)
        return ImageFlow.of(file, expected or {}, data_name)

    return start


def test_what_is_known_and_what_may_be_said(open_flow, networks):
    flow = open_flow("classes")
    known = {"data_dim": 64, "dims_to_keep": 10, "img_size": 8, "img_ch": 1, "data_name": "blobs"}
    assert flow.known == known
    assert (flow.network.path, flow.stem) == (networks["classes"], "blobs_PRRto10D")
    assert (flow.image_shape, flow.label_dim) == (SHAPE, 3)
    late = open_flow("late")
    times = TimeChoice(4, END).times(late.on(CPU).schedule)
    torch.testing.assert_close(times, torch.linspace(0.5, END, 5, dtype=torch.float64))
    words = {"data_dim": 192, "dims_to_keep": None, "img_size": 8, "img_ch": 3}
    flow = open_flow("colors", "mine", expected=words)
    assert (flow.data_name, flow.image_shape) == ("mine", (3, 8, 8))
    denoiser = open_flow("PRP", end_std=2.5, precision="bf16").network.denoiser
    assert (denoiser.schedule.end_std, denoiser.precision) == (2.5, "bf16")


def test_what_contradicts_the_network_is_a_usage_error_with_both_values(open_flow):
    for network, name, value, known in (
        ("PRP", "data_dim", 65, "64"),
        ("classes", "dims_to_keep", 64, "10"),
        ("PRP", "img_size", 16, "8"),
        ("colors", "img_ch", 1, "3"),
    ):
        with pytest.raises(UsageError, match=rf"--{name} is {value}, .* has {known}"):
            open_flow(network, expected={name: value})
    # A baseline has no scale.
    with pytest.raises(InflationError, match=r"end_vars is 2, but the schedule vp has no such"):
        open_flow("VP", end_std=2.0)


def test_a_network_of_no_images_is_a_data_error(networks, tmp_path):
    path = tmp_path / "n.pkl"

    def opened(**about):
        parts, known = read_network(networks["PRP"])
        changed = {name: value for name, value in {**known, **about}.items() if value is not None}
        write_network(path, parts, changed)
        return ImageFlow.of(TrainedNetwork.open(str(path)), {})

    wrong = (8, "1x8", [1, 8], [1, 2, 3, 4], [1, 8, 9], [-1, -8, 8], [1.0, 8, 8])
    for about, message in (
        (
            {"image_shape": None, "data_name": "circles"},
            "on 'circles', not on images: use it with toy_pfODE_int.py",
        ),
        *(({"image_shape": shape}, "declares images of .* basis has 64 d") for shape in wrong),
        ({"image_shape": [32, 1, 2]}, "at most 16 channels"),
        *(({"label_dim": classes}, "classes") for classes in ("many", -1, 2.0, True)),
    ):
        with pytest.raises(DataError, match=rf"n\.pkl.*{message}"):
            opened(**about)
    flow = opened(data_name=None, label_dim=None)
    assert (flow.data_name, flow.label_dim) == ("images", 0)
    assert "none.pkl" in refusal(TrainedNetwork.open, str(tmp_path / "none.pkl"))


@torch.no_grad()
def test_the_flow_calls_its_network_in_blocks(open_flow):
    image_flow = open_flow("classes")
    sizes = []
    network = image_flow.network.denoiser.network
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    x, t = torch.zeros(20, 64, dtype=torch.float64), double(1.0)
    for rows, calls in ((7, [7, 7, 7]), (None, [BLOCK_ROWS["cpu"]] * 2)):
        sizes.clear()
        out = image_flow.on(CPU, rows).denoiser(x, t)
        assert sizes == calls
        torch.testing.assert_close(out, image_flow.network.denoiser(x, t), rtol=1e-5, atol=1e-6)


def test_classes_come_with_images_if_a_network_takes_them(open_flow, tmp_path):
    path = tmp_path / "data.zip"
    pixels = write_image_set(path, 30, classes=3)
    got, labels = open_flow("classes").dataset(path, 12, 1).read(range(12))
    for image, label in zip(got.numpy(), labels, strict=True):
        (place,) = np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))
        assert label.tolist() == [float(place % 3 == index) for index in range(3)]
    assert open_flow("PRP").dataset(path, 4, 0).label_dim == 0
    write_image_set(tmp_path / "some.zip", 4, classes=2)
    _, labels = open_flow("classes").dataset(tmp_path / "some.zip", 4, 0).read([0, 1])
    assert labels.tolist() == [[1, 0, 0], [0, 1, 0]], "none of the last class"


def test_data_that_do_not_fit_are_an_error_of_both_values(open_flow, tmp_path):
    path = tmp_path / "data.zip"
    for network, made, parts in (
        ("PRP", {"count": 5}, ["has 5 images", "6 were requested"]),
        ("colors", {"count": 6}, ["8x8 pixels with 1 channel", "8x8 pixels with 3 channel"]),
        ("PRP", {"count": 6, "image_shape": (1, 16, 16)}, ["16x16", "8x8"]),
        ("classes", {"count": 6}, ["no labels"]),
        ("classes", {"count": 6, "classes": 5}, ["labels of length 5", "has 3"]),
    ):
        write_image_set(path, **made)
        message = refusal(open_flow(network).dataset, path, 6, 0)
        for part in parts:
            assert part in message
        path.unlink()
    refusal(open_flow("PRP").dataset, path, 6, 0)


def test_a_class_is_one_of_the_networks_and_a_label_one_hot(open_flow):
    with_classes, without = open_flow("classes"), open_flow("PRP")
    classes = torch.tensor([2, 0, 1, 2])
    assert torch.equal(with_classes.one_hot(classes), torch.eye(3)[classes])
    assert without.one_hot(classes) is None
    for number in (None, 0, 2):
        with_classes.check_class(number)
    without.check_class(None)
    with pytest.raises(UsageError, match=r"class is 3, but classes\.pkl has classes 0 to 2"):
        with_classes.check_class(3)
    with pytest.raises(UsageError, match=r"class is 0, but PRP\.pkl has no classes"):
        without.check_class(0)


def test_classes_are_drawn_by_seed_and_evenly_or_given():
    assert torch.equal(draw_classes(4, 3, 0, 2), torch.tensor([2, 2, 2, 2]))
    drawn = draw_classes(3000, 3, 0, None)
    assert torch.equal(drawn, draw_classes(3000, 3, 0, None))
    assert not torch.equal(drawn, draw_classes(3000, 3, 1, None))
    counts = drawn.bincount(minlength=3)
    assert len(counts) == 3
    # Four standard deviations of a binomial count.
    assert ((counts - 1000).abs() < 4 * (3000 * (1 / 3) * (2 / 3)) ** 0.5).all()
    assert torch.equal(draw_classes(5, 0, 0, None), torch.zeros(5, dtype=torch.int64))


def test_names_are_plain_parts_of_the_names_of_files():
    for name in ("cifar10", "cifar10-32x32", "a.b+c_d", "größe", "_x", "7"):
        assert plain_name(name) == name
    for name in ("", ".", "..", "-", "a/b", "../a", "a b", "a\\b", "a\n", "~", "*"):
        assert "data_name" in refusal(plain_name, name, kind=UsageError)


def test_variances_are_summarized_by_their_ratios():
    exact = double([2.0, 4.0, 1.0, 1.0])
    measured = double([2.2, 3.0, 1.0, 9.0])
    got = summarize_variances(measured, exact, 3)
    assert got == pytest.approx({"mean": (1.1 + 0.75 + 1) / 3, "worst": 0.75})
    assert summarize_variances(measured, exact, 4)["worst"] == 9.0


def test_times_are_even_from_the_first_to_the_last():
    schedule = InflationSchedule.to_dimension(2, 3)
    expected = torch.arange(0, 4.25, 0.5, dtype=torch.float64)
    torch.testing.assert_close(TimeChoice(8, 4.0).times(schedule), expected)
    later = TimeChoice(3, 4.0, first=1.0).times(schedule)
    torch.testing.assert_close(later, double([1.0, 2.0, 3.0, 4.0]))
    # The baselines have their own.
    baseline = VPSchedule(3)
    assert torch.equal(TimeChoice(8, 1.0).times(baseline), baseline.times(8, 1.0))
    schedule.t_min = 0.1
    for first in (0.05, 4.0, 5.0):
        with pytest.raises(UsageError, match=rf"vpode_disc_eps is {first:g}.* 0\.1, .* T = 4"):
            TimeChoice(3, 4.0, first=first).times(schedule)


def test_the_choice_decides_the_law():
    _, flow = exact_flow("s_curve", 1)
    distribution = flow.latent_law(double(6.0))
    melted = normal(500, 3)
    expected = {
        LatentChoice(): distribution,
        LatentChoice(2.5e-3): distribution.with_compressed(2.5e-3, 1),
        LatentChoice(empirical=True): GaussianLatents.empirical(melted),
        LatentChoice(0.01, paper=True): GaussianLatents(double([1.0, 0.01, 0.01])),
    }
    for choice, right in expected.items():
        assert torch.equal(choice.distribution(flow, 6.0, 1, melted).variance, right.variance)
    names = ["auto", 2.5e-3, "empirical", "paper:0.01"]
    assert [choice.name for choice in expected] == names


def test_the_papers_law_needs_compressed_variances_and_an_empirical_one_a_melt():
    paper = LatentChoice(paper=True)
    _, flow = exact_flow("circles")
    assert torch.equal(paper.distribution(flow, 6.0, 2).variance, torch.ones(2).double())
    _, flow = exact_flow("circles", 1)
    assert "1 dimensions are compressed" in refusal(
        paper.distribution, flow, 6.0, 1, kind=UsageError
    )
    with pytest.raises(UsageError, match="melt"):
        LatentChoice(empirical=True).distribution(exact_flow("circles")[1], 6.0, 2)


def test_a_variance_far_from_the_closed_form_is_told(caplog):
    _, flow = exact_flow("circles", 1)
    exact = float(flow.latent_law(double(6.0)).variance[1])
    with caplog.at_level(logging.WARNING):
        LatentChoice(exact * 1.5).distribution(flow, 6.0, 1)
        assert not caplog.messages
        LatentChoice(exact / 3).distribution(flow, 6.0, 1)
    (message,) = caplog.messages
    assert f"at T = 6 is {exact:.3g}:" in message


def test_without_compressed_dimensions_eps_is_ignored(caplog):
    _, reducing = exact_flow("circles", 1)
    _, preserving = exact_flow("circles")
    assert LatentChoice(0.1).settled(reducing, 6.0, 1) == LatentChoice(0.1)
    with caplog.at_level(logging.WARNING):
        assert LatentChoice(0.1).settled(preserving, 6.0, 2) == LatentChoice()
        paper = LatentChoice(0.1, paper=True).settled(preserving, 6.0, 2)
    assert paper == LatentChoice(paper=True)
    assert all("none of the 2 dimensions is compressed" in text for text in caplog.messages)


def test_the_learned_law_is_the_default_where_it_belongs(caplog):
    _, flow = exact_flow("circles", 1)
    end, undecided = flow.end_time, LatentChoice(learned=None)
    learned = flow.with_distribution(ConditionalMixture(1, 1))
    assert undecided.settled(flow, end, 1) == LatentChoice()
    assert undecided.settled(learned, end, 1) == LatentChoice(learned=True)
    with caplog.at_level(logging.WARNING):
        assert undecided.settled(learned, 6.0, 1) == LatentChoice()
    assert "belongs to T =" in caplog.text
    for other, time in ((flow, end), (learned, 6.0)):
        with pytest.raises(UsageError, match="give auto"):
            LatentChoice(learned=True).settled(other, time, 1)
    assert isinstance(LatentChoice(learned=True).distribution(learned, end, 1), LearnedLatents)
    assert LatentChoice().on(learned).learned is None
    assert isinstance(LatentChoice().distribution(learned, end, 1), GaussianLatents)


@pytest.fixture
def groups(tmp_path):
    return Checkpoint(5, 2, "this run", tmp_path / "out" / "posterior.part")


def cut_short(groups, whole, fingerprint="this run"):
    def make(places, progress):
        if places[0] == 2 * whole:
            raise KeyboardInterrupt
        return fingerprint

    def save(path, part, _):
        save_arrays(path, {"fingerprint": np.array(part)})

    form = PartFormat(save, lambda path, _: None)
    with pytest.raises(KeyboardInterrupt), groups.report_interruption():
        groups.compute(make, form)


def test_runs_cut_short_say_how_to_go_on_and_keep_only_what_is_theirs(groups, caplog):
    cut_short(groups, 0)
    assert not groups.folder.parent.exists()
    cut_short(groups, 2, "another run")
    assert "saved" not in caplog.text
    cut_short(groups, 2)
    assert f"4 of 5 posteriors are done and saved in {groups.folder}" in caplog.text
    assert "Run the same command to continue" in caplog.text
    assert len(list(groups.folder.iterdir())) == 2


def test_without_a_terminal_lines_say_how_far_a_long_step_is(caplog, monkeypatch):
    monkeypatch.setattr(checkpoint, "monotonic", partial(next, count(100, 20)))  # seconds
    with (
        caplog.at_level(logging.INFO),
        checkpoint.progress("Making 10 draws", "draws", 10, "draw") as move,
    ):
        for _ in range(5):
            move(2)
    first, second = (f"Draws: {n} % after {n} s, about {100 - n} s left" for n in (40, 80))
    assert caplog.messages == ["Making 10 draws", first, second]


def test_as_many_particles_are_taken_as_fit_into_minutes(monkeypatch, caplog):
    monkeypatch.setattr(posteriors, "seconds_of_a_call", lambda target: 1e-3)
    monkeypatch.setattr(posteriors, "monotonic", lambda: 0.0)
    seen = Gaussian(double(0.5), torch.tensor([1]))
    which = problem(gaussian_prior(), seen, double([[0.2]]))

    def wanted(minutes, sampler="twisted"):
        return planned(which, SamplingPlan(sampler, draws=50, minutes=minutes, began=0.0), 10)

    files = posteriors.FOR_FILES + posteriors.FOR_A_NUMBER * 10 * 4 * 50 * 2
    for minutes in (2, 4, 8):
        own, plan = wanted(minutes)
        fit = plan.particles
        calls = [calls_of(which.target, 10, own.ahead, 4, 50, size) for size in (fit, 2 * fit)]
        # Those of the look-ahead are made when the rest is planned.
        calls = [each - calls_to_look(which.target.prior, own.ahead.steps) for each in calls]
        # Most of the time is for network calls, and what is left of it for moves.
        assert calls[0] * 1e-3 < 0.8 * 60 * minutes < calls[1] * 1e-3
        assert calls[0] + 40 * fit * own.ahead.most == pytest.approx(0.8e3 * (60 * minutes - files))
    lines = caplog.messages
    assert "10 observation(s), about 382,395 network evaluations at 1 ms" in "".join(lines)
    budget = own.ahead.budget
    assert (budget.waiting, budget.behind) == (10, 10)
    assert budget.until == pytest.approx(60 * minutes, abs=5)
    assert "the sampler is hmc" in refusal(wanted, 2, "hmc", kind=UsageError)
    monkeypatch.setattr("training.inference.lookahead.MOST_WRONG", 0.0)
    wanted(2)
    assert "16 particle steps are few" in caplog.text
    caplog.clear()
    planned(which, SamplingPlan("hmc", typed=frozenset({"particles"})), 1)
    assert caplog.messages == ["Warning: --particles has no effect on hmc: it belongs to twisted"]


def test_a_time_that_is_too_short_gives_smaller_runs_and_at_last_gaussian_draws(
    monkeypatch, caplog
):
    seconds = 0.0
    monkeypatch.setattr(posteriors, "seconds_of_a_call", lambda target: seconds)
    likelihood, observed = Gaussian(double(0.5), torch.tensor([1])), double([[0.2], [1.0]])
    which = problem(gaussian_prior(), likelihood, observed)
    plan = SamplingPlan("twisted", chains=2, draws=2000, minutes=0.5)
    found = {}
    for seconds in (1e-4, 1.5e-3, 4e-3):
        own, fitted = planned(which, plan, 2)
        found[seconds] = own.ahead.steps, own.ahead.draws, fitted.particles
    assert found == {1e-4: (16, 256, 2048), 1.5e-3: (16, 256, 192), 4e-3: (8, 64, 96)}
    seconds = 1.0
    [(draws, summary)] = sample_groups(which, plan, Checkpoint(2))
    assert set(draws.sampler) == {"gaussian"}
    assert not draws.calls.any()
    assert [summary.reasons(place) for place in (0, 1)] == [["time"]] * 2
    assert "256 particles need --minutes=" in caplog.text
    mean, covariance = posterior(which.target.prior, likelihood, observed)
    torch.testing.assert_close(summary.mean, mean, atol=0.05, rtol=0)
    std = covariance.diagonal().sqrt().expand(2, -1)
    torch.testing.assert_close(summary.std, std, atol=0.02, rtol=0)


def test_what_noisy_states_tell_is_kept_for_further_posteriors(monkeypatch, tmp_path):
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path))
    monkeypatch.setattr(posteriors, "KEPT_FROM", 0.0)
    which = problem(gaussian_prior(), Gaussian(double(0.5), torch.tensor([1])), double([[0.2]]))

    def ahead_of(network="one"):
        plan = SamplingPlan("twisted", draws=10, particles=10)
        return planned(replace(which, network=network), plan, 1)[0].ahead

    first, again = ahead_of(), ahead_of()
    assert (first.kept, again.kept, ahead_of("another").kept) == (False, True, False)
    draws = [twist(which.target, 0, [0], 2, 10, 10, ahead=each) for each in (first, again)]
    assert torch.equal(draws[0].points, draws[1].points)
    assert draws[0].calls == draws[1].calls > first.measured(which.target).calls > 0
    assert [file.write_bytes(b"PK broken") for file in tmp_path.iterdir()] == [9, 9]
    assert not ahead_of().kept


def test_posteriors_of_whole_steps_are_at_them(groups):
    prior = conditional_prior()
    one = double([[1.0, 0.0], [-1.0, 0.0]])
    prior.flow.coordinates.hold_steps(double([1.0, 0.0]), double([0.0, 0.0]), one)
    which = problem(prior, Gaussian(double(0.5), torch.tensor([1])), double([[0.2]] * groups.count))
    which.target.labels = double([[0.0]] * groups.count)
    plan = SamplingPlan("pool", chains=2, draws=50, pool=1024)
    for draws, summary in sample_groups(which, plan, groups):
        assert set(draws.points[..., 0].flatten().tolist()) == {-1, 0, 1}
        torch.testing.assert_close(summary.mean[:, 0], draws.points[..., 0].mean(dim=(1, 2)))


def test_conditions_of_no_known_law_are_told(caplog):
    with caplog.at_level(logging.INFO):
        assert warn_of_outliers(None, torch.zeros(2, 3)) is None
    assert "It is unknown whether" in caplog.text


def test_draws_mostly_beyond_bounds_are_explained(caplog):
    ranks = torch.rand(20, 1, generator=seeded(), dtype=torch.float64)
    for most, explained in ((0.3, False), (0.9848, True)):
        leaked = torch.linspace(0, most, 20)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            report_check(calibrate(RunValues(("a",), ranks, {}, ranks, leaked)))
        assert ("train with --bounded=map" in caplog.text) is explained


def test_images_that_are_called_after_a_toy_are_images(tmp_path):
    save_image_model(tmp_path / "network.pkl", data_name="moons", t_max=3.0)
    subject = open_subject(TrainedNetwork.open(str(tmp_path / "network.pkl")))
    assert isinstance(subject, ImageFlow)
    assert subject.image_shape == (1, 8, 8)
    # As a sentence calls them: the 52nd number.
    assert subject.words[51] == "the pixel in row 6, column 3"
