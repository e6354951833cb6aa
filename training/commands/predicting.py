"""Data that a model makes of draws, beside what was observed: ``posterior.py predict``."""

from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from torch_utils.results import save_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.arrays import evenly
from training.files.posterior import PREDICTIVE_FORMAT
from training.files.posterior_draws import SavedPosteriors, load_netcdf
from training.inference.likelihoods import UserFunction
from training.measure.posterior.predictive import Predictive, needed
from training.names import UNSOUND
from training.options.posterior import PredictSettings
from training.runs.posterior_results import report_files, write_numbers

MOST_OBSERVATIONS = 20
FEWEST_SIMULATIONS, MOST_SIMULATIONS = 1000, 20_000


@first_rank_only
def predict(settings: PredictSettings) -> int:
    began = perf_counter()
    saved = load_netcdf(settings.draws, MOST_OBSERVATIONS)
    if saved.observed is None:
        raise UsageError(f"{settings.draws} has no observations: its likelihood keeps its own")
    functions = [UserFunction.load(text, "function") for text in settings.function or ()]
    stem = settings.draws.stem
    files = [settings.save_dir / f"{stem}_predictive{suffix}" for suffix in (".npz", ".json")]
    require_new(files, settings.overwrite)
    observed = torch.from_numpy(saved.observed)
    count, tests = len(observed), observed.shape[1] + len(functions)
    most = min(needed(tests * count, settings.level), MOST_SIMULATIONS)
    wanted = settings.simulations or max(FEWEST_SIMULATIONS, most)
    simulated = simulations(saved, settings, observed.shape[1], wanted)
    names = saved.number_names(observed.shape[1])
    for function in functions:
        names.append(function.name)
        values = function(simulated.flatten(0, 1)).view(count, -1, 1)
        own = function(torch.from_numpy(saved.observed))[:, None]
        simulated, observed = torch.cat([simulated, values], 2), torch.cat([observed, own], 1)
    generator = seeded_generator("cpu", settings.seed, Stream.RESAMPLING)
    result = Predictive.of(simulated, observed, names, settings.level, generator)
    require_folder(settings.save_dir)
    arrays = {"simulated": simulated.numpy(), "observed": observed.numpy()}
    texts = {"names": np.array(names), "format": np.array(PREDICTIVE_FORMAT)}
    save_arrays(files[0], {**texts, **arrays})
    content = {"options": settings.recorded(), **result.summary()}
    write_numbers(files[1], PREDICTIVE_FORMAT, began, content)
    logger.info(result.verdict)
    if saved.count > count:
        logger.info(f"Those are the first {count} of {saved.count} observations")
    report_files(files[1], files[0], began)
    return UNSOUND if result.failed and settings.strict else 0


def simulations(
    saved: SavedPosteriors, settings: PredictSettings, width: int, wanted: int
) -> Tensor:
    """Data ``[M, S, K]`` of the draws of each observation; where these are fewer than S, they are
    taken again. Raises UsageError if there is no simulator, and the file has no likelihood that
    could stand for it, DataError if the simulator raised, or returned something else."""
    chains, draws, count, dim = saved.points.shape
    every = torch.from_numpy(saved.points).movedim(2, 0).reshape(count, -1, dim)
    places = np.resize(evenly(chains * draws, wanted), wanted)
    points = every[:, places].flatten(0, 1)
    if settings.simulator is None:
        if saved.likelihood is None:
            raise UsageError(
                "Missing option '--simulator': these posteriors have no likelihood to simulate by"
            )
        generator = seeded_generator("cpu", settings.seed, Stream.OBSERVATION_NOISE)
        data = saved.likelihood.simulate(points, generator)
    else:
        program = UserFunction.load(settings.simulator, "simulator")
        data = program.simulated(points, np.random.default_rng(settings.seed), width)
    if not data.isfinite().all():
        raise DataError(f"{int((~data.isfinite()).any(dim=1).sum())} simulations are not finite")
    return data.view(count, -1, width)
