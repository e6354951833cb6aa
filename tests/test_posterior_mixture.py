"""``posterior.py mixture``: its files, that ranks do not matter, and what it refuses."""

from pathlib import Path

import numpy as np

import posterior
from tests.support.running import Run
from torch_utils.results import load_arrays, load_json

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


def test_weights_can_be_given(run_script: Run, tmp_path: Path) -> None:
    options = (*FEW, *SMALL, "--noise_std=0.2", "--runs=3", "--weights=0.2,0.3,0.5")
    assert run_script(posterior, "mixture", *options, f"--save_dir={tmp_path}").code == 0
    arrays = load_arrays(tmp_path / "circles_PRP_mixture.npz")
    assert (arrays["truth"] == [0.2, 0.3, 0.5]).all()
