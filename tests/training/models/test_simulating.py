"""Simulations: one result on any number of processes, failures, files that are continued."""

import pickle
import threading
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pytest
from scipy import stats

from dnnlib.errors import DataError, UsageError
from dnnlib.warned import InflationWarning
from training import simulate
from training.files.simulator_runs import SimulatorRuns
from training.models import simulating

PRIOR = {"a": stats.uniform(0, 1), "b": stats.norm}
COUNT = 40


def scaled(theta, rng, by=1.0):
    return by * np.asarray(theta) + rng.normal(size=theta.shape)


class Machine:
    def run(self, theta, rng):
        return scaled(theta, rng)


def failing(theta, rng):
    if theta[0, 0] > 0.8:
        raise ValueError("a is too large")
    return scaled(theta, rng)


def test_results_do_not_depend_on_processes_nor_on_their_order():
    class Late:
        """The first calls end last."""

        left, lock = COUNT, threading.Lock()

        def __call__(self, theta, rng):
            with self.lock:
                Late.left -= 1
                wait = max(0, Late.left - COUNT + 8) / 200
            threading.Event().wait(wait)
            return scaled(theta, rng)

    alone = simulate(scaled, PRIOR, COUNT, seed=3)
    with joblib.parallel_config(backend="threading"):
        several = simulate(Late(), PRIOR, COUNT, workers=4, seed=3)
    assert alone.parameters.equals(several.parameters)
    assert alone.data.equals(several.data)
    assert list(alone.parameters) == ["a", "b"]
    assert not alone.data.equals(simulate(scaled, PRIOR, COUNT, seed=4).data)
    # Each simulation has its own numbers.
    noise = alone.data.to_numpy() - alone.parameters.to_numpy()
    assert len(np.unique(noise)) == noise.size
    # A vectorized simulator has a generator per call; the number of processes changes nothing.
    with joblib.parallel_config(backend="threading"):
        blocks = [simulate(scaled, PRIOR, COUNT, n, seed=3, block=16).data for n in (1, 3)]
    assert blocks[0].equals(blocks[1])
    assert not blocks[0].equals(alone.data)


def elsewhere(simulator):
    """The simulator as another process gets it."""
    return pickle.loads(pickle.dumps(joblib.wrap_non_picklable_objects(simulator)))


def test_any_callable_goes_to_other_processes_and_names_do_not_matter():
    def closure(by):
        return lambda theta, rng: scaled(theta, rng, by)

    typed = eval("lambda theta, rng: theta.numpy()")
    wanted = simulate(scaled, PRIOR, 8).data
    for simulator in (closure(1.0), partial(scaled, by=1.0), Machine().run):
        assert simulate(elsewhere(simulator), PRIOR, 8).data.equals(wanted)
    assert not simulate(closure(2.0), PRIOR, 8).data.equals(wanted)
    same = simulate(elsewhere(typed), PRIOR, 8)
    assert np.array_equal(same.data, same.parameters)


def test_failures_are_missing_rows_with_their_messages():
    with pytest.warns(InflationWarning) as issued:
        runs = simulate(failing, PRIOR, COUNT)
    bad = np.flatnonzero(runs.parameters["a"] > 0.8)
    assert 0 < len(bad) < COUNT
    assert list(runs.failures) == bad.tolist()
    assert np.array_equal(runs.data.isna().all(axis=1), runs.parameters["a"] > 0.8)
    message = runs.failures[bad[0]]
    assert message.startswith("ValueError: a is too large (test_simulating.py, line ")
    assert f"{len(bad)} of {COUNT} simulations raised an exception" in str(issued[0].message)
    with pytest.raises(DataError, match=r"all 9 simulations failed: NameError: .*nothing"):
        simulate(lambda theta, rng: nothing, PRIOR, 9)  # noqa: F821


@pytest.mark.parametrize(
    ("simulator", "block", "shape"),
    [
        (lambda theta, rng: np.zeros(3), 1, (5, 3)),
        (lambda theta, rng: 0.0, 1, (5, 1)),
        (lambda theta, rng: theta[:, 0], 2, (5, 1)),
        (lambda theta, rng: theta, 9, (5, 2)),
        (lambda theta, rng: theta.T, 5, None),
        (lambda theta, rng: theta[:1], 5, None),
        (lambda theta, rng: np.zeros((1, 1 + (theta[0, 1] > 0))), 1, None),
    ],
)
def test_data_are_rows_of_one_width(simulator, block, shape):
    if shape is not None:
        assert simulate(simulator, PRIOR, 5, block=block).data.shape == shape
        return
    with pytest.raises(DataError, match="the function must return data"):
        simulate(simulator, PRIOR, 5, block=block)


def test_an_interrupted_run_goes_on_where_it_was_and_only_with_its_own_token(tmp_path):
    path, calls = tmp_path / "deep" / "runs.npz", []

    def counted(theta, rng, most):
        if len(calls) == most:
            raise KeyboardInterrupt
        calls.append(1)
        return failing(theta, rng)

    again = {"path": path, "token": "v1"}
    with pytest.raises(KeyboardInterrupt):
        simulate(partial(counted, most=25), PRIOR, COUNT, **again)
    assert SimulatorRuns.load(path).done.sum() == 25
    runs = simulate(partial(counted, most=99), PRIOR, COUNT, **again)
    assert len(calls) == COUNT
    whole = simulate(failing, PRIOR, COUNT)
    assert runs.data.equals(whole.data)
    assert list(runs.failures) == list(whole.failures)
    assert simulate(partial(counted, most=0), PRIOR, COUNT, **again).data.equals(whole.data)
    others = ({"token": "v2"}, {"seed": 1}, {"block": 2}, {"count": 9}, {"prior": stats.norm})
    for other in others:
        given = {"prior": PRIOR, "count": COUNT, **again, **other}
        with pytest.raises(UsageError, match=r"runs\.npz has simulations of another simulator"):
            simulate(partial(failing), **given)
    with pytest.raises(UsageError, match="give token= too"):
        simulate(failing, PRIOR, COUNT, path=path)


def test_a_long_run_is_written_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(simulating, "SAVE_EVERY", 0.0)
    path, seen = tmp_path / "runs.npz", []

    def looking(theta, rng):
        seen.append(Path(path).exists() and SimulatorRuns.load(path).done.sum())
        return theta

    simulate(looking, PRIOR, 4, path=path, token="v1")
    assert seen[:2] == [False, 1]
