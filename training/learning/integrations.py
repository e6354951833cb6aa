"""Integration schedules of a trained model: the cheapest that are accurate on its own points."""

import time
from collections.abc import Callable

from tqdm import tqdm

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.flow.integration_errors import choose_integrations
from training.flow.integrations import Integration, trivial_integrations
from training.flow.pfode import ProbabilityFlow
from training.learning.latents import LatentPlan
from training.model.trained_network import TrainedNetwork
from training.names import DEFAULT_STEPS, LARGEST_EXACT, QUESTIONS, TABLE_NETWORK, TRIAL_NETWORK

NUMBERS, FEWEST_POINTS, MOST_POINTS = 2048, 16, 512
"""Limits on the points that solvers are tried on, drawn from data and again from latents: number of
coordinates in all, and smallest and largest number of points.
"""
SHARE = 10
"""At most one in this many of the points inflated for the distribution of latents is used; longer
trainings inflate more.
"""
STEPS, FEW_STEPS = 32, 8
"""Number of steps of the reference integration; the smaller one for convolutional networks and
where exact traces are not available.
"""


def find_integrations(model: TrainedNetwork, plan: LatentPlan) -> None:
    """Find the cheapest accurate integration schedules, store them in the model, and report them.

    The errors of schedules are measured on the model's own points. The model must be ready for
    evaluation, and already calibrated if a calibration is planned.

    Args:
        model: The model.
        plan: Plan with the points to integrate.
    """
    start, dim = time.monotonic(), model.denoiser.basis.dim
    if model.denoiser.is_trivial:
        model.integrations = trivial_integrations(model.about["tmin"], model.about["tmax"], dim)
        logger.info("The network output is zero: integrations use one evaluation")
    elif distributed.is_main():
        # Convolutional networks take a hundred times as long as perceptrons.
        cheap = dim <= LARGEST_EXACT and model.recipe.network in (
            TABLE_NETWORK,
            QUESTIONS,
            TRIAL_NETWORK,
        )
        most = min(NUMBERS // dim, MOST_POINTS, plan.count // SHARE) if cheap else 0
        batch = plan.points(max(most, FEWEST_POINTS))
        steps = STEPS if cheap else FEW_STEPS
        try:
            with tqdm(desc="steps", unit="trial", disable=None) as bar:
                model.integrations = _chosen(model, batch, plan, steps, bar.update, cheap)
        except DataError as error:
            logger.warning(f"Warning: integrations use {DEFAULT_STEPS} steps: {error}")
        taken = ", ".join(f"{name} {each.calls}" for name, each in model.integrations.items())
        logger.info(
            f"Network evaluations per integration: {taken or 'the default'} (chosen in "
            f"{time.monotonic() - start:.1f} s)"
        )
    distributed.barrier()


def _chosen(
    model: TrainedNetwork,
    batch: Batch,
    plan: LatentPlan,
    steps: int,
    on_trial: Callable[[], object],
    densities: bool,
) -> dict[str, Integration]:
    model.denoiser.precision = "fp32"
    count = len(batch.points)
    flow = model.flow.in_blocks(min(plan.rows, 2 * count))
    given = {name: rows.repeat(2, 1) for name, rows in batch.conditions(flow.device).items()}

    def under(rows: slice) -> ProbabilityFlow:
        return flow.under({name: values[rows] for name, values in given.items()})

    generator = seeded_generator("cpu", plan.seed, Stream.TRIED)
    first = flow.times()[0]
    noise = flow.schedule.sample_noise(count, first, generator).to(flow.device)
    noisy = flow.basis.to_eigen(batch.points.to(flow.device).double()) + noise
    latents = flow.latent.sample(count, generator)
    return choose_integrations(under, noisy, latents, steps, on_trial, densities)
