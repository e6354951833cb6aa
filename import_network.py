"""Makes a network file of one that was trained by the paper's original code.

--source is a network-snapshot-*.pkl of that code: a pickle, which is read as data, so that nothing
in it can run. --dest is an ordinary network file, for all scripts. Its parameters are written
beside it.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import rank_from_environment
from torch_utils.results import provenance, save_json
from training.original.model import import_original
from training.settings.common import overwrite
from training.settings.declared import Declared, option, takes
from training.settings.script import command, run_script
from training.settings.types import FILE, POSITIVE

FORMAT = "inflationary-flows imported network 1"


@dataclass(frozen=True, kw_only=True)
class Settings(Declared):
    """Options of this script."""

    source: Path = option(type=FILE, required=True, help="Network file of the original code.")
    dest: Path = option(type=FILE, required=True, help="Network file to write.")
    data_name: str | None = option(
        unset="what the file says", help="What the network was trained on: for a toy, its name"
    )
    tmax: float | None = option(
        type=POSITIVE,
        unset="what the file says, or for images 15.01",
        help="Last time, at most that of training",
    )
    overwrite: bool = overwrite()


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    if rank_from_environment() != 0:
        return  # one process makes the file
    started = time.monotonic()
    source, dest = settings.source, settings.dest
    params_path = dest.with_name(f"{dest.stem}_import_params.json")
    if dest.resolve() == source.resolve():
        raise UsageError(f"--dest is the --source, {source}: give another")
    require_new([dest, params_path], settings.overwrite, option="--dest")
    imported = import_original(source, settings.data_name, settings.tmax)
    model = imported.model
    model.save(dest)
    params = {
        "format": FORMAT,
        "options": settings.recorded(),
        "original": imported.origin,
        "network": model.recipe.network,
        "network_arguments": model.recipe.network_arguments,
        "schedule": model.recipe.schedule_arguments,
        "denoiser": model.recipe.denoiser_arguments,
        "about": model.about,
        "parameters": model.parameter_count,
        "seconds": round(time.monotonic() - started, 3),
        **provenance(),
    }
    save_json(params_path, params)
    logger.info(
        f"Wrote {dest}: {model.recipe.network} with {params['parameters']:,} parameters, schedule "
        f"{model.denoiser.schedule.name}, t up to {model.about['tmax']:g}"
    )
    logger.info(f"Wrote {params_path}")


if __name__ == "__main__":
    run_script(main)
