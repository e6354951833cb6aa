"""Network files of other networks: what ``import_network.py`` and ``distill.py`` run."""

import time

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from torch_utils.results import provenance, save_json
from training.learning.distilling import Lessons, distill
from training.options.networks import DistillSettings, ImportSettings
from training.original.model import import_original
from training.subjects import NetworkFile, open_subject

IMPORT_FORMAT = "inflationary-flows imported network 1"


@first_rank_only
def import_network(settings: ImportSettings) -> None:
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
        "format": IMPORT_FORMAT,
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


STUDENT_FORMAT = "inflationary-flows student 1"


@first_rank_only
def teach(settings: DistillSettings) -> None:
    params_path = settings.dest.with_name(f"{settings.dest.stem}_distill_params.json")
    require_new([settings.dest, params_path], settings.overwrite, option="--dest")
    file = NetworkFile.open(settings.network)
    if settings.dest.resolve() == file.path.resolve():
        raise UsageError(f"--dest is the teacher's file, {file.path}: give another")
    labels = open_subject(file).given_with(settings.data)
    measured = distill(file.model, settings.into(Lessons), labels)
    file.model.held_out = None  # of the teacher's posteriors
    file.model.save(settings.dest)
    params = {"format": STUDENT_FORMAT, "options": settings.recorded(), **measured, **provenance()}
    save_json(params_path, params)
    described = (
        "in {calls} calls a student is off by {generated:.1e} standard deviations where it "
        "generates, {melted:.1e} where it melts, {round_trip:.1e} there and back; log densities by "
        "{nats_generated:.2g} and {nats_melted:.2g} nats (root mean squares); taught in "
        "{seconds:.0f} s of CPU"
    ).format(**measured)
    logger.info(f"Wrote {settings.dest}: {described}")
    logger.info(f"Wrote {params_path}")
