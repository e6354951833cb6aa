"""Students of trained networks: what ``distill.py`` runs."""

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import rank_from_environment
from training.learning.distilling import Lessons, distill
from training.options.distill import DistillSettings
from training.subjects import NetworkFile, open_subject


def run(settings: DistillSettings) -> None:
    if rank_from_environment() != 0:
        return  # one process makes the file
    require_new([settings.dest], settings.overwrite, option="--dest")
    file = NetworkFile.open(settings.network)
    if settings.dest.resolve() == file.path.resolve():
        raise UsageError(f"--dest is the teacher's file, {file.path}: give another")
    labels = open_subject(file).given_with(settings.data)
    found = distill(file.model, settings.into(Lessons), labels)
    file.model.save(settings.dest)
    logger.info(f"Wrote {settings.dest}: {described(found)}")


def described(found: dict[str, float]) -> str:
    """How far a student is from its teacher, in words."""
    return (
        "in {calls} calls a student is off by {generated:.1e} standard deviations where it "
        "generates, {melted:.1e} where it melts, {round_trip:.1e} there and back; log densities by "
        "{nats_generated:.2g} and {nats_melted:.2g} nats (root mean squares)"
    ).format(**found)
