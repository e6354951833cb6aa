"""The probability flow: closed forms, an invertible map, what it keeps, and what parts refuse."""

import weakref
from functools import partial
from math import inf, nan

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd

from dnnlib.errors import DataError, UsageError
from tests.support import flows
from tests.support.draws import double, normal
from tests.support.flows import FunctionNetwork, curved_flow, random_basis
from tests.support.running import refusal
from training.data.tables.schema import Schema
from training.flow.coordinates.conditions import Surprise
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import Calibration, NetworkDenoiser, fit_calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.latent import ConditionalMixture
from training.flow.likelihood import LARGEST_EXACT, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.preconditioning import NaturalSpline, OutputGain
from training.flow.schedules import EDMSchedule, InflationSchedule, VESchedule, VPSchedule
from training.flow.solvers import SOLVERS
from training.learning.coordinates import fit_coordinates

HEUN = SOLVERS["heun"]
LABELLED = ProbabilityFlow(
    lambda x, t, labels=0: (x + labels).tanh(), flows.SCHEDULES["PRR"], flows.random_basis(3)
)
PAIR = LABELLED.given(labels=[[0.0], [1.0]])


@pytest.mark.parametrize("schedule", flows.SCHEDULES.values(), ids=flows.SCHEDULES)
def test_the_velocity_is_the_derivative_of_gaussian_paths(schedule):
    """Each dimension grows like its standard deviation,
    ``x_i(t) = x_i(0) s(t)/s(0) sqrt((xi_i + gamma_i(t)) / (xi_i + gamma_i(0)))``."""
    flow, start = flows.gaussian_flow(flows.random_basis(3), schedule), normal(5, 3)
    begin = double(schedule.t_min)

    def path(t):
        return start * (flow.latent_law(t).variance / flow.latent_law(begin).variance).sqrt()

    for t in schedule.times(3, min(6.0, schedule.default_t_max())):
        velocity = flow.velocity(path(t), t)
        torch.testing.assert_close(velocity, jacfwd(path)(t), rtol=1e-10, atol=1e-12)
    melt = flow.melt(start, schedule.times(2, 1.0), HEUN)
    torch.testing.assert_close(flow.to_data(melt.states[0], melt.times[0]), start)


def test_states_are_kept_at_the_start_every_so_often_and_at_the_end():
    flow, data = flows.curved_flow(3), normal(4, 3)
    times = flow.schedule.times(10, 5.0)
    every = flow.melt(data, times, HEUN, save_every=1)
    assert (every.updates[0] == 0).all()
    torch.testing.assert_close(every.updates[1:], every.states.diff(dim=0), rtol=0, atol=1e-15)
    kept = {None: [0, 10], 1: [*range(11)], 4: [0, 4, 8, 10], 5: [0, 5, 10], 20: [0, 10]}
    for save_every, indices in kept.items():
        some = flow.melt(data, times, HEUN, save_every=save_every)
        assert torch.equal(some.times, times[indices])
        assert torch.equal(some.states, every.states[indices])
        assert torch.equal(some.updates, every.updates[indices])
        assert torch.equal(some.end, every.states[-1])
    generated = flow.generate(data, times, HEUN, save_every=1)
    assert torch.equal(generated.times, times.flip(0))
    assert torch.equal(generated.states[0], data)
    assert "save_freq" in refusal(flow.melt, data, times, HEUN, save_every=0, kind=UsageError)


def test_states_are_given_as_they_are_made_and_not_kept():
    flow = flows.curved_flow(3)
    events = []
    given = []
    alive = []

    def take(state):
        events.append(float(state.time))
        given.append(weakref.ref(state.x))
        alive.append(sum(reference() is not None for reference in given))

    step = {"on_step": lambda: events.append("step"), "on_state": take}
    flow.melt(torch.ones(2, 3), flow.schedule.times(4, 5.0), HEUN, save_every=2, **step)
    assert events == [0.0, "step", 2.5, "step", "step", 5.0, "step"]
    del given[:], alive[:]
    flow.melt(torch.ones(2, 3), flow.schedule.times(30, 5.0), HEUN, save_every=1, on_state=take)
    assert len(alive) == 31
    # The first, the one before and the new one.
    assert max(alive) == 3


def test_single_precision_data_is_carried_in_double():
    flow = flows.curved_flow(3)
    times = flow.schedule.times(10, 5.0)
    ones = torch.ones(4, 3)
    single, twice = (flow.melt(x, times, HEUN) for x in (ones, ones.double()))
    assert single.end.dtype == torch.float64
    torch.testing.assert_close(single.end, twice.end, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("bad_at", "good"), [(0.0, 1), (4.9, 10)])
