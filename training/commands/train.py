"""Trains a denoiser on images, or on the rows of a table: what ``train.py`` runs."""

from pathlib import Path

from dnnlib.errors import UsageError
from torch_utils.distributed import process_group
from training.commands.networks import of_data_set
from training.commands.train_images import train_on_images
from training.commands.train_tables import train_on_table
from training.commands.training import settled
from training.files.table import holds_table
from training.learning.loop import Progress
from training.learning.refitting import law_file, refit_latent_law
from training.names import AUTO, IMAGE_NETWORK_NAMES, IMAGES, TABLE, TABLE_NETWORK
from training.options.train import TrainSettings
from training.subjects import NetworkFile


def run(settings: TrainSettings, progress: Progress | None = None) -> Path | None:
    """Trains, or learns a law of latents again. Returns the network file; None of a dry run."""
    if settings.law.refit_latent_law:
        return refit(settings)
    settings, resume = settled(settings, "data")
    data = settings.data.data
    assert data is not None
    kind = TABLE if holds_table(data) else IMAGES
    settings.require_kind(kind, str(data))
    require_network_of(settings, kind)
    train_on = {TABLE: train_on_table, IMAGES: train_on_images}[kind]
    return train_on(settings, data, resume, progress)


def require_network_of(settings: TrainSettings, kind: str) -> None:
    """Raises UsageError if the network or the dimensions are for the other kind of data."""
    network, table = settings.network.arch, kind == TABLE
    if network is not None and (network == TABLE_NETWORK) != table:
        known = [TABLE_NETWORK] if table else list(IMAGE_NETWORK_NAMES)
        raise UsageError(
            f"--arch={network} does not go with {settings.data.data}: give {', '.join(known)}"
        )
    if not table and settings.flow.dims_to_keep == AUTO:
        raise UsageError("--dims_to_keep=auto is for tables: give a number")


def refit(settings: TrainSettings) -> Path:
    """Learns the law of latents of a network that was trained before."""
    data, seed = settings.data.data, settings.run.seed
    assert settings.law.network is not None
    if data is None:
        raise UsageError("--refit_latent_law melts data: give --data")
    file = NetworkFile.open(settings.law.network)
    path = law_file(file.path, settings.run.outdir)
    subject = of_data_set(file, {})
    with process_group(settings.run.device_name) as device:
        refit_latent_law(file.model, subject.law_plan(data, seed, device), path, device)
    return path
