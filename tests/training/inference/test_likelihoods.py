"""Likelihoods: Gaussian ones, those of a user's file, and learned ones of trials."""

from dataclasses import replace
from math import log, pi
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.running import refusal, slowly
from tests.support.tables import table_of
from training.data.tables.schema import Column
from training.files.observations import read_mask, read_operator
from training.flow.coordinates.conditions import GaussianPrediction, MeanPrediction
from training.flow.integrations import trivial_integrations
from training.inference.likelihoods import Gaussian, MatrixMap, UserLikelihood
from training.inference.prior import Prior, integrations_of
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.inference.trial_likelihoods import (
    FlowTrialDistribution,
    TrialDistribution,
    TrialLikelihood,
    Trials,
)
from training.learning.building import ModelConfig
from training.learning.gaussian_start import fit_gaussian
from training.measure.posterior.predictive import model_probabilities
from training.recipes import Recipe
from training.subjects.likelihoods import uniform_model
from training.subjects.table_spaces import Preparation, Space

DIM = 3
POINTS = normal(5, DIM, seed=1)
COVARIANCE = double([[0.5, 0.1], [0.1, 0.2]])
PLACES = torch.tensor([2, 0])
OPERATOR = normal(2, DIM, seed=2)
EYE = torch.eye(DIM).double()
FORMS = {
    "std": (Gaussian(double(0.3)), EYE, 0.09 * EYE),
    "stds": (Gaussian(double([0.1, 0.2, 0.3])), EYE, torch.diag(double([0.01, 0.04, 0.09]))),
    "mask": (Gaussian(double([0.1, 0.2]), PLACES), EYE[PLACES], torch.diag(double([0.01, 0.04]))),
    "mask and covariance": (Gaussian(COVARIANCE, PLACES), EYE[PLACES], COVARIANCE),
    "operator": (Gaussian(COVARIANCE, operator=OPERATOR), OPERATOR, COVARIANCE),
}
"""Likelihoods, their matrix and their covariance."""
every_form = pytest.mark.parametrize("form", FORMS)
SHAPE = (2, 4, 6)
PIXELS = 48
IMAGES = normal(3, PIXELS, seed=1)
NAMES = ("blur:0.7", "downsample:2", "crop:1,2,3,4", "random:5")
PAIRS, NOTHING = normal(5, 2), torch.zeros(5, 0).double()
ENDS = torch.tensor([[-2.0, 2.0], [-1.0, 3.0]]).double()
COUNTS = torch.tensor([1, 3, 7])


@every_form
def test_the_density_is_torchs_and_observations_have_its_mean_and_covariance(form):
    likelihood, matrix, covariance = FORMS[form]
    observed = normal(len(POINTS), len(matrix), seed=3)
    expected = MultivariateNormal(POINTS @ matrix.T, covariance).log_prob(observed)
    assert_close(likelihood.log_prob(POINTS, observed), expected)
    root = likelihood.curvature_root(DIM)
    assert_close(root.T @ root, matrix.T @ torch.linalg.inv(covariance) @ matrix)
    count = 20000
    got = likelihood.simulate(POINTS[:1].expand(count, -1), seeded())
    residuals = (got - matrix @ POINTS[0]) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert (residuals.mean(dim=0).abs() < 4.5 / count**0.5).all()
    identity = torch.eye(len(matrix)).double()
    assert ((residuals.T.cov() - identity).abs() < 4.5 * (2 / count) ** 0.5).all()


@every_form
def test_deviations_are_those_of_what_the_prior_expects(form):
    likelihood, matrix, covariance = FORMS[form]
    root, mean = normal(DIM, DIM, seed=4), normal(DIM, seed=5)
    observed = normal(2, len(matrix), seed=6)
    std = (matrix @ root @ root.T @ matrix.T + covariance).diagonal().sqrt()
    z = Normal(matrix @ mean, std).cdf(observed)
    got = likelihood.deviations(mean, root @ root.T, observed)
    assert_close(Normal(0.0, 1.0).cdf(-got), torch.minimum(z, 1 - z))


def test_observations_that_are_nan_are_told():
    observed = torch.zeros_like(POINTS)
    observed[2, 1] = torch.nan
    assert "NaN or infinite at 1 of 5" in refusal(Gaussian(double(1.0)).log_prob, POINTS, observed)


def named(text):
    return read_operator(text, PIXELS, SHAPE)


@pytest.mark.parametrize("text", NAMES)
def test_matrices_are_those_of_the_maps(text):
    seen = named(text)
    assert_close(IMAGES @ seen.matrix.T, seen(IMAGES))