def test_an_end_that_is_not_finite_is_an_error_and_not_given_away(bad_at, good):
    def denoise(x, t):
        return torch.full_like(x, nan) if t >= bad_at else x

    flow = ProbabilityFlow(denoise, flows.SCHEDULES["PRP"], flows.random_basis(3))
    given = []
    times = flow.schedule.times(10, 5.0)
    with pytest.raises(DataError, match="finite"):
        flow.melt(torch.ones(2, 3), times, HEUN, save_every=1, on_state=given.append)
    assert sum(bool(state.x.isfinite().all()) for state in given) == good
    assert len(given) == 10


def test_arrays_and_lists_are_taken_as_tensors_are():
    data, labels = normal(4, 3), double([[0.5], [1.0], [-2.0], [1.0]])
    times = LABELLED.schedule.times(3, 5.0)
    flow = LABELLED.given(labels=labels)
    latents, density = flow.encode(data, times), flow.log_prob(data, times)
    points = flow.decode(latents, times)
    for form in (Tensor.numpy, Tensor.tolist):
        same = LABELLED.given(labels=form(labels))
        assert torch.equal(same.encode(form(data), times), latents)
        assert torch.equal(same.decode(form(latents), times), points)
        assert torch.equal(same.log_prob(form(data), times), density)
    # Matrix products of one row and of four may sum in another order.
    one = LABELLED.given(labels=[0.5])
    torch.testing.assert_close(one.encode(data[:1], times), latents[:1], rtol=1e-12, atol=1e-12)


FLOW = curved_flow()
TIMES = FLOW.schedule.times(4, 4.0)
POINTS, Y = normal(50, 2), normal(50, 3, seed=1)
NODES, ONES = torch.arange(3).double(), torch.ones(3, 2).double()
MANY = LARGEST_EXACT + 1
even, generate = FLOW.schedule.times, partial(FLOW.generate, POINTS, TIMES)
to_dimension = InflationSchedule.to_dimension


def conditional():
    return fit_coordinates(POINTS, Schema.plain("ab"), "none", "zca", Y, "on")


def distribution(name, value):
    mixture = ConditionalMixture(1, 1).requires_grad_(False)
    mixture.get_buffer(name).fill_(value) if name == "axes" else mixture.output.bias.fill_(value)
    mixture.check()


def denoiser(**options):
    network = FunctionNetwork(lambda z, c: z)
    return NetworkDenoiser(network, random_basis(2), to_dimension(2, 2), **options)


def spoilt(value):
    points = POINTS.clone()
    points[40, 1] = value
    return list(points.split(20))


