"""Toys: the exact distributions against their definitions, samples and other libraries."""

from dataclasses import replace
from itertools import islice
from math import pi

import numpy as np
import pytest
import torch
from sklearn.datasets import make_circles, make_moons, make_s_curve, make_swiss_roll

from dnnlib.errors import UsageError
from tests.support.draws import normal, seeded
from tests.support.flows import exact_flow, law_distance, noisy_points
from tests.support.running import refusal
from training.data import toys
from training.data.batches import ToyBatches
from training.data.toys import LARGEST_MISMATCH, UNSCALED, Toy
from training.flow.denoisers import MixtureDenoiser
from training.names import TOY_NAMES

COUNT, LIKELY = 5000, 2000

every_toy = pytest.mark.parametrize("name", TOY_NAMES)


def circles(noise=0.08):
    return make_circles(2 * COUNT, factor=0.5, noise=noise, random_state=0)[0]


def sine(low, height, noise):
    random = np.random.default_rng(0)
    x = random.uniform(low, 1, 2 * COUNT)
    y = height * np.sin(4 * pi * x) + noise * random.normal(size=2 * COUNT)
    return np.stack([x, y], axis=1)


DEFINITIONS = {
    "circles": circles,
    "sine1": lambda: sine(0, 1, 0.8),
    "sine2": lambda: sine(-1, 0.25, 0.15),
    "moons": lambda: make_moons(2 * COUNT, noise=0.08, random_state=0)[0],
    "s_curve": lambda: make_s_curve(2 * COUNT, noise=0.2, random_state=0)[0],
    "swirl": lambda: make_swiss_roll(2 * COUNT, noise=1.25, random_state=0)[0],
}


def standardized(toy, points):
    return (torch.from_numpy(points) - toy._mean) / toy._std