def test_a_map_and_its_adjoint_are_a_matrix_unless_their_dot_products_differ():
    def apply(images):
        return F.avg_pool2d(images, 2)

    def adjoint(means):
        return means.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4

    found = MatrixMap.from_functions(apply, adjoint, SHAPE)
    assert_close(found(IMAGES), read_operator("downsample:2", PIXELS, SHAPE)(IMAGES))
    for wrong in ((apply, lambda means: 4 * adjoint(means)), (lambda x: apply(x) + 1, adjoint)):
        assert "not linear and adjoint" in refusal(MatrixMap.from_functions, *wrong, SHAPE)


def test_maps_of_images_are_torchs():
    images = IMAGES.view(-1, *SHAPE)
    assert_close(named("downsample:2")(IMAGES), F.avg_pool2d(images, 2).flatten(1))
    assert_close(named("crop:1,2,3,4")(IMAGES), images[:, :, 1:4, 2:6].flatten(1))
    blur = named("blur:0.7")
    assert blur.shape == SHAPE
    assert_close(blur(torch.ones(1, PIXELS)), torch.ones(1, PIXELS))
    spot = torch.zeros(SHAPE).double()
    spot[0, 2, 3] = 1
    got = blur(spot.view(1, -1)).view(SHAPE)
    # Away from the borders, neighbors have exp(-1 / (2 std^2)) of the middle.
    assert_close(got[0, 2, 4] / got[0, 2, 3], torch.tensor(0.36).double(), atol=0.02, rtol=0)
    assert not got[1].any()


def test_masks_see_the_same_share_always_and_have_the_axes_of_images_in_order(tmp_path):
    names = [f"pixel{place}" for place in range(1000)]
    seen = read_mask("random:0.3", names, None)
    assert 250 < len(seen) < 350
    assert torch.equal(seen, read_mask("random:0.3", names, None))
    path, names = tmp_path / "mask.npy", [f"pixel{place}" for place in range(12)]
    np.save(path, np.eye(4, 3).reshape(2, 2, 3) > 0)
    assert "[2, 2, 3]" in refusal(read_mask, str(path), names, (3, 2, 2), kind=UsageError)


def test_noises_and_maps_that_there_are_not_are_told():
    for message, call in (
        ("must be positive", lambda: Gaussian(double(0.0))),
        ("must be positive", lambda: Gaussian(double([0.1, -0.1]), PLACES)),
        ("must be positive", lambda: Gaussian(double(torch.nan))),
        ("2 entries for 3", lambda: Gaussian(double([0.1, 0.2]), dim=3)),
        ("3 entries for 2", lambda: Gaussian(double([0.1, 0.2, 0.3]), PLACES, dim=3)),
        ("2 entries for 3", lambda: Gaussian(torch.eye(2).double(), dim=3)),
        ("not a symmetric", lambda: Gaussian(double([[1.0, 0.5], [0.0, 1.0]]))),
        ("shape [2, 3]", lambda: Gaussian(double([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0]]))),
        ("not positive definite", lambda: Gaussian(double([[1.0, 2.0], [2.0, 1.0]]))),
        ("not both", lambda: Gaussian(double(0.1), PLACES, operator=OPERATOR)),
        ("blur:STD", lambda: named("blur")),
        ("blur:STD", lambda: named("blur:0")),
        ("downsample:FACTOR", lambda: named("downsample:1.5")),
        ("does not divide images of 6x4", lambda: named("downsample:4")),
        ("crop:ROW", lambda: named("crop:1,2,3")),
        ("extends beyond images of 6x4", lambda: named("crop:1,2,4,4")),
        ("random:COUNT", lambda: named("random:nan")),
        ("'turn:2'", lambda: named("turn:2")),
        ("a .npy", lambda: read_operator("blur:1", 2, None)),
    ):
        assert message in refusal(call, kind=UsageError)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("mine.py")


def written(file, body):
    file.write_text(f"import torch\ndef f(x):\n    {body}\n")
    return UserLikelihood(f"{file}:f")


def test_it_is_the_users_function(file):
    got = written(file, "return -x.square().sum(dim=1)")
    assert_close(got.log_prob(PAIRS, NOTHING), -PAIRS.square().sum(dim=1))
    assert got.is_differentiable(PAIRS)
    assert not written(file, "return -x.detach().square().sum(dim=1)").is_differentiable(PAIRS)
    with pytest.raises(UsageError, match="cannot simulate observations:"):
        got.simulate(PAIRS, torch.Generator())


