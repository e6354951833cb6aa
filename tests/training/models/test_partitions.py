"""Models in other processes: their pickles, and queries about partitions of a table."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

from training import Answers, Model, Simulations, Table

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "howto" / "many-rows.md"
QUERIES = {
    "fill": Answers.fill,
    "predict": lambda answers, rows: answers.predict(rows, ["price"]),
    "score": Answers.score,
}


@pytest.fixture(scope="module")
def houses():
    draw = np.random.default_rng(0)
    rooms = draw.integers(1, 7, 150)
    garden = np.where(draw.random(150) < rooms / 8, "yes", "no")
    frame = pandas.DataFrame({"rooms": rooms, "garden": garden, "size": draw.normal(size=150)})
    frame["price"] = (90 * rooms + draw.normal(0, 40, 150)).round(1)
    frame.loc[::7, "garden"] = None
    frame.loc[::5, "price"] = np.nan
    return frame


@pytest.fixture(scope="module")
def answers(houses):
    return Table.open(houses).train(seed=0, duration=0.002)


@pytest.mark.parametrize("query", QUERIES)
def test_a_pickled_copy_answers_partitions_like_the_whole_table(answers, houses, query):
    asked = QUERIES[query]
    whole = asked(answers, houses)
    copied = pickle.loads(pickle.dumps(answers))
    pandas.testing.assert_frame_equal(asked(copied, houses), whole, check_exact=True)
    parts = pandas.concat([asked(copied, houses.iloc[at : at + 40]) for at in range(0, 150, 40)])
    missing = [name for name in ("row", "log_prob_error") if name in whole]  # the error is rounded
    parts, whole = parts.drop(columns=missing), whole.drop(columns=missing)
    pandas.testing.assert_frame_equal(parts, whole, rtol=1e-10, atol=1e-10, check_dtype=False)
    assert len(asked(copied, houses.head(0))) == 0


def test_a_pickled_conditional_model_draws_and_has_densities_like_the_original():
    draw = np.random.default_rng(0)
    theta = draw.normal(size=(100, 2))
    data = theta + draw.normal(size=(100, 2))
    model = Simulations(theta, data).train(duration=0.0005, seed=0)
    copied = pickle.loads(pickle.dumps(model))
    assert type(copied) is Model
    wanted = model.sample(20, given=data), model.log_prob(theta, given=data)
    again = pickle.loads(pickle.dumps(model))  # after use
    for other in (copied, again):
        np.testing.assert_array_equal(other.sample(20, given=data), wanted[0])
        np.testing.assert_array_equal(other.log_prob(theta, given=data), wanted[1])


@pytest.mark.slow
def test_the_example_with_a_cluster_of_dask_answers_like_one_process(answers, houses, tmp_path):
    pytest.importorskip("dask.distributed")
    answers.save(tmp_path / "houses.pkl")
    (tmp_path / "houses").mkdir()
    parts = [houses.iloc[start : start + 60] for start in (0, 60, 120)]
    for number, part in enumerate(parts):
        part.to_parquet(tmp_path / "houses" / f"part{number}.parquet")
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    own = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "example.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=own, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    predicted = pandas.read_parquet(tmp_path / "predicted").rename_axis(None)
    names = ["price_predicted", "price_low", "price_high"]
    loaded = Answers.load(tmp_path / "houses.pkl")
    alone = pandas.concat([loaded.predict(part, ["price"])[names].astype(float) for part in parts])
    pandas.testing.assert_frame_equal(predicted, alone, check_exact=True)
    whole = loaded.predict(houses, ["price"])[names].astype(float)
    pandas.testing.assert_frame_equal(predicted, whole, rtol=1e-10)
