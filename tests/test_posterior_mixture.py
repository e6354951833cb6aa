"""``posterior.py mixture``: its files, that ranks do not matter, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import posterior
from tests.support.rank_pool import RankPool
from tests.support.running import refused
from torch_utils.results import load_arrays, load_json

Run = Callable[..., Any]
FEW = ("--data_name=circles", "--n_iters=6", "--pool=512", "--device_name=cpu")
SMALL = ("--points=20", "--chains=2", "--draws=100", "--warmup=50")


def test_weights_are_found_again(run_script: Run, tmp_path: Path) -> None:
    options = (*FEW, *SMALL, "--noise_std=0.1", "--runs=21")
    result = run_script(posterior, "mixture", *options, f"--save_dir={tmp_path}")
    assert result.code == 0, result.err
    found = load_json(tmp_path / "circles_PRP_mixture.json")
    arrays = load_arrays(tmp_path / "circles_PRP_mixture.npz")
    assert arrays["weights"].shape == (21, 2, 100, 3)
    assert arrays["truth"].shape == (21, 3)
    assert arrays["observed"].shape == (21, 20, 2)
    np.testing.assert_allclose(arrays["weights"].sum(axis=3), 1)
    assert found["compared_with"] == "quadrature"
    assert found["largest_difference"]["mean"] < 0.05
    assert found["calibration"]["runs"] == 21
    assert found["calibration"]["verdict"] in result.out
    assert len(found["posteriors"]) == 21
    # What was observed says something of the weights.
    mean = arrays["weights"].mean(axis=(1, 2))
    assert np.corrcoef(mean.ravel(), arrays["truth"].ravel())[0, 1] > 0.5


def test_your_own_observations_and_components(run_script: Run, tmp_path: Path) -> None:
    means, seen = tmp_path / "means.csv", tmp_path / "seen.npy"
    means.write_text("a,b\n-2,0\n2,0\n", encoding="utf-8")
    np.save(seen, np.array([[0.1], [0.3], [-0.2], [0.5], [0.0]]))
    options = (f"--means={means}", f"--observation={seen}", "--likelihood=mask", "--mask=x1")
    place = f"--save_dir={tmp_path / 'out'}"
    result = run_script(
        posterior, "mixture", *FEW, *options, "--noise_std=0.3", "--draws=50", place
    )
    assert result.code == 0, result.err
    found = load_json(tmp_path / "out" / "circles_PRP_mixture.json")
    assert found["calibration"] is None
    assert found["components"] == {"mean": [[-2, 0], [2, 0]], "std": [0.5, 0.5]}
    assert "truth" not in found["posteriors"][0]
    again = run_script(posterior, "mixture", *FEW, *options, "--noise_std=0.3", place)
    assert again.code == 2
    assert "--overwrite" in again.error


def test_two_ranks_find_what_one_finds(
    run_script: Run, two_ranks: RankPool, tmp_path: Path
) -> None:
    options = (*FEW, *SMALL, "--noise_std=0.2", "--runs=3", "--weights=0.2,0.3,0.5")
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_script(posterior, "mixture", *options, f"--save_dir={one}").code == 0
    assert two_ranks.run(posterior, "mixture", *options, f"--save_dir={two}").code == 0
    name = "circles_PRP_mixture.npz"
    first, second = load_arrays(one / name), load_arrays(two / name)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])
    assert (first["truth"] == [0.2, 0.3, 0.5]).all()


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--weights=0.5,0.6,0.1",), 2, "3 numbers that sum to 1"),
        (("--weights=a,b",), 2, "with commas"),
        (("--component_std=0.5,0.5",), 2, "3 components have 2 widths"),
        (("--component_std=0",), 2, "must be positive"),
        (("--means=/nowhere.csv",), 1, "nowhere.csv"),
        (("--components=3", "--means=/nowhere.csv"), 2, "leave out --components"),
        (("--observation=/nowhere.csv", "--runs=3"), 2, "--runs is for simulated data"),
        (("--noise_std=0",), 2, "noise must be positive"),
        (("--chain_n_iters=3",), 2, "--chain_n_iters is for sample and check"),
        (("--likelihood=own.py:function",), 2, "--noise_std goes with"),
    ],
)
def test_what_does_not_fit_ends_in_one_line(
    run_script: Run, tmp_path: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    out = tmp_path / "out"
    given = (*FEW, "--noise_std=0.1", *options, f"--save_dir={out}")
    refused(run_script(posterior, "mixture", *given), code, told)
    assert not out.exists()