def test_wrong_numbers_are_told(file):
    for body, message in (
        (
            "return x",
            "returned [5, 2] for points of shape [5, 2]: the function must return a tensor [5]",
        ),
        ("return x.sum()", "returned [] for points"),
        ("return 1.0", "returned float for points"),
        ("return x[:, 0] * float('nan')", "is NaN or infinite at 5 of 5 points"),
        ("return x[:, 0].abs() * float('inf')", "is NaN or infinite at 5 of 5 points"),
    ):
        assert message in refusal(written(file, body).log_prob, PAIRS, NOTHING)


@pytest.mark.parametrize("relative", [True, False])
def test_traceback_is_shown(relative, file, capsys):
    path = file if relative else file.absolute()
    got = written(path, "return g(x)\ndef g(x): raise KeyError(7)")
    assert refusal(got.log_prob, PAIRS, NOTHING).endswith("mine.py:f raised KeyError: 7")
    shown = capsys.readouterr().err
    assert "in f" in shown
    assert "in g" in shown
    assert "inference/likelihoods" not in shown


def test_a_file_that_fails_and_what_is_no_function_are_told(file, capsys):
    for content, error in (("1 / 0", "ZeroDivisionError"), ("def f(:", "SyntaxError")):
        file.write_text(content)
        assert f"mine.py raised {error}" in refusal(UserLikelihood, f"{file}:f")
        shown = capsys.readouterr().err
        assert "mine.py" in shown
        assert "inference/likelihoods" not in shown
    file.write_text("def f(x): return x\ng = 3\n")
    for text in ("none.py:f", "mine.txt:f", "mine.py:", "mine.py:g", "mine.py:x.y"):
        with pytest.raises(UsageError, match=r"FILE\.py:function|has no function"):
            UserLikelihood(text)


def linear_flow(step=0.0):
    """Of data ``y = a + b + e`` given a, b and a covariate, with e standard normal."""
    theta, v = normal(20_000, 2, seed=1), normal(20_000, 1, seed=2)
    y = theta.sum(dim=1, keepdim=True) + normal(20_000, 1, seed=3)
    nothing = torch.zeros(len(y), dtype=torch.bool)
    columns = [Column.of_numbers("y", step)]
    if step:
        y = y.round()
    given = torch.cat([theta, v], dim=1)
    table = table_of(columns, y, nothing, given, "abv")
    choices = ModelConfig("ifs", {"gamma0": 1e-6}, "mlp", {"width": 8, "label_dim": 3}, "IS", "log")
    prepared = Preparation(table, choices, Recipe(duration=1e-4, batch=100), torch.device("cpu"))
    model, _ = prepared.build(prepared.coordinates(Space("none", "zca", "on")))
    model.denoiser.eval().requires_grad_(False)
    flow = model.flow
    flow.integrations = trivial_integrations(model.about["tmin"], model.about["tmax"], 1)
    return flow


@pytest.fixture(scope="module")
def likelihood():
    which = torch.arange(len(COUNTS)).repeat_interleave(COUNTS)
    data = 0.5 + normal(len(which), 1, seed=5)
    order = torch.randperm(len(which), generator=seeded())
    trials = Trials.sorted(data[order], torch.zeros(len(which), 1).double(), which[order])
    return TrialLikelihood(FlowTrialDistribution(linear_flow()), trials, [1, 0])


def exactly(points, trials, which):
    ends = trials.counts.cumsum(0)
    y = trials.data[ends[which] - trials.counts[which] : ends[which], 0]
    return -((y - points.sum(dim=1, keepdim=True)).square() + log(2 * pi)).sum(dim=1) / 2


def test_a_likelihood_whose_network_is_zero_is_evaluated_in_closed_form():
    flow = linear_flow()
    assert FlowTrialDistribution(flow).is_rough
    torch.nn.init.ones_(flow.denoiser.network.output.bias)
    assert not FlowTrialDistribution(flow).is_rough


def test_trials_of_an_observation_are_multiplied_in_any_number(likelihood):
    points = 0.5 * normal(50, 2, seed=4)
    which = torch.arange(50) % 3
    log_likelihood = likelihood.log_prob(points, which[:, None].double())
    for one in range(3):
        rows = which == one
        expected = exactly(points[rows], likelihood.trials, one)
        assert_close(log_likelihood[rows], expected, rtol=0.02, atol=0.2)
    # Each by itself gives the same, and so does the flow's own integration.
    pairs = zip(points.split(1), which.double()[:, None].split(1), strict=True)
    assert_close(torch.cat([likelihood.log_prob(*row) for row in pairs]), log_likelihood)
    likelihood._rough = False
    assert_close(likelihood.log_prob(points, which[:, None].double()), log_likelihood)
    likelihood._rough = True
    with pytest.raises(UsageError, match="your own program"):
        likelihood.simulate(points, torch.Generator())


