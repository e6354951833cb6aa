"""The library: results of one family, warnings as data, messages that name arguments of Python."""

import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats

import inflationary_flows
from dnnlib.errors import InflationError, UsageError
from dnnlib.warned import InflationWarning
from tests.support.running import quick_endings
from training import (
    Answers,
    Images,
    Model,
    PosteriorDraws,
    Simulations,
    Table,
    calibrate,
    check,
    rounds,
    simulate,
)
from training.flow.coordinates.conditions import Surprise

FEW = {"duration": 0.0004, "batch": 100, "width": 8, "depth": 1}
PRIOR = {"a": stats.uniform(-1, 2), "b": stats.uniform(-1, 2)}


def simulator(theta, draw):
    return theta.numpy() + 0.2 * draw.normal(size=theta.shape)


@pytest.fixture(scope="module")
def model():
    with quick_endings():
        return simulate(simulator, PRIOR, 200, block=100).train(**FEW)


@pytest.fixture(scope="module")
def flow():
    rows = np.random.default_rng(0).normal(size=(200, 2))
    with quick_endings():
        return Table.open(rows).train(**FEW)


@pytest.fixture(scope="module")
def likelihood():
    draw, dataset = np.random.default_rng(0), np.repeat(np.arange(80), 4)
    theta = draw.uniform(-1, 1, 80)[dataset]
    runs = Simulations(theta, theta + draw.normal(0, 0.5, 320), {"theta1": (-1, 1)}, dataset)
    with quick_endings():
        return runs.train(likelihood=True, **FEW).posterior(prior="uniform")


def test_only_public_names_are_listed():
    names = dir(inflationary_flows)
    assert {"Any", "TYPE_CHECKING", "training", "import_module"}.isdisjoint(names)
    assert all(getattr(inflationary_flows, name) is not None for name in names)


def test_draws_are_a_total_and_only_chains_have_a_dimension(model, flow):
    drawn = model.posterior().sample([[0.3, -0.2], [0.1, 0.4]], draws=51)
    assert drawn.points.shape == (2, 51, 2)
    assert "chain" not in drawn.dataset.sizes
    assert drawn.to_arviz().posterior.sizes["chain"] == 1
    pooled = flow.posterior(noise_std=0.5, sampler="pool").sample([[0.3, -0.2]], draws=40)
    assert (pooled.points.shape, "chain" in pooled.dataset.sizes) == ((1, 40, 2), False)
    chains = flow.posterior(noise_std=0.5, sampler="annealed").sample([[0.3, -0.2]], draws=40)
    assert chains.points.shape == (1, 40, 2)
    assert dict(chains.dataset.sizes) | {"chain": 4, "draw": 10} == dict(chains.dataset.sizes)


@pytest.fixture(scope="module")
def results(model, likelihood):
    trials = {"dataset": [1, 1, 2, 3, 4], "y1": [0.3, 0.1, 0.5, -0.1, 0.2]}
    drawn = likelihood.sample(trials, draws=400)
    return {
        "posterior": model.posterior().sample([0.3, -0.2], draws=40),
        "population": drawn.population(n_draws=400),
        "evidence": likelihood.evidence(trials, draws=400),
    }


@pytest.mark.parametrize("name", ["posterior", "population", "evidence"])
def test_results_have_the_same_five_methods(results, name, tmp_path):
    result = results[name]
    assert len(result.summary()) > 0
    assert all(isinstance(each, InflationWarning) for each in result.warnings)
    assert result.plot().axes
    path = tmp_path / f"result{({'posterior': '.nc', 'population': '.npz'}).get(name, '.json')}"
    result.save(path)
    assert path.exists()
    assert result.to_arviz().groups()
    assert "<table" in result._repr_html_()
    with pytest.raises(UsageError, match="ends in"):
        result.save(tmp_path / "result.txt")


def test_populations_have_a_frame_and_members(results):
    population = results["population"]
    frame = population.summary()
    assert frame["quantity"].tolist() == [
        "population mean",
        "population standard deviation",
        "new member",
    ]
    assert {"parameter", "mean", "std", "q0.05", "q0.95", "ess", "converged"} <= set(frame)
    assert population.members.shape == (4, 400, 1)
    np.testing.assert_allclose(frame["mean"][0], population.arrays.mean.mean())


def test_the_evidence_of_one_model_needs_no_other(results):
    evidence = results["evidence"]
    assert evidence.log_evidence.shape == (4, 1)
    assert (evidence.probability == 1).all()
    listed = [each["log_evidence"] for each in evidence.facts["observations"]]
    assert [*evidence.log_evidence[:, 0]] == [next(iter(each.values())) for each in listed]


