"""Rounds of simulations for one observation: the command ``posterior.py rounds``."""

from time import perf_counter

from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only, process_group
from training.inference.likelihoods import UserFunction
from training.models.rounds import RoundsInFolder, RoundsTask, in_rounds
from training.names import UNIFORM
from training.settings.posterior import RoundsSettings
from training.subjects.parameter_priors import prior_in_file


@first_rank_only
def run(settings: RoundsSettings) -> None:
    """Draw from the posterior of one observation by rounds of simulations."""
    began = perf_counter()
    simulator = UserFunction.load(settings.simulator, "simulator")
    prior = None if settings.prior == UNIFORM else prior_in_file(settings.prior)
    with process_group(settings.run.device_name):  # an unavailable device raises an error first
        task = RoundsTask.of(settings, simulator, prior)
    in_rounds(task, RoundsInFolder.of(task))
    logger.info(f"Done after {perf_counter() - began:.1f} s")