def test_a_pool_is_evaluated_once_for_all_observations(likelihood):
    points, numbers = 0.5 * normal(50, 2, seed=4), likelihood.numbers
    for some in (points, points[:20]):  # the second is a part of the first in memory
        each = likelihood.log_prob_each(some, numbers)
        for own, row in zip(numbers, each, strict=True):
            expected = likelihood.log_prob(some, own.expand(len(some), -1))
            assert_close(row, expected, rtol=1e-9, atol=1e-9)


class Waves(TrialDistribution):
    """Normal trials, whose mean is a sum of waves of the parameters; counts its evaluations."""

    def __init__(self, frequency):
        self.frequency, self.evaluated = frequency, 0

    def log_prob(self, trials, covariates, parameters):
        self.evaluated += len(trials)
        mean = (self.frequency * parameters).sin().sum(dim=1, keepdim=True)
        return -(trials - mean).square().sum(dim=1) / 2

    rough = log_prob

    def to(self, device):
        return self


@pytest.mark.parametrize(
    ("dim", "frequency", "repeats", "limit", "interpolated"),
    [
        (1, 3.0, 1, 2.0, True),
        (2, 3.0, 1, 2.0, True),
        (2, 1e3, 1, 2.0, False),  # not smooth
        (2, 3.0, 9, 2.0, False),  # many trials
        (2, 3.0, 1, torch.inf, False),
        (3, 3.0, 1, 2.0, False),
    ],
)
def test_few_trials_are_interpolated_where_that_is_accurate(
    dim, frequency, repeats, limit, interpolated
):
    distribution, data = Waves(frequency), double([[0.3], [0.3], [1.2]]).repeat(repeats, 1)
    which = torch.zeros(len(data), dtype=torch.int64)
    ends = double([[-1.0, limit]]).repeat(dim, 1)
    trials = Trials.sorted(data, torch.zeros(len(data), 0).double(), which)
    learned = TrialLikelihood(distribution, trials, range(dim), ends)
    points, observed = 3 * torch.rand(500, dim, generator=seeded()).double() - 1, learned.numbers
    mean = (frequency * points).sin().sum(dim=1)
    exact = -(data - mean).square().sum(dim=0) / 2
    error = 1e-6 if interpolated else 1e-12
    for _ in range(2):
        before = distribution.evaluated
        [each] = learned.log_prob_each(points, observed)
        with torch.no_grad():
            own = learned.log_prob(points, observed.expand(len(points), 1))
        for made in (each, own):
            assert_close(made, exact, rtol=0, atol=error)
    assert (distribution.evaluated == before) == interpolated