def test_warnings_are_data_and_issued_once(model):
    with (
        mock.patch.object(Surprise, "limit", -100.0),
        warnings.catch_warnings(record=True) as issued,
    ):
        warnings.simplefilter("always")
        draws = model.posterior().sample([[0.0, 0.0], [0.5, -0.5]], draws=40)
    unlike = [each for each in draws.warnings if each.code == "out-of-distribution"]
    assert [each.numbers["observation"] for each in unlike] == [1, 2]
    assert all(each.numbers["surprise"] > each.numbers["limit"] == -100 for each in unlike)
    (missed,) = [each for each in draws.warnings if each.code == "not-converged"]
    assert missed.numbers == {"observations": [1, 2]}
    assert [str(each.message) for each in issued] == [each.text for each in draws.warnings]
    assert not any("--" in each.text for each in draws.warnings)


def test_no_message_of_a_call_names_an_option_of_the_command_line(
    model, flow, likelihood, tmp_path
):
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(b"nothing")
    posterior, rows = model.posterior(), np.zeros((30, 2))
    calls = [
        lambda: likelihood.compare([], None),
        lambda: likelihood.compare([posterior], [[0.1]]),
        lambda: likelihood.sample([[0.1]], mask="y1"),
        lambda: likelihood.sample([[0.1]], correct="a"),
        lambda: posterior.sample(),
        lambda: posterior.sample([0, 0], sampler="hmc"),
        lambda: posterior.sample([0, 0], noise_std=1),
        lambda: posterior.sample([0, 0], refuse=0.1),
        lambda: posterior.sample([0, 0], refuse=0.1, held_out=False),
        lambda: posterior.sample([0, 0], correct="none.py"),
        lambda: posterior.sample([0, 0], draws=-1),
        lambda: posterior.check(rows),
        lambda: posterior.check(),
        lambda: posterior.latent_density([0, 0]),
        lambda: posterior.evidence([0, 0]),
        lambda: posterior.sample([0, 0], draws=40).population(),
        lambda: flow.posterior(mask="x1").sample([[0.1]]),
        lambda: flow.posterior(noise_std=1, mask="x9").sample([[0.1]]),
        lambda: flow.posterior(noise_std=1, likelihood="poisson").sample([[0.1, 0.2]]),
        lambda: flow.posterior(noise_std=1, prior="uniform").sample([[0.1, 0.2]]),
        lambda: flow.posterior(noise_std=1).sample([[0.1, 0.2]], minutes=1, particles=3),
        lambda: flow.posterior(noise_std=1).log_prob([[0.1, 0.2]]),
        lambda: flow.sample(3, given=[1]),
        lambda: flow.log_prob([[1]]),
        lambda: flow.encode([[1]]),
        lambda: flow.check(rows, noise_std=1, runs=99),
        lambda: model.sample(3),
        lambda: Table.open(rows).train(likelihood=True),
        lambda: Table.open(rows).train(cond=True),
        lambda: Table.open(rows).train(cond=True, likelihood=True),
        lambda: Table.open(rows).train(minutes=1, duration=1),
        lambda: Table.open(np.random.default_rng(0).normal(size=(30, 2))).train(xflip=True),
        lambda: Table.open(tmp_path / "none.csv"),
        lambda: Images(np.zeros((3, 2))),
        lambda: Model.load(broken),
        lambda: Answers.load(broken),
        lambda: PosteriorDraws.load(tmp_path / "none.nc", model),
        lambda: rounds(simulator, [[0.0, 0.0], [1.0, 1.0]], {"a": (-1, 1)}),
        lambda: rounds(simulator, [0.0, 0.0], None),
        lambda: rounds(simulator, [0.0, 0.0], {"a": (-1, 1)}, simulations=60),
        lambda: simulate(simulator, PRIOR, 10, path=tmp_path / "a.npz"),
        lambda: check(posterior, rows[:3], rows[:3]),
        lambda: calibrate(posterior, rows[:3], rows[:3]),
    ]
    told = []
    for call in calls:
        with pytest.raises(InflationError) as raised:
            call()
        told.append(str(raised.value))
    assert not [text for text in told if "--" in text]


def test_simulations_train_as_they_are(model):
    def failing(theta, draw):
        if theta[0, 0] > 0.8:
            raise ValueError("too large")
        return simulator(theta, draw)

    runs = simulate(failing, PRIOR, 60)
    assert 0 < len(runs.failures) < 30
    data = runs.simulations(held_out=0)
    assert len(data) == 60 - len(runs.failures)
    assert model.columns == ["a", "b"]
    assert torch.isfinite(torch.from_numpy(model.log_prob([[0.1, 0.2]], given=[0.1, 0.1]))).all()
