"""Priors of parameters: one distribution for draws, densities, bounds, files and models."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double
from training.subjects import TableFlow
from training.subjects.likelihoods import distribution_model, uniform_model
from training.subjects.parameter_priors import IN_SCIPY, ParameterPrior

PAIR = torch.tensor([0.5, 2.0])
COVARIANCE = [[1.0, 0.5], [0.5, 2.0]]
BATCHES = {
    distributions.Bernoulli: (PAIR / 3,),
    distributions.Binomial: (7, PAIR / 3),
    distributions.Chi2: (PAIR,),
    distributions.Geometric: (PAIR / 3,),
    distributions.StudentT: (PAIR + 3, -PAIR, PAIR),
    distributions.Uniform: (-PAIR, 2 * PAIR),
}
"""Arguments of a distribution of two parameters, by its class."""
ONE, MANY = {"a": stats.beta(2, 3)}, {"a": stats.uniform(1, 2), "b": stats.norm(3, 2)}


def arguments_of(family):
    if family in BATCHES:
        return BATCHES[family]
    return [PAIR + 1] * len(family.arg_constraints)


@pytest.mark.parametrize("family", IN_SCIPY, ids=lambda family: family.__name__)
def test_a_distribution_of_pytorch_is_the_same_in_scipy(family):
    source = family(*arguments_of(family))
    prior, rng = ParameterPrior.of(source), np.random.default_rng(0)
    points = prior.sample(3000, rng)
    wanted = source.log_prob(torch.from_numpy(points)).sum(dim=1).numpy()
    np.testing.assert_allclose(prior.log_prob(points), wanted, rtol=1e-4, atol=1e-4)
    assert ParameterPrior.of(distributions.Independent(source, 1)).text == prior.text
    draws = source.sample((3000,)).numpy()
    for column, other in zip(points.T, draws.T, strict=True):
        assert stats.ks_2samp(column, other).pvalue > 1e-4


SCIPY = {
    "a product by names": (MANY, lambda x: MANY["a"].cdf(x[:, 0])),
    "two parameters of a family": (stats.gamma([1, 2], scale=3), stats.gamma(1, scale=3).cdf),
    "truncated": (stats.truncnorm(-1, 0.5, loc=2), stats.truncnorm(-1, 0.5, loc=2).cdf),
    "a family itself": (stats.norm, stats.norm.cdf),
    "correlated": (stats.multivariate_normal([0, 1], COVARIANCE), stats.norm.cdf),
    "transformed": (
        distributions.TransformedDistribution(
            distributions.Uniform(torch.zeros(2), torch.ones(2)),
            [distributions.AffineTransform(2.0, -3.0)],
        ),
        stats.uniform(-1, 3).cdf,
    ),
    "a mixture": (
        distributions.MixtureSameFamily(
            distributions.Categorical(torch.ones(2)),
            distributions.Beta(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])),
        ),
        stats.uniform.cdf,
    ),
    "an object": (
        SimpleNamespace(
            sample=lambda shape: torch.randn(*shape, 2),
            log_prob=lambda x: -x.square().sum(dim=1) / 2 - np.log(2 * np.pi),
        ),
        stats.norm.cdf,
    ),
}


@pytest.mark.parametrize("case", SCIPY)
def test_draws_densities_and_bounds_are_of_one_distribution(case):
    source, cdf = SCIPY[case]
    prior = ParameterPrior.of(source)
    points = prior.sample(2000, np.random.default_rng(0))
    assert np.array_equal(points, prior.sample(2000, np.random.default_rng(0)))
    levels = cdf(points if case.startswith("a product") else points[:, 0])
    assert stats.kstest(levels, "uniform").pvalue > 1e-3
    low, high = prior.ends.T
    assert ((points >= low) & (points <= high)).all()
    if np.isfinite(high).any():
        beyond = np.where(np.isfinite(high), high + 1, 0.0)
        assert prior.log_prob(beyond[None])[0] == -np.inf
    # The density integrates to one: weights of a wide normal proposal have this mean.
    wide = stats.norm(points.mean(axis=0), 2 * points.std(axis=0))
    proposed = wide.rvs(size=(40_000, len(prior.names)), random_state=np.random.default_rng(1))
    weights = np.exp(prior.log_prob(proposed) - wide.logpdf(proposed).sum(axis=1))
    assert abs(weights.mean() - 1) < 5 * weights.std() / len(weights) ** 0.5


@pytest.mark.parametrize(
    "source", [stats.norm(1, 2), stats.expon(), stats.poisson(4), stats.uniform(-1, 3)]
)
def test_draws_between_are_those_of_the_prior_that_lie_there(source):
    prior, rng = ParameterPrior.of(source), np.random.default_rng(0)
    for low, high in ((0.5, 2.5), (3.0, 20.0), (-np.inf, 1.5)):
        points = prior.sample(30_000, rng)[:, 0]
        inside = points[(points >= low) & (points <= high)]
        mass, draw = prior.between(np.array([low]), np.array([high]))
        assert abs(mass - len(inside) / len(points)) < 0.015
        if len(inside):
            drawn = draw(len(inside), rng)[:, 0]
            assert stats.ks_2samp(drawn, inside).pvalue > 1e-4
    far = ParameterPrior.of(stats.norm).between(np.array([9.0]), np.array([10.0]))[1](100, rng)
    assert ((far >= 9) & (far <= 10)).all()


def test_a_prior_is_stored_as_plain_values_or_asked_for_again():
    whole = {**MANY, "n": stats.binom(10, 0.3)}
    points = ParameterPrior.of(whole).sample(9, np.random.default_rng(0))
    text = ParameterPrior.of(whole).text
    there = ParameterPrior.from_text(text, "a.npz")
    assert there.names == ["a", "b", "n"]
    assert json.loads(text)[0] == {
        "names": ["a"], "family": "uniform", "parameters": {"loc": 1, "scale": 2}
    }  # fmt: skip
    assert np.array_equal(there.log_prob(points), ParameterPrior.of(whole).log_prob(points))
    normal = ParameterPrior.of(stats.multivariate_normal([0, 1], COVARIANCE))
    again = ParameterPrior.from_text(normal.text, "a.npz")
    assert np.array_equal(again.log_prob(points[:, :2]), normal.log_prob(points[:, :2]))
    mixture = ParameterPrior.of(SCIPY["a mixture"][0]).text
    with pytest.raises(UsageError, match=r"^a\.npz: .*MixtureSameFamily, cannot be .*pass prior="):
        ParameterPrior.from_text(mixture, "a.npz")
    with pytest.raises(UsageError, match=r"a\.npz does not state .*: pass prior="):
        ParameterPrior.from_text(None, "a.npz")


NORM = {"names": ["a"], "family": "norm", "parameters": {"loc": 0}}
NORMALS = {"names": ["a", "b"], "family": "multivariate_normal"}


@pytest.mark.parametrize(
    "stored",
    [
        *("[", 3, [], [3], [{}], "[" * 100_000),
        *([{**NORM, name: 3}] for name in NORM),
        *([{**NORM, "names": names}] for names in ([], ["a", "b"], [1])),
        *([{**NORM, "family": name}] for name in ("ks_2samp", "none", "__doc__", "gamma")),
        *([{**NORM, "parameters": each}] for each in ({"loc": "0"}, {"seed": 1}, {"loc": True})),
        *([{**NORMALS, "parameters": each}] for each in ({}, {"mean": [0, 1], "cov": [["a"]]})),
        [{**NORMALS, "parameters": {"mean": [[0, 1], 3], "cov": COVARIANCE}}],
    ],
    ids=str,
)
def test_a_broken_text_is_a_data_error(stored):
    text = stored if type(stored) is str else json.dumps(stored)
    with pytest.raises(DataError, match=r"a\.npz: .* its prior is broken"):
        ParameterPrior.from_text(text, "a.npz")


@pytest.mark.parametrize(
    ("source", "names", "message"),
    [
        (3, None, "int is no distribution: give a distribution of torch"),
        (stats.norm(0, -1), None, r"norm\(loc=0, scale=-1\) is no distribution"),
        (stats.norm([[0.0]]), None, r"shape \[1, 1\]"),
        (distributions.Normal(torch.zeros(2, 2), 1.0), None, r"shape \[2, 2\]"),
        ({"a": stats.norm([0, 1])}, None, "'a' needs a distribution of one number"),
        (MANY, ["a"], "2 parameter.*a, b.*but a are expected"),
        (MANY, ["a", "c"], "a, c are expected"),
        (stats.norm, ["a", "b"], "1 parameter"),
    ],
)
def test_what_is_no_prior_of_the_parameters_is_refused(source, names, message):
    with pytest.raises(UsageError, match=message):
        ParameterPrior.of(source, names)


def test_names_of_a_product_are_put_in_the_wanted_order():
    prior = ParameterPrior.of(MANY, ["b", "a"])
    assert str(prior) == "b ~ norm(loc=3, scale=2), a ~ uniform(loc=1, scale=2)"
    assert prior.bounds == {"a": (1, 3)}


def test_a_function_only_draws_and_its_bounds_are_stated():
    prior = ParameterPrior.of(lambda count, rng: rng.random((count, 2)), ["a", "b"])
    assert prior.within({"a": (0, 1), "b": (0, 2)}).ends.tolist() == [[0, 1], [0, 2]]
    with pytest.raises(UsageError, match="only draws and has no density"):
        prior.log_prob(np.zeros((1, 2)))
    with pytest.raises(UsageError, match="leave bounds out"):
        ParameterPrior.of(MANY).within({"a": (0, 1)})


@pytest.mark.parametrize(
    "source",
    [
        {"a": stats.gamma(2), "b": stats.uniform(-1, 3)},
        {"a": stats.norm(3, 0.1), "b": stats.cauchy()},
        stats.multivariate_normal([0, 1], COVARIANCE),
    ],
)
def test_a_flow_of_a_prior_has_its_distribution(source):
    prior = ParameterPrior.of(source, ["a", "b"])
    flow = TableFlow.of(distribution_model(prior), {}).flow
    draws = flow.sample(2000, torch.Generator().manual_seed(0))
    others = prior.sample(2000, np.random.default_rng(0))
    for column, other in zip(draws.numpy().T, others.T, strict=True):
        assert stats.ks_2samp(column, other).pvalue > 1e-3
    points = torch.from_numpy(others[:50])
    np.testing.assert_allclose(flow.log_prob(points), prior.log_prob(others[:50]), atol=1e-6)
    latents = flow.encode(points)
    torch.testing.assert_close(flow.decode(latents), points, rtol=1e-6, atol=1e-6)
    # Values in both tails keep their digits, and points have gradients.
    extreme = double([[7.0, -7.0], [-7.0, 7.0], [0.3, 0.0]])
    maps = flow.coordinates.maps[0]
    torch.testing.assert_close(maps(maps.inverse(extreme))[0], extreme, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(maps.inverse, extreme[2:].requires_grad_())


def test_a_uniform_flow_is_that_of_its_bounds_and_other_priors_need_a_flow():
    prior = ParameterPrior.uniform({"a": (-1, 2), "b": (0, 3)})
    flows = (distribution_model(prior), uniform_model(["a", "b"], double(prior.ends.tolist())))
    one, other = (TableFlow.of(flow, {}).flow for flow in flows)
    points = torch.from_numpy(prior.sample(20, np.random.default_rng(0)))
    torch.testing.assert_close(one.log_prob(points), other.log_prob(points))
    for source in ({"n": stats.poisson(3)}, SCIPY["a mixture"][0]):
        with pytest.raises(UsageError, match=r"train a flow of draws"):
            distribution_model(ParameterPrior.of(source))
