"""What the extractions of toys' and images' residuals share: times, files, and the run itself."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance, save_json
from torch_utils.streams import Stream
from training.files.residuals import Extraction, digest, require_space
from training.measure.residuals import Extractor, Put, ResidualProbe, Source
from training.model.model import Model
from training.simulation.integration import chosen_solver, steps_and_end


def toy_times(path: Path, model: Model, options: dict[str, Any]) -> Tensor:
    """The times ``[T]``: the first time and multiples of h after it, or evenly up to tmax."""
    t_max, steps = model.about["tmax"], options["n_time_pts"] - 1
    _, end = steps_and_end(steps, options["h"], t_max)
    first = model.denoiser.schedule.t_min
    if not first < end <= t_max:
        raise UsageError(
            f"the last of {steps + 1} times is {end:g}, but the network {path.name} was trained "
            f"from {first:g} to T = {t_max:g}: give other --n_time_pts or --h"
        )
    return model.denoiser.schedule.times(steps, end)


def describe(model: Model, times: Tensor, options: dict[str, Any]) -> Extraction:
    """What the files say of themselves; they differ where an option that matters does.

    Raises:
        UsageError: The times do not increase.
    """
    if times[0] >= times[-1]:
        raise UsageError(
            f"T is {float(times[-1]):g}, but the first time is {float(times[0]):g}: give a later T"
        )
    matters = (
        *("network", "calibration", "data_root", "n_samples", "seed", "precision"),
        *("solver", "rtol", "atol"),
    )
    settings = {name: options.get(name) for name in matters}
    return Extraction(
        options["data_name"],
        model.denoiser.schedule.name,
        options["noise"],
        options["dims_to_keep"],
        times.numpy(),
        digest({**settings, **model.about}),
    )


def result_bytes(names: Iterable[str], rows: int, columns: int) -> int:
    """Of float32 arrays ``[rows, columns]`` of these names."""
    return 4 * len(list(names)) * rows * columns


def prepare(paths: list[Path], options: dict[str, Any], size: int) -> str:
    """Looks whether results may be written and fit; says in words how much it will be."""
    require_new(paths, options["overwrite"])
    return require_space(options["save_dir"], size)


def extractor(probe: ResidualProbe, source: Source, options: dict[str, Any]) -> Extractor:
    return Extractor(
        probe,
        source,
        count=options["n_samples"],
        batch=options["bs"],
        seed=options["seed"],
        stream=Stream.RESIDUAL_NOISE,
        solver=chosen_solver(options) if options["noise"] == "path" else None,
    )


def run_extraction(
    job: Extractor,
    writer: AbstractContextManager[Put],
    announcement: str,
    parameters: Path,
    origin: str,
    options: dict[str, Any],
) -> None:
    """Writes residuals, and their parameters with the origin that their files have."""
    began = time.perf_counter()
    distributed.barrier()  # no rank writes before all have looked
    require_folder(options["save_dir"])
    logger.info(announcement)
    with writer if distributed.is_main() else nullcontext() as put:
        calls = job.run(put)
    if distributed.is_main():
        seconds = time.perf_counter() - began
        options["device_name"] = str(job.probe.flow.device)
        facts = {"origin": origin, "denoiser_calls": calls, "seconds": seconds}
        save_json(parameters, {"options": options, **facts, **provenance()})
        logger.info(
            f"Wrote residuals of {job.count} samples at {len(job.probe.times)} times to "
            f"{options['save_dir']} in {seconds:.1f} s"
        )
