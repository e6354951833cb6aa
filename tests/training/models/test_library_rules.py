"""Public calls write no files unless they are given a path."""

import os
import re
import sys

import numpy as np
import pandas
import pytest

from training import Records, Simulations, Table, Toy, normal_prior, rounds
from training.models.guarantees import Guarantee

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGING = ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "tempfile.mkdtemp")
OTHERS = re.compile("__pycache__|torchinductor")
"""Folders that Python and PyTorch fill themselves."""
BRIEF = {"duration": 0.001, "seed": 0}


class Watch:
    """Audit hook that lists changes of the file system while it is on; hooks cannot be removed."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if not self.on:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            name = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
            if not (name.startswith("/dev/") or OTHERS.search(name)):
                self.seen.append(name)
        elif event in CHANGING and not OTHERS.search(str(arguments[0])):
            self.seen.append(f"{event} {arguments[0]}")


@pytest.fixture(scope="module")
def hook():
    return Watch()


@pytest.fixture
def watch(hook):
    hook.on, hook.seen = True, []
    yield hook
    hook.on = False
    assert not hook.seen


def random_rows(count, dim=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim))


def test_the_watch_sees_files(hook, tmp_path):
    hook.on, hook.seen = True, []
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    hook.on = False
    assert len(hook.seen) == 2


def test_rows_and_toys_are_modeled_in_memory(watch):
    frame = pandas.DataFrame(random_rows(60), columns=["size", "price"])
    model = Table.open(frame).train(**BRIEF)
    rows = model.sample(5)
    model.log_prob(rows)
    model.decode(model.encode(rows))
    posterior = model.posterior(noise_std=0.5, pool=200)
    draws = posterior.sample({"price": 0.3}, draws=20, chains=2)
    draws.summary()
    posterior.latent_density({"price": 0.3})
    posterior.check(runs=50, draws=10, sampler="pool")
    Toy("circles").train(**BRIEF).sample(3)


def test_simulations_are_modeled_in_memory(watch):
    theta = np.random.default_rng(0).uniform(-1, 1, size=(120, 2))
    bounds = {"theta1": (-1, 1), "theta2": (-1, 1)}
    simulations = Simulations(theta, theta + 0.1 * random_rows(120), bounds=bounds)
    model = simulations.train(**BRIEF)
    model.sample(5, given=[[0.1, 0.2]])
    model.posterior().log_prob(theta[:3], simulations.rows.conditions[:3])
    fresh = Simulations(theta + 1e-3, theta, held_out=0)
    model.check(fresh, runs=50)
    Guarantee.calibrate(model, fresh, runs=60)
    rounds(
        lambda theta, draw: theta + 0.1 * draw.normal(size=theta.shape),
        [[0.2, 0.1]],
        bounds={"p": (-1, 1), "q": (-1, 1)},
        simulations=200,
        rounds=2,
        draws=20,
        duration=0.001,
    )


def test_trials_and_populations_are_modeled_in_memory(watch):
    theta = np.repeat(np.random.default_rng(0).uniform(-1, 1, size=(60, 1)), 3, axis=0)
    ids = np.repeat(np.arange(60), 3)
    data = theta + 0.3 * random_rows(180, 1)
    model = Simulations(theta, data, bounds={"theta1": (-1, 1)}, dataset=ids).train(
        likelihood=True, **BRIEF
    )
    seen = pandas.DataFrame({"y1": data[:12, 0], "dataset": ids[:12]})
    posterior = model.posterior(prior="uniform", pool=200)
    draws = posterior.sample(seen, draws=20, chains=2)
    prior = normal_prior(["theta1"], [0.0], [0.5], {"theta1": (-1, 1)})
    posterior.compare([model.posterior(prior=prior)], seen, pool=200, draws=20)
    draws.population(steps=100)


def test_records_are_modeled_in_memory(watch):
    frame = pandas.DataFrame({"a": random_rows(60)[:, 0], "b": ["x", "y"] * 30})
    frame.loc[::5, "a"] = np.nan
    answers = Records.open(frame).train(**BRIEF)
    answers.fill(frame[:5])
    answers.predict(frame[:5], ["b"])
    answers.score(frame[:2])
    answers.sample(3, {"b": "x"})
