"""Students of trained networks: what ``distill.py`` runs."""

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from torch_utils.results import provenance, save_json
from training.learning.distilling import Lessons, distill
from training.options.networks import DistillSettings
from training.subjects import NetworkFile, open_subject

FORMAT = "inflationary-flows student 1"


@first_rank_only
def run(settings: DistillSettings) -> None:
    params_path = settings.dest.with_name(f"{settings.dest.stem}_distill_params.json")
    require_new([settings.dest, params_path], settings.overwrite, option="--dest")
    file = NetworkFile.open(settings.network)
    if settings.dest.resolve() == file.path.resolve():
        raise UsageError(f"--dest is the teacher's file, {file.path}: give another")
    labels = open_subject(file).given_with(settings.data)
    measured = distill(file.model, settings.into(Lessons), labels)
    file.model.held_out = None  # of the teacher's posteriors
    file.model.save(settings.dest)
    params = {"format": FORMAT, "options": settings.recorded(), **measured, **provenance()}
    save_json(params_path, params)
    described = (
        "in {calls} calls a student is off by {generated:.1e} standard deviations where it "
        "generates, {melted:.1e} where it melts, {round_trip:.1e} there and back; log densities by "
        "{nats_generated:.2g} and {nats_melted:.2g} nats (root mean squares); taught in "
        "{seconds:.0f} s of CPU"
    ).format(**measured)
    logger.info(f"Wrote {settings.dest}: {described}")
    logger.info(f"Wrote {params_path}")
