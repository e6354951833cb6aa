"""What flows and their parts refuse, in a sentence: a row for each rule."""

from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal
from tests.support.flows import FunctionNetwork, curved_flow, random_basis
from training.data.tables.table import Columns
from training.flow.calibration import Calibration, fit_calibration
from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.surprise import Surprise
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.grids import choose_steps, fit_equal_error_grid
from training.flow.isotropic import EDMSchedule, VESchedule, VPSchedule
from training.flow.latent.conditional import ConditionalMixture
from training.flow.likelihood import LARGEST_EXACT, DensityPlan, Trace
from training.flow.output_gain import OutputGain
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.flow.splines import NaturalSpline
from training.learning.coordinates import fit_coordinates

FLOW = curved_flow()
TIMES = FLOW.schedule.times(4, 4.0)
POINTS, Y = normal(50, 2), normal(50, 3, seed=1)
NODES, ONES = torch.arange(3).double(), torch.ones(3, 2).double()
to_dimension = InflationSchedule.to_dimension


def conditional() -> Coordinates:
    return fit_coordinates(POINTS, Columns.plain("ab"), "none", "zca", Y, "on")


def law(name: str, value: float) -> None:
    mixture = ConditionalMixture(1, 1).requires_grad_(False)
    mixture.get_buffer(name).fill_(value) if name == "axes" else mixture.output.bias.fill_(value)
    mixture.check()


def denoiser(**options: str) -> NetworkDenoiser:
    network = FunctionNetwork(lambda z, c: z)
    return NetworkDenoiser(network, random_basis(2), to_dimension(2, 2), **options)


def spoilt(value: float) -> list[Tensor]:
    points = POINTS.clone()
    points[40, 1] = value
    return list(points.split(20))


def widened_gap() -> None:
    integral = DensityPlan(Trace()).along(SOLVERS["exp_rk5"], slice(0, 1), 2)
    FLOW.melt(POINTS[:1], TIMES, integral.solver, differentiable=True)


