"""What simulations share: grids of times, latent laws, and consistent results."""

import numpy as np
import torch

from tests.support.draws import double, normal
from tests.support.flows import random_basis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.runs.simulator import Simulator

RK4 = SOLVERS["rk4"]


def test_a_simulator_does_as_its_flow_and_tells_the_cost_and_both_variances() -> None:
    # Nonlinear, with a mean, a rotation and unequal noise.
    schedule = InflationSchedule.to_dimension(1, 3, top_variance=2.0, end_std=0.7)
    flow = ProbabilityFlow(lambda x, t: x.tanh(), schedule, random_basis(3))
    data, times = normal(7, 3), schedule.times(10, 4.0)
    simulator = Simulator(flow, times, RK4, save_every=5)
    melt = simulator.melt(data)
    assert torch.equal(melt.trajectory.states, flow.melt(data, times, RK4, save_every=5).states)
    back = simulator.generate(melt.trajectory.end, "roundtrip")
    expected = flow.generate(melt.trajectory.end, times, RK4, save_every=5)
    assert torch.equal(back.trajectory.states, expected.states)
    assert torch.equal(back.trajectory.times, times[[10, 5, 0]])
    facts = melt.facts(flow)
    assert (facts["denoiser_calls"], facts["end_time"]) == (40, 4.0)
    assert facts["seconds"] > 0
    np.testing.assert_allclose(facts["end_variance"], (melt.trajectory.end**2).mean(0))
    exact = flow.latent_law(double(4.0))
    np.testing.assert_allclose(facts["closed_form_variance"], exact.variance)