@every_toy
def test_moments_are_those_of_samples_and_of_a_standardized_distribution(name):
    for augment_to in (0, 7):
        toy = Toy(name, augment_to)
        mean, covariance = toy.moments()
        points = toy.sample(20_000, seeded(2)) - mean
        products = points[:, :, None] * points[:, None, :]
        error = products.flatten(1).std(0).view_as(covariance) / len(points) ** 0.5
        assert ((products.mean(0) - covariance).abs() <= 4.5 * error + 1e-12).all()
        errors = points.std(0) / len(points) ** 0.5
        assert (points.mean(0).abs() <= 4.5 * errors + 1e-12).all()
    if name.startswith(UNSCALED):
        return
    mean, covariance = Toy(name).moments()
    expected = torch.ones(len(mean), dtype=torch.float64)
    if name.startswith("alt_"):
        expected[1] = 0.25  # the thickness has standard deviation 0.5
    assert mean.abs().max() < 1e-12
    torch.testing.assert_close(covariance.diagonal(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["alt_s_curve", "alt_swirl"])
def test_an_unscaled_toy_is_the_toy_before_it_is_standardized(name):
    curve = Toy(name.removeprefix("alt_"))
    mean, covariance = Toy(UNSCALED + name).moments()
    # The third dimension is noisy in both, and the second of another law.
    torch.testing.assert_close(mean[[0, 2]], curve._mean[[0, 2]])
    torch.testing.assert_close(covariance.diagonal()[[0, 2]].sqrt(), curve._std[[0, 2]])
    assert (mean[1], covariance[1, 1]) == (0, pytest.approx(0.25))
    standardized = Toy(name).sample(50, seeded(1))
    std = covariance.diagonal().sqrt() / torch.tensor([1, 0.5, 1])
    unscaled = Toy(UNSCALED + name).sample(50, seeded(1))
    torch.testing.assert_close(unscaled, mean + std * standardized)


@pytest.mark.parametrize("augment_to", [0, 7])
def test_moments_of_other_data_are_told_from_those_of_samples(augment_to):
    for name in TOY_NAMES:
        toy = Toy(name, augment_to)
        points = toy.sample(1000, seeded(4))
        own = points.mean(0), points.T.cov(correction=0)
        assert toy.mismatch(*own) < 0.15 < LARGEST_MISMATCH
        # Moments about another point.
        assert toy.mismatch(own[0] + 1, own[1] + torch.ones_like(own[1])) < 0.15
        for factor in (0.6, 1.4):
            assert toy.mismatch(own[0], factor * own[1]) > LARGEST_MISMATCH
        assert toy.mismatch(own[0] + 3 * points.std(), own[1]) > LARGEST_MISMATCH


def surprise(toy, points):
    """By how many standard errors the mean log density of points differs from that of the toy."""
    _, flow = exact_flow(toy.name)
    samples, now = (toy.sample(len(points), seeded(3)), points), torch.tensor(0.0)
    own, others = (flow.denoiser.log_density(flow.basis.to_eigen(each), now) for each in samples)
    error = (own.var() + others.var()).sqrt() / len(points) ** 0.5
    return float((own.mean() - others.mean()).abs() / error)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_samples_have_the_law_of_the_definition(name):
    toy = Toy(name)
    expected = standardized(toy, DEFINITIONS[name]())
    assert law_distance(toy.sample(COUNT, seeded(3)), expected) < 2.4
    assert surprise(toy, expected[:LIKELY]) < 4
    if name == "circles":  # a wrong amount of noise is less likely
        assert surprise(toy, standardized(toy, circles(noise=0.11))[:LIKELY]) > 6


@pytest.mark.parametrize("name", ["s_curve", "swirl"])
def test_alternatives_differ_in_their_thickness_alone(name):
    plain, other = Toy(name).sample(COUNT, seeded(4)), Toy(f"alt_{name}").sample(COUNT, seeded(5))
    gaussian = 0.5 * normal(COUNT, 1, seed=6)
    assert law_distance(other[:, [0, 2]], plain[:, [0, 2]]) < 2.4
    assert law_distance(other[:, 1:2], gaussian) < 2.4
    # Independence: the joint law is that of the parts, one of them shuffled.
    shuffled = torch.stack([other[:, 0], other[:, 1].roll(1), other[:, 2]], dim=1)
    assert law_distance(Toy(f"alt_{name}").sample(COUNT, seeded(7)), shuffled) < 2.4


@every_toy
def test_the_mixture_has_the_law_of_the_samples(name):
    toy = Toy(name)
    mixture, generator = toy.mixture, seeded(8)
    chosen = mixture.weights.multinomial(COUNT, replacement=True, generator=generator)
    noise = normal(COUNT, toy.dim, generator=generator)
    points = mixture.means[chosen] + noise @ mixture.covariance.sqrt()
    assert mixture.weights.sum() == pytest.approx(1, abs=1e-12)
    assert law_distance(points, toy.sample(COUNT, seeded(9))) < 2.4


@every_toy
def test_twice_the_nodes_change_nothing(name, monkeypatch):
    toy, flow = exact_flow(name)
    start = torch.tensor(0.0)
    x = noisy_points(toy, flow, 30, start, seeded(0))
    recipe = toys._RECIPES[name]
    finer = replace(recipe, nodes=tuple(2 * count for count in recipe.nodes))
    monkeypatch.setitem(toys._RECIPES, name, finer)
    fine = Toy(name)
    finer_denoiser = MixtureDenoiser(*fine.mixture, basis=flow.basis, schedule=flow.schedule)
    assert len(fine.mixture.weights) > len(toy.mixture.weights)
    for kind in ("forward", "log_density"):
        got, finer = (getattr(each, kind)(x, start) for each in (flow.denoiser, finer_denoiser))
        torch.testing.assert_close(got, finer, rtol=0, atol=1e-7)


def test_an_embedded_toy_is_the_toy_in_a_fixed_subspace():
    plain, embedded = Toy("s_curve"), Toy("s_curve", 8)
    points, embedding = embedded.sample(50, seeded(0)), embedded.mixture.embedding
    assert torch.equal(Toy("s_curve", 8).mixture.embedding, embedding)
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(embedding.T @ embedding, identity, rtol=0, atol=1e-14)
    torch.testing.assert_close(points @ embedding, plain.sample(50, seeded(0)))
    torch.testing.assert_close(points @ embedding @ embedding.T, points)
    for augment_to in (0, 3):
        own = Toy("s_curve", augment_to)
        assert own.dim == 3
        assert torch.equal(own.mixture.embedding, identity)
        assert torch.equal(own.sample(9, seeded(0)), plain.sample(9, seeded(0)))


def test_toys_that_do_not_exist_or_do_not_fit_are_usage_errors():
    with pytest.raises(UsageError, match=r"'spiral'.*circles, sine1"):
        Toy("spiral")
    for name, augment_to in (("circles", 1), ("swirl", 2), ("moons", -1)):
        assert "at least" in refusal(Toy, name, augment_to, kind=UsageError)


def stream(name, batch, seed, first_step, **options):
    """Batches up to the sixth."""
    source = ToyBatches(Toy(name), batch, seed, torch.device("cpu"), **options)
    return list(islice(source.batches(first_step), 6 - first_step))


def test_batches_follow_from_seed_and_step():
    whole = stream("circles", 6, 0, 0)
    assert (whole[0].points.shape, whole[0].labels) == ((6, 2), None)
    for step in (1, 3):
        for one, other in zip(whole[step:], stream("circles", 6, 0, step), strict=True):
            assert torch.equal(one.points, other.points)
    for other in (whole[1], stream("circles", 6, 1, 0)[0]):
        assert not torch.equal(whole[0].points, other.points)


def test_pairs_have_further_points_for_a_few():
    paired = {"others": 2 * 8 * 5, "antithetic": True}
    batches = stream("moons", 5, 0, 0, **paired)
    for batch in batches:
        assert torch.equal(batch.points[0:4:2], batch.points[1::2])
        assert len(batch.points.unique(dim=0)) == 3
    first, again, second, *_ = others = [batch.others for batch in batches]
    assert first is again
    assert len(torch.cat([first, second]).unique(dim=0)) == 160
    later = [batch.others for batch in stream("moons", 5, 0, 1, **paired)]
    assert all(map(torch.equal, later, others[1:]))