CASES: list[tuple[type[Exception], str, Callable[[], object]]] = [
    # Laws of latents.
    (ValueError, "a law of latents has", lambda: ConditionalMixture(-1, 1)),
    (ValueError, "a law of latents has", lambda: ConditionalMixture(1, 1, components=65)),
    (ValueError, "cannot be inverted", lambda: law("axes", 0)),
    (ValueError, "not finite", lambda: law("bias", inf)),
    # Solvers and grids.
    (UsageError, "exp_rk5 carries no second", lambda: FLOW.generate(POINTS, TIMES, gap=POINTS)),
    (
        DataError,
        "gaps have shape",
        lambda: FLOW.generate(POINTS, TIMES, "rev_rk5", gap=POINTS[:, :1]),
    ),
    (UsageError, "magic': choose one of euler", lambda: FLOW.encode(POINTS, TIMES, "magic")),
    (UsageError, "dopri5", lambda: fit_equal_error_grid(FLOW, POINTS, TIMES, SOLVERS["dopri5"])),
    (UsageError, "exp_ab2", lambda: fit_equal_error_grid(FLOW, POINTS, TIMES, SOLVERS["exp_ab2"])),
    (
        UsageError,
        "rtol",
        lambda: choose_steps(FLOW, POINTS, FLOW.schedule.times, SOLVERS["dopri5"], 1e-3),
    ),
    # Calibrations, gains and splines.
    (ValueError, "calibration|nodes", lambda: Calibration(NODES[:1], ONES[:1], ONES[:1])),
    (ValueError, "calibration|nodes", lambda: Calibration(NODES, ONES[:, :1], ONES)),
    (ValueError, "calibration|nodes", lambda: Calibration(NODES, ONES, ONES.float())),
    (ValueError, "calibration|nodes", lambda: Calibration(NODES, ONES, ONES / 0)),
    (ValueError, "calibration|nodes", lambda: Calibration(NODES, ONES[:2], ONES[:2])),
    (
        UsageError,
        "gain, marginal, path",
        lambda: fit_calibration(denoiser(), POINTS, NODES, 0, method="melt"),
    ),
    (ValueError, "output gain", lambda: OutputGain(NODES, torch.ones(2, 2))),
    (ValueError, "output gain", lambda: OutputGain(NODES, torch.ones(3, 2) / 0)),
    (ValueError, "output gain", lambda: OutputGain(NODES, torch.ones(3, 2).long())),
    *(
        (ValueError, "nodes", lambda times=times: NaturalSpline(torch.tensor(times).double()))
        for times in ([0.0], [[0.0, 1.0], [2.0, 3.0]], [0.0, 1, 1], [0, nan], [0, inf])
    ),
    (ValueError, "nodes", lambda: NaturalSpline(torch.arange(3).float())),
    # Conditions.
    (UsageError, "conditional", lambda: conditional().to_flow(POINTS)),
    (DataError, "C = 3", lambda: conditional().given(Y[:, :2]).to_flow(POINTS)),
    (DataError, "NaN", lambda: conditional().given(Y * nan).to_data(POINTS)),
    (UsageError, "no conditions", lambda: Coordinates(2, ["zca"]).given(Y)),
    (ValueError, "needs conditions", lambda: Coordinates(2, ["prediction", "zca"])),
    (DataError, "C = 3", lambda: Surprise(3)(torch.zeros(5, 2).double())),
    # Denoisers and bases.
    (UsageError, "choose one of", lambda: denoiser(space="XS")),
    (UsageError, "choose one of", lambda: denoiser(noise_cond="fourier")),
    (UsageError, "choose one of", lambda: denoiser(preconditioning="iddpm")),
    (DataError, "no data", lambda: EigenBasis.fit([])),
    (DataError, "two", lambda: EigenBasis.fit([torch.ones(1, 3)])),
    (DataError, "not vary", lambda: EigenBasis.fit([torch.full((n, 3), 1 / 3) for n in (3, 7)])),
    (DataError, "finite", lambda: EigenBasis.fit(spoilt(nan))),
    (DataError, "finite", lambda: EigenBasis.fit(spoilt(-inf))),
    # Densities.
    (UsageError, "choose", lambda: Trace("some", 2)),
    (UsageError, "2", lambda: Trace("auto", 1)),
    (
        UsageError,
        f"{LARGEST_EXACT + 1} dimensions are estimated",
        lambda: curved_flow(LARGEST_EXACT + 1).log_prob(torch.zeros(1, LARGEST_EXACT + 1)),
    ),
    (ValueError, "no gradients", widened_gap),
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
    (DataError, "this law has D = 2", lambda: FLOW.latent.log_prob(torch.zeros(4, 3))),
    (UsageError, "at least two times", lambda: FLOW.encode(POINTS, torch.zeros(1))),
    # Schedules.
    *(
        (
            UsageError,
            "positive number",
            lambda name=name, bad=bad: to_dimension(2, 3, **{name: bad}),
        )
        for name in ("rho", "gamma0", "end_std", "g_rescaling")
        for bad in (0.0, -1.0, nan, inf)
    ),
    (UsageError, "give 1 to 3", lambda: to_dimension(4, 3)),
    (UsageError, "give 1 to 3", lambda: to_dimension(0, 3)),
    (UsageError, "orig, constant_inflation_gap", lambda: to_dimension(2, 3, g_type="constant")),
    (
        UsageError,
        "inflation_gap is -1.0",
        lambda: to_dimension(2, 3, g_type="constant_inflation_gap", inflation_gap=-1.0),
    ),
    (UsageError, "no dimension inflates", lambda: InflationSchedule(double([-1.0, -2.0]))),
    *(
        (UsageError, "tmin", lambda kind=kind, t_min=t_min: kind(2, t_min=t_min))
        for kind in (EDMSchedule, VPSchedule, VESchedule)
        for t_min in (0.0, -1.0, 1e9, nan)
    ),
]


@pytest.mark.parametrize(("error", "message", "call"), CASES)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    error: type[Exception], message: str, call: Callable[[], object]
) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
