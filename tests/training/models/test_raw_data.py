"""Tests of raw data as conditions of a posterior, from simulations to draws."""

from functools import cache
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from dnnlib.errors import DataError, UsageError
from tests.support.running import in_coordinates, quick_endings
from training import Model, Simulations, Table
from training.files.posterior_draws import load_netcdf

RNG = np.random.default_rng(0)
THETA = RNG.uniform(-1, 1, (60, 2))
QUICK = {"seed": 0, "duration": 0.002, "width": 8, "bounded": "map"}
DATA = {
    "series": RNG.normal(size=(60, 12)),
    "images": RNG.normal(size=(60, 8, 8)),
    "sets": [RNG.normal(size=(n, 1)) for n in RNG.integers(1, 6, 60)],
    "arrays": RNG.normal(size=(60, 2, 3)),
}
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))


def simulations(data_as, **choices):
    bounds = {"theta1": (-1.0, 1.0), "theta2": (-1.0, 1.0)}
    return Simulations(THETA, DATA[data_as], bounds=bounds, seed=0, data_as=data_as, **choices)


@cache
def trained(data_as):
    own = {"embedding": NETWORK} if data_as == "arrays" else {}
    with quick_endings(), in_coordinates(linear_start="on"):
        return simulations(data_as).train(**QUICK, **own)


@pytest.mark.parametrize("data_as", DATA)
def test_posteriors_of_raw_data_have_draws_densities_and_gradients(data_as):
    posterior, data = trained(data_as).posterior(), DATA[data_as]
    points = posterior.sample(data[:2], draws=4, seed=0).points
    assert (np.abs(points) <= 1).all()
    np.testing.assert_array_equal(posterior.sample(data[0], draws=4, seed=0).points, points[:1])
    one = posterior.log_prob(THETA[:2], data[0])
    assert posterior.log_prob(THETA[:2], data[:2])[0] == one[0]
    observed = torch.tensor(data[0], requires_grad=True)
    log_prob = posterior.density(observed).log_prob(torch.from_numpy(THETA[:1]))
    np.testing.assert_allclose(log_prob.detach(), one[:1], rtol=1e-5)
    log_prob.sum().backward()
    step = 1e-2 * RNG.normal(size=observed.shape)
    ends = [posterior.log_prob(THETA[:1], data[0] + sign * step)[0] for sign in (1, -1)]
    assert (observed.grad.numpy() * step).sum() * 2 == pytest.approx(ends[0] - ends[1], rel=0.05)


def test_models_of_raw_data_are_equal_from_files_and_after_an_interruption(tmp_path):
    simulations("sets").save(tmp_path / "sets.npz")
    table, model = Table.open(tmp_path / "sets.npz"), trained("sets")
    states = mock.patch("training.learning.run_folder.STATES", 9)
    with quick_endings(), states, in_coordinates(linear_start="on"):
        whole = table.train(tmp_path / "run", **QUICK, tick=1, dump=1)
        states = sorted(tmp_path.glob("run/*/training-state-*"))
        assert len(states) > 1
        resumed = table.train(resume=states[0])
    model.save(tmp_path / "model.pkl")
    for each in (whole, resumed, Model.load(tmp_path / "model.pkl")):
        assert each.digest() == model.digest()
    model.posterior().sample(DATA["sets"][:3], draws=4).save(tmp_path / "draws.nc")
    seen = load_netcdf(tmp_path / "draws.nc", 3).observed
    assert [int(np.isfinite(row).sum()) for row in seen] == [len(row) for row in DATA["sets"][:3]]


def test_a_network_of_the_user_is_needed_to_open_its_model(tmp_path):
    model, path = trained("arrays"), tmp_path / "model.pkl"
    model.save(path)
    for other in (None, nn.Flatten()):
        with pytest.raises(DataError, match=r"Sequential: .*Model\.load\(path, embedding="):
            Model.load(path, embedding=other)
    with pytest.raises(DataError, match="do not match its architecture"):
        Model.load(path, embedding=nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.Linear(3, 3)))
    opened, observed = Model.load(path, embedding=NETWORK), DATA["arrays"][0]
    expected = model.posterior().log_prob(THETA[:3], observed)
    np.testing.assert_array_equal(opened.posterior().log_prob(THETA[:3], observed), expected)


@pytest.mark.parametrize(
    ("data_as", "options", "message"),
    [
        ("series", {"likelihood": True}, r"has series \[12, 1\] as conditions: leave likelihood"),
        ("images", {"any": True}, "leave any out"),
        ("series", {"embedding": NETWORK}, "or make the simulations with data_as='arrays'"),
        ("arrays", {}, "give their network, embedding="),
        ("arrays", {"embedding": nn.Linear(4, 2)}, r"Linear fails for data of shape \[2, 2, 3\]"),
        ("arrays", {"embedding": nn.Linear(3, 2)}, r"returns shape \[2, 2, 2\] for"),
    ],
)
def test_options_that_do_not_fit_raw_data_are_refused(data_as, options, message):
    with pytest.raises(UsageError, match=message):
        simulations(data_as).train(**options)


def test_raw_data_need_their_kind_and_failed_simulations_can_be_dropped():
    with pytest.raises(DataError, match="give data_as='series' or 'images' or 'sets'"):
        Simulations(THETA, DATA["sets"])
    with pytest.raises(UsageError, match="leave dataset and covariates out"):
        simulations("sets", dataset=np.zeros(60))
    failed = DATA["series"].copy()
    failed[3] = np.nan
    with pytest.raises(DataError, match="raw data"):
        Simulations(THETA, failed, data_as="series")
    left = Simulations(THETA, failed, data_as="series", missing="drop")
    assert (len(left), str(left.rows.raw)) == (59, "series [12, 1]")