def test_chains_follow_gradients_of_the_gaussian(likelihood):
    rough, observed = likelihood.approximate(), torch.full((6, 1), 2.0).double()
    points = (0.5 * normal(6, 2, seed=4)).requires_grad_()
    [gradient] = torch.autograd.grad(rough.log_prob(points, observed).sum(), points)
    aside = 1e-4 * torch.eye(2).double()
    ends = ([points + step, points - step] for step in aside)
    values = ([rough.log_prob(end.detach(), observed) for end in both] for both in ends)
    differences = [up - down for up, down in values]
    assert_close(gradient, torch.stack(differences, dim=1) / 2e-4, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("closed_form", [True, False])
def test_counts_have_the_probability_of_their_bin(closed_form):
    flow = linear_flow(1.0)
    if not closed_form:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            flow.denoiser.network.output.weight.normal_(std=0.05)
    distribution, point = FlowTrialDistribution(flow), double([[0.3, 0.2]])
    assert distribution.is_rough == closed_form

    def log_prob(*data):
        rows = double(data)[:, None]
        trials = Trials(rows, 0 * rows, torch.tensor([len(rows)]))
        return TrialLikelihood(distribution, trials, [0, 1]).log_prob(point, 0 * point[:, :1])[0]

    inner = torch.linspace(0.5, 1.5, 1001).double()[:, None]
    exact = flow.given(labels=double([[0.3, 0.2, 0.0]])).log_prob(inner).logsumexp(dim=0) - log(
        1001
    )
    assert_close(log_prob(1), exact, rtol=0, atol=2e-3)
    assert_close(log_prob(1, 3, 1, 1), 3 * log_prob(1) + log_prob(3))
    probabilities = torch.stack([log_prob(count) for count in range(-12, 13)]).exp()
    assert_close(probabilities.sum(), double(1.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", slowly(("auto", "pool", "refined", "hmc"), "hmc"))
def test_posterior_and_evidence_match_quadrature(likelihood, sampler):
    flow = uniform_model(["a", "b"], ENDS).flow
    prior = Prior(flow, *flow.integration("points"), integrations=integrations_of(flow))
    target = Target(prior, likelihood, torch.arange(3).double()[:, None], 256)
    plan = SamplingPlan(sampler, draws=150 if sampler == "hmc" else 500, pool=2048)
    draws = sample_posteriors(Problem(target, prior, [0, 1, 2]), plan)
    sides = [torch.linspace(0, 1, 801).double()[1:] - 1 / 1600 for _ in range(2)]
    grid = ENDS[:, 0] + torch.cartesian_prod(*sides) * (ENDS[:, 1] - ENDS[:, 0])
    for which in range(3):
        expected = exactly(grid, likelihood.trials, which)
        weight = expected.softmax(dim=0)
        mean = weight @ grid
        std = (weight @ (grid - mean).square()).sqrt()
        points = draws.points[which].flatten(0, 1)
        assert ((points >= ENDS[:, 0]) & (points <= ENDS[:, 1])).all()
        assert ((points.mean(dim=0) - mean).abs() < 0.15 * std).all()
        assert ((points.std(dim=0) / std - 1).abs() < 0.1).all()
        if sampler == "hmc":  # whose chains have none
            continue
        evidence = float(expected.logsumexp(dim=0) - log(len(grid)))
        off = float(draws.stats["evidence"][which]) - evidence
        assert abs(off) < 0.1 + 4 * float(draws.stats["evidence_error"][which])


def test_few_draws_are_some_of_many(likelihood):
    model = uniform_model(["a", "b"], ENDS)
    prior = Prior(
        model.flow, *model.flow.integration("points"), integrations=integrations_of(model.flow)
    )
    problem = Problem(Target(prior, likelihood, double([[2.0]]), 256), prior, [2])
    plan = SamplingPlan("auto", draws=250, pool=2048)
    few, many = (sample_posteriors(problem, replace(plan, draws=draws)) for draws in (10, 250))
    assert torch.equal(few.points, many.points[:, :, ::25])


def test_a_gaussian_start_learns_means_scales_and_correlations():
    c = normal(4000, 1, seed=1)
    e = normal(4000, 2, seed=2)
    e[:, 1] = 0.8 * e[:, 0] + 0.6 * e[:, 1]
    x = torch.cat([c.square(), -c], dim=1) + (0.5 * c).exp() * e
    map_ = GaussianPrediction(2, 1)
    with mock.patch("training.learning.gaussian_start.STEPS", 80):
        fit_gaussian(map_, c, x)
    rest, log_det = map_(x, c)
    assert_close(map_.inverse(rest, c), x, rtol=0, atol=1e-9)
    assert (rest.T.cov() - torch.eye(2)).abs().max() < 0.1
    exact = -c[:, 0] - log(0.6)
    assert (log_det - exact).abs().mean() < 0.15
    jacobian = torch.autograd.functional.jacobian(lambda row: map_(row, c[0])[0], x[0])
    assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(log_det[0]))


def test_a_mean_start_has_one_covariance():
    c, e = normal(2000, 1, seed=1), normal(2000, 2, seed=2)
    x = torch.cat([(2 * c).sin(), c.square()], dim=1) + 0.5 * e
    map_ = MeanPrediction(2, 1)
    with mock.patch("training.learning.gaussian_start.STEPS", 200):
        fit_gaussian(map_, c, x)
    rest, log_det = map_(x, c)
    assert_close(map_.inverse(rest, c), x, rtol=0, atol=1e-9)
    assert torch.equal(log_det, log_det[:1].expand_as(log_det))
    off = map_.inverse(torch.zeros_like(rest), c) - (x - 0.5 * e)
    assert off.square().mean() < 0.02


def test_probabilities_of_models_have_the_errors_of_their_evidences():
    evidence, error = double([[1.0, 0.0, -1.0]]), double([[0.01, 0.02, 0.03]])
    probability, deviation = model_probabilities(evidence, error, double([1.0, 2.0, 1.0]))
    weights = torch.tensor([1.0, 2.0, 1.0]) * evidence[0].exp()
    assert_close(probability[0], weights / weights.sum())
    moved = evidence + error * normal(20_000, 3, seed=1)
    spread = model_probabilities(moved, error, double([1.0, 2.0, 1.0]))[0].std(dim=0)
    assert_close(deviation[0], spread, rtol=0.05, atol=0)