CASES = [
    # Laws of latents.
    (ValueError, "the latent distribution has K = -1", lambda: ConditionalMixture(-1, 1)),
    (ValueError, "has 65 components", lambda: ConditionalMixture(1, 1, components=65)),
    (ValueError, "cannot be inverted", lambda: distribution("axes", 0)),
    (ValueError, "not finite", lambda: distribution("bias", inf)),
    # Calibrations, gains and splines.
    (ValueError, "times have shape", lambda: Calibration(NODES[:1], ONES[:1], ONES[:1])),
    (ValueError, "calibration", lambda: Calibration(NODES, ONES[:, :1], ONES)),
    (ValueError, "calibration", lambda: Calibration(NODES, ONES, ONES.float())),
    (ValueError, "calibration", lambda: Calibration(NODES, ONES, ONES / 0)),
    (ValueError, "calibration", lambda: Calibration(NODES, ONES[:2], ONES[:2])),
    (UsageError, "gain, path", lambda: fit_calibration(denoiser(), POINTS, NODES, 0, "melt")),
    (ValueError, "output gain", lambda: OutputGain(NODES, torch.ones(2, 2))),
    (ValueError, "gains of the network output", lambda: OutputGain(NODES, torch.ones(3, 2) / 0)),
    (ValueError, "gains of the network output", lambda: OutputGain(NODES, torch.ones(3, 2).long())),
    *(
        (ValueError, text, lambda times=times: NaturalSpline(torch.tensor(times).double()))
        for text, times in (
            *(("times have shape", each) for each in ([0.0], [[0.0, 1.0], [2.0, 3.0]])),
            *(("not finite and increasing", each) for each in ([0.0, 1, 1], [0, nan], [0, inf])),
        )
    ),
    (ValueError, "give float64", lambda: NaturalSpline(torch.arange(3).float())),
    # Conditions.
    (UsageError, "conditional", lambda: conditional().to_flow(POINTS)),
    (DataError, "C = 3", lambda: conditional().given(Y[:, :2]).to_flow(POINTS)),
    (DataError, "NaN", lambda: conditional().given(Y * nan).to_data(POINTS)),
    (UsageError, "not conditional: leave", lambda: Coordinates(2, ["zca"]).given(Y)),
    (ValueError, "needs at least one condition", lambda: Coordinates(2, ["prediction", "zca"])),
    (DataError, "C = 3", lambda: Surprise(3)(torch.zeros(5, 2).double())),
    (UsageError, "the generator is 0", lambda: PAIR.sample(10, 0)),
    (UsageError, "count is -1", lambda: PAIR.sample(-1)),
    (DataError, "4 latents but 2 rows of conditions", lambda: PAIR.sample(4)),
    (DataError, "3 points but 2 rows of conditions", lambda: PAIR.log_prob(normal(3, 3))),
    (DataError, "points are not numeric", lambda: PAIR.encode([["a", "b", "c"]])),
    (DataError, "points are not numeric", lambda: PAIR.encode([[1.0], [1.0, 2.0]])),
    (DataError, "labels are not numeric", lambda: PAIR.given(labels=["x"])),
    (DataError, "latents have shape", lambda: PAIR.decode(normal(3))),
    # Denoisers and bases.
    (UsageError, "choose one of", lambda: denoiser(space="XS")),
    (UsageError, "choose one of", lambda: denoiser(noise_cond="fourier")),
    (UsageError, "choose one of", lambda: denoiser(preconditioning="iddpm")),
    (DataError, "no points to fit an eigenbasis", lambda: EigenBasis.fit([])),
    (DataError, "two", lambda: EigenBasis.fit([torch.ones(1, 3)])),
    (DataError, "constant", lambda: EigenBasis.fit([torch.full((n, 3), 1 / 3) for n in (3, 7)])),
    (DataError, "finite", lambda: EigenBasis.fit(spoilt(nan))),
    (DataError, "finite", lambda: EigenBasis.fit(spoilt(-inf))),
    # Densities.
    (UsageError, "choose", lambda: Trace("some", 2)),
    (UsageError, "2", lambda: Trace("auto", 1)),
    (UsageError, f"{MANY} dimensions", lambda: curved_flow(MANY).log_prob(torch.zeros(1, MANY))),
    (
        DataError,
        r"50 point\(s\) is NaN",
        lambda: FLOW.log_prob(POINTS, TIMES, "heun", lambda x, t: x[:, 0] * -inf),
    ),
    # Shapes and times.
    (DataError, r"points have shape \[4, 3\]", lambda: FLOW.encode(torch.zeros(4, 3))),
    (DataError, r"points have shape \[2\]", lambda: FLOW.log_prob(torch.zeros(2))),
    (DataError, r"latents have shape \[4, 5, 2\]", lambda: FLOW.decode(torch.zeros(4, 5, 2))),
    (DataError, "states have shape", lambda: FLOW.simulate(torch.zeros(2), TIMES, "heun")),
    (DataError, "this distribution has D = 2", lambda: FLOW.latent.log_prob(torch.zeros(4, 3))),
    (UsageError, "1 times: give at least two", lambda: FLOW.encode(POINTS, torch.zeros(1))),
    # Schedules.
    *(
        (UsageError, "positive number", lambda name=name, x=x: to_dimension(2, 3, **{name: x}))
        for name in ("rho", "gamma0", "end_std", "g_rescaling")
        for x in (0.0, -1.0, nan, inf)
    ),
    (UsageError, "give 1 to 3", lambda: to_dimension(4, 3)),
    (UsageError, "give 1 to 3", lambda: to_dimension(0, 3)),
    (UsageError, "orig, constant_inflation_gap", lambda: to_dimension(2, 3, g_type="constant")),
    (UsageError, "gap is -1.0", lambda: to_dimension(2, 3, **flows.GAP, inflation_gap=-1.0)),
    (UsageError, "no dimension inflates", lambda: InflationSchedule(double([-1.0, -2.0]))),
    *(
        (UsageError, "tmin", lambda kind=kind, t_min=t_min: kind(2, t_min=t_min))
        for kind in (EDMSchedule, VPSchedule, VESchedule)
        for t_min in (0.0, -1.0, 1e9, nan)
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), CASES)
def test_what_makes_no_sense_is_refused_in_a_sentence(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
