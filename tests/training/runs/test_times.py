"""Solvers and times: what is settled, kept in a network file, and refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy_pfODE_int
from dnnlib.errors import DataError, UsageError
from tests.support.draws import double
from tests.support.running import Run, run_script
from torch_utils.results import load_json
from training.flow.grids import EqualErrorGrid
from training.flow.isotropic import VPSchedule
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.model.model import Model
from training.runs.times import TimeChoice
from training.subjects.networks import STORED, NetworkFile


@pytest.fixture
def network(toy_network: Callable[..., Path], tmp_path: Path) -> Path:
    """A network of circles after a few steps."""
    path = tmp_path / "network.pkl"
    path.write_bytes(toy_network("--data_name=circles", "--tmax=5", "--no-calibrate").read_bytes())
    return path


@pytest.fixture
def simulate(network: Path, tmp_path: Path) -> Run:
    """Simulates, and gives the result, the parameters and the times saved."""

    def start(*arguments: str, code: int = 0) -> Any:
        place = (f"--save_dir={tmp_path / 'out'}", f"--network={network}", "--overwrite")
        few = ("--total_samples=20", "--save_freq=1")
        result = run_script(toy_pfODE_int, "net", *place, *few, *arguments)
        assert result.code == code, result.err
        if code:
            return result
        (parameters,) = (tmp_path / "out").glob("*_sim_params.json")
        with np.load(next((tmp_path / "out").glob("*melt_results.npz"))) as saved:
            return result, load_json(parameters), saved["times"]

    return start


@pytest.mark.slow
def test_a_smaller_tolerance_takes_more_steps_and_many_are_announced(simulate: Run) -> None:
    counts = []
    for tolerance in (1e-2, 1e-6):
        result, parameters, times = simulate("--steps=auto", f"--tol={tolerance:g}")
        counts.append(parameters["options"]["steps"])
        assert counts[-1] == len(times) - 1
        assert f"{counts[-1]} steps of exp_rk5" in result.out + result.err
    assert counts[0] < counts[1]
    result, _, _ = simulate("--steps=200")
    assert "200 steps of exp_rk5 are 1,200 denoiser calls each way" in result.out


@pytest.mark.slow
def test_adapted_times_are_uneven_and_can_be_kept(simulate: Run, network: Path) -> None:
    before = network.read_bytes()
    _, _, even = simulate("--steps=9")
    _, _, adapted = simulate("--steps=9", "--disc=adapted")
    assert np.allclose(adapted[[0, -1]], even[[0, -1]])
    assert not np.allclose(adapted, even, atol=1e-3)
    assert network.read_bytes() == before
    simulate("--steps=9", "--disc=adapted", "--store_grid")
    about = Model.load(network).about
    assert about[STORED]["solver"] == "exp_rk5"
    # A grid that no fit would give shows that it is the stored one which is used.
    file = NetworkFile(network, Model.load(network))
    steep = torch.linspace(0, 1, 11, dtype=torch.float64) ** 3 * 5
    file.store_grid(EqualErrorGrid(steep), SOLVERS["exp_rk5"])
    _, _, stored = simulate("--steps=10", "--disc=adapted")
    assert np.allclose(stored, steep)
    _, _, other = simulate("--steps=10", "--disc=adapted", "--solver=rk4")
    assert not np.allclose(other, steep, atol=1e-3)


def test_storing_a_grid_changes_nothing_else_in_the_file(network: Path) -> None:
    before = Model.load(network)
    file = NetworkFile(network, before)
    file.store_grid(EqualErrorGrid(double([0.0, 5.0])), SOLVERS["rk4"])
    after = Model.load(network)
    assert {k: v for k, v in after.about.items() if k != STORED} == before.about
    assert after.recipe == before.recipe
    x = torch.randn(5, 2, dtype=torch.float64)
    t = double(1.0)
    assert torch.equal(after.denoiser(x, t), before.denoiser(x, t))


def test_a_broken_grid_in_a_network_file_is_a_data_error(network: Path) -> None:
    model, times = Model.load(network), double([0.0, 5.0])
    grids = ("soon", [0.0, 3.0, 2.0, 5.0], [[0.0, 5.0]], [0.0, float("nan"), 5.0])
    for stored in (3, {"solver": "rk4"}, *({"solver": "rk4", "times": grid} for grid in grids)):
        model.about[STORED] = stored
        with pytest.raises(DataError, match=STORED):
            NetworkFile(network, model).stored_grid(SOLVERS["rk4"], times)


def test_options_that_contradict_each_other_are_usage_errors(simulate: Run, tmp_path: Path) -> None:
    for arguments, word in (
        (["--tol=1e-3"], "--tol"),
        (["--rtol=1e-3"], "--rtol"),
        (["--steps=auto", "--h=0.1"], "--h"),
        (["--steps=auto", "--solver=dopri5"], "--rtol"),
        (["--disc=adapted", "--solver=dopri5"], "dopri5"),
        (["--disc=adapted", "--solver=exp_ab2"], "exp_ab2"),
        (["--store_grid"], "--disc=adapted"),
        (["--steps=0"], "0"),
        (["--steps=many"], "many"),
    ):
        assert word in simulate(*arguments, code=2).error
        assert not list(tmp_path.glob("out/*"))


def test_times_are_even_from_the_first_to_the_last() -> None:
    schedule = InflationSchedule.to_dimension(2, 3)
    expected = torch.arange(0, 4.25, 0.5, dtype=torch.float64)
    torch.testing.assert_close(TimeChoice(8, 4.0).even(schedule)(8), expected)
    later = TimeChoice(3, 4.0, first=1.0).even(schedule)(3)
    torch.testing.assert_close(later, double([1.0, 2.0, 3.0, 4.0]))

    # The baselines have their own.
    baseline = VPSchedule(3)
    assert torch.equal(TimeChoice(8, 1.0).even(baseline)(8), baseline.times(8, 1.0))
    schedule.t_min = 0.1
    for first in (0.05, 4.0, 5.0):
        with pytest.raises(UsageError, match=rf"vpode_disc_eps is {first:g}.* 0\.1, .* T = 4"):
            TimeChoice(3, 4.0, first=first).even(schedule)
