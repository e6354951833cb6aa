"""Results files: all of the promised arrays, consistent, written while the simulation runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torch_utils.results import load_arrays
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.simulation import Simulator
from training.trajectory_file import STATE_KEYS

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]
RK4 = SOLVERS["rk4"]
KEYS = {
    "times": ("S",),
    **dict.fromkeys(STATE_KEYS, ("S", "N", "D")),
    "mean": ("D",),
    "eigenvectors": ("D", "D"),
    "eigenvalues": ("D",),
    "scale": ("S",),
    "noise_variance": ("S", "D"),
}


def saved_melt(
    flow: ProbabilityFlow, data: Tensor, times: Tensor, path: Path
) -> dict[str, np.ndarray]:
    """A melt saved at every step, as its file has it."""
    Simulator(flow, times, RK4, save_every=1).melt(data, path=path)
    return load_arrays(path)


@pytest.fixture
def flow(random_basis: Callable[[int], EigenBasis]) -> ProbabilityFlow:
    """A nonlinear flow with a mean, a rotation and unequal noise."""
    schedule = InflationSchedule.to_dimension(1, 3, top_variance=2.0, end_std=0.7)
    return ProbabilityFlow(lambda x, t: x.tanh(), schedule, random_basis(3))


@pytest.fixture
def arrays(
    flow: ProbabilityFlow, generator: torch.Generator, tmp_path: Path
) -> dict[str, np.ndarray]:
    """Results of a melt that was saved at every step."""
    data = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return saved_melt(flow, data, flow.schedule.times(8, 4.0), tmp_path / "melt.npz")


def test_results_have_the_promised_arrays(arrays: dict[str, np.ndarray]) -> None:
    sizes = {"S": 9, "N": 6, "D": 3}
    shapes = {name: tuple(sizes[axis] for axis in axes) for name, axes in KEYS.items()}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    assert all(array.dtype == np.float64 for array in arrays.values())


def test_results_explain_themselves(arrays: dict[str, np.ndarray], flow: ProbabilityFlow) -> None:
    scale = arrays["scale"][:, None, None]
    rotation, mean = arrays["eigenvectors"], arrays["mean"]
    assert_equal = np.testing.assert_allclose
    assert_equal(arrays["xs"], scale * arrays["tilde_xs"], rtol=1e-13)
    assert_equal(arrays["xs_es"], scale * arrays["tilde_xs_es"], rtol=1e-13)
    assert_equal(arrays["tilde_xs"], arrays["tilde_xs_es"] @ rotation.T + mean, atol=1e-13)
    assert_equal(arrays["dxs"], arrays["dxs_es"] @ rotation.T, atol=1e-13)
    assert_equal(arrays["net_outs"], np.tanh(arrays["tilde_xs_es"]), rtol=1e-13)
    scores = (arrays["net_outs"] - arrays["tilde_xs_es"]) / arrays["noise_variance"][:, None]
    assert_equal(arrays["unscaled_scores"], scores, rtol=1e-13)
    assert_equal(arrays["dxs_es"][1:], np.diff(arrays["xs_es"], axis=0), atol=1e-14)
    assert (arrays["dxs_es"][0] == 0).all()
    times = torch.from_numpy(arrays["times"])
    assert_equal(arrays["scale"], flow.schedule.scale(times))
    assert_equal(arrays["noise_variance"], flow.schedule.noise_variance(times))
    assert_equal(arrays["eigenvalues"], flow.basis.eigenvalues)


def test_scores_in_results_of_exact_flows_are_gradients_of_the_log_density(
    exact_flow: ExactFlow, generator: torch.Generator, tmp_path: Path
) -> None:
    toy, flow = exact_flow("moons", 1)
    times = flow.schedule.times(5, 4.0)
    arrays = saved_melt(flow, toy.sample(8, generator), times, tmp_path / "melt.npz")
    for index, t in enumerate(times):
        x = torch.from_numpy(arrays["tilde_xs_es"][index]).requires_grad_()
        (score,) = torch.autograd.grad(flow.denoiser.log_density(x, t).sum(), x)
        np.testing.assert_allclose(arrays["unscaled_scores"][index], score, atol=1e-8)
