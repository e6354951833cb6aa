"""Import of network files of the original code: the functions behind ``import_network.py``."""

import time

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from torch_utils.results import provenance, save_json
from training.paper.original.model import import_original
from training.settings.networks import ImportSettings

IMPORT_FORMAT = "inflationary-flows imported network 1"


@first_rank_only
def import_network(settings: ImportSettings) -> None:
    """Import a network file of the original code, and write the options beside the result."""
    started = time.monotonic()
    source, dest = settings.source, settings.dest
    params_path = dest.with_name(f"{dest.stem}_import_params.json")
    if dest.resolve() == source.resolve():
        raise UsageError(f"--dest is the same file as --source, {source}: give another")
    require_new([dest, params_path], settings.overwrite, option="--dest")
    imported = import_original(source, settings.data_name, settings.tmax)
    model = imported.model
    model.save(dest)
    params = {
        "format": IMPORT_FORMAT,
        "options": settings.recorded(),
        "original": imported.origin,
        "network": model.architecture.network,
        "network_arguments": model.architecture.network_arguments,
        "schedule": model.architecture.schedule_arguments,
        "denoiser": model.architecture.denoiser_arguments,
        "about": model.about,
        "parameters": model.parameter_count,
        "seconds": round(time.monotonic() - started, 3),
        **provenance(),
    }
    save_json(params_path, params)
    logger.info(
        f"Wrote {dest}: {model.architecture.network} with {params['parameters']:,} parameters, "
        f"schedule {model.denoiser.schedule.name}, t up to {model.about['tmax']:g}"
    )
    logger.info(f"Wrote {params_path}")
