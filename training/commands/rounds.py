"""Rounds of simulations where the posterior of one observation may be: ``posterior.py rounds``.

Each round draws parameters from the prior, within the region where the posterior of the round
before may be (``training.inference.region``), has the user's program simulate their data, and
trains a posterior on all simulations in the region, as ``train.py --cond`` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only, process_group
from training.commands.called import left_alone, of_memory, ranges_of
from training.commands.frames import ROW, numbers_of
from training.commands.inference import Asked
from training.commands.models import Model, PosteriorDraws
from training.commands.one_round import Question
from training.commands.posterior import check_learned, draw
from training.data.tables.foreign import numbered
from training.files.rounds import RoundFacts
from training.files.rows import save_csv
from training.files.table import load_table
from training.inference.likelihoods import UserFunction
from training.inference.region import Region
from training.names import FEWEST_RUNS, UNIFORM
from training.options.declared import typed_by_name
from training.options.inference import PriorOptions, SamplerOptions
from training.options.posterior import CheckSettings, RoundsSettings

MOST_CHECKED = 1000
"""Held-out simulations that the check finds again."""


@first_rank_only
def run(settings: RoundsSettings) -> int:
    """Simulates and trains in rounds, draws from the last posterior, and checks it."""
    simulator = UserFunction.load(settings.simulator, "simulator")
    own = settings.prior != UNIFORM
    return in_rounds(
        settings, simulator, UserFunction.load(settings.prior, "prior") if own else None
    )


def rounds(
    simulator: Callable[..., Any],
    observation: Any,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior: Callable[..., Any] | None = None,
    outdir: str | Path | None = None,
    **options: Any,
) -> PosteriorDraws:
    """Draws from the posterior of one observation, by rounds of simulations where it may be.

    Args:
        simulator: Data ``[N, K]`` of parameters ``[N, D]`` and a NumPy generator to draw by.
        observation: Its K numbers: a mapping, a data frame of one row, or an array.
        bounds: Lowest and highest value of each parameter, by name in the order of the simulator.
        prior: Parameters ``[N, D]`` of a number N and a NumPy generator; None for uniform between
            bounds.
        outdir: Folder of the results, in which a run that was cut short goes on; None keeps none.
        options: Of ``posterior.py rounds``, by name, such as ``simulations`` or ``seed``.

    Raises:
        UsageError: Options do not go with each other, or there is no such option.
        DataError: The observation is broken, or what a function returned.
    """
    names, numbers = numbers_of(observation, "the observation", ROW)
    programs = [None if each is None else _program(each) for each in (simulator, prior)]
    with TemporaryDirectory() as folder, left_alone(), of_memory(Path(folder)):
        path, place = Path(folder) / "observation.csv", Path(outdir or folder)
        names = names or numbered(numbers.shape[1], "y")
        save_csv(path, names, torch.from_numpy(np.asarray(numbers, dtype=np.float64)))
        given = {"observation": path, "save_dir": place, "simulator": str(programs[0])}
        if prior is not None:
            given["prior"] = str(programs[1])
        if bounds is not None:
            given["bounds"] = tuple((name, *ends) for name, ends in ranges_of(bounds).items())
        settings = typed_by_name(RoundsSettings, {**given, **options})
        assert programs[0] is not None
        in_rounds(settings, programs[0], programs[1])
        last = max(place.glob("round*/network.pkl"), key=lambda path: int(path.parent.name[5:]))
        return PosteriorDraws.load(place, Model.load(last))


def _program(function: Callable[..., Any]) -> UserFunction:
    name = getattr(function, "__name__", type(function).__name__)
    code = getattr(function, "__code__", None)
    return UserFunction(Path(code.co_filename if code else f"{name}.py"), name, function)


def in_rounds(settings: RoundsSettings, simulator: UserFunction, prior: UserFunction | None) -> int:
    """Simulates and trains with these functions, draws of the last posterior, and checks it;
    returns the exit code."""
    began = perf_counter()
    with process_group(settings.run.device_name):  # a device that is not there is refused first
        asked = Question.of(settings, simulator, prior)
    there = sorted(settings.save_dir.glob(f"{asked.name}_*_posterior.*"))
    require_new(there, settings.run.overwrite)
    require_folder(settings.save_dir)
    asked.require_own_rounds()
    region, facts = Region(), list[RoundFacts]()
    for place in asked.places():
        region, made = place.simulations(region, facts)
        facts.append(made)
        place.train()
        if made.last:
            break
    listed = [asdict(each) for each in facts]
    for each in listed:
        del each["fingerprint"]
    sampling, last = place.opened(region, settings.chains, settings.draws)
    code = draw(sampling, last, began, {"options": settings.recorded(), "rounds": listed})
    held_out = int(load_table(place.data).held_out.sum())
    if held_out < FEWEST_RUNS:
        logger.info(
            f"{held_out} simulations of the last round are held out: a check needs {FEWEST_RUNS}"
        )
        return code
    logger.info(f"A check within the region, on {held_out} simulations that are held out:")
    checking = CheckSettings(
        save_dir=settings.save_dir / "check",
        prior=PriorOptions(network=str(place.network)),
        truth="data",
        data_root=place.data,
        runs=min(held_out, MOST_CHECKED),
        sampler=SamplerOptions(seed=settings.seed),
        run=replace(settings.run, overwrite=True),
    )
    check_learned(checking, replace(Asked.open(checking), region=region), perf_counter())
    return code
