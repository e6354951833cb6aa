"""Trains a denoiser on images, or on the rows of a table: what ``train.py`` runs."""

from pathlib import Path

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from training import names
from training.commands.shared import of_data_set
from training.commands.training import refit, settled, train, wanted
from training.data.images.dataset import ImageDataset
from training.data.records.records import Records
from training.data.tables.making import exchanged
from training.data.tables.table import DataTable, as_records
from training.data.tables.trials import as_sets, one_of_each
from training.files.records import holds_records, load_records
from training.files.table import holds_table, load_table
from training.learning.run import Progress
from training.options.train import TrainSettings
from training.subjects import (
    ImageTraining,
    NetworkFile,
    RecordTraining,
    TableTraining,
    Training,
    TrialTraining,
)
from training.subjects.image_training import open_alike
from training.subjects.table_spaces import Space


def run(settings: TrainSettings, progress: Progress | None = None) -> Path | None:
    """Trains, or learns a law of latents again. Returns the network file; None of a dry run."""
    if settings.law.refit_latent_law:
        assert settings.law.network is not None
        if settings.data.data is None:
            raise UsageError("--refit_latent_law melts data: give --data")
        file = NetworkFile.open(settings.law.network)
        return refit(settings, file, of_data_set(file, {}), settings.data.data)
    settings, resume = settled(settings, "data")
    assert settings.data.data is not None
    return train(settings, training_of(settings, settings.data.data), resume, progress)


def training_of(settings: TrainSettings, data: Path) -> Training:
    """What options say of a training on a data set. Raises UsageError if they contradict it."""
    if holds_records(data):
        return training_on_records(settings, data, load_records(data))
    if not holds_table(data):
        return training_on_images(settings, data)
    if settings.data.any or settings.data.ask:
        return training_on_records(settings, data, as_records(load_table(data)))
    return training_on_table(settings, data)


def training_on_records(settings: TrainSettings, data: Path, records: Records) -> RecordTraining:
    """What options say of a training for questions. Raises UsageError if they contradict it."""
    settings.require_kind(names.TABLE, str(data))
    require_network(settings, (names.QUESTIONS,))
    settings.require_none_of_complete_tables(str(data))
    calibrates = RecordTraining.calibrates
    return RecordTraining(
        wanted=wanted(settings, names.QUESTIONS, len(records.columns), calibrates=calibrates),
        records=records,
        path=data,
        ask=settings.data.ask or (),
    )


def training_on_table(settings: TrainSettings, data: Path) -> TableTraining:
    """What options say of a training on a table. Raises UsageError if they contradict it."""
    settings.require_kind(names.TABLE, str(data))
    table = with_wanted_conditions(settings, load_table(data))
    likelihood = settings.data.likelihood
    if table.points.isnan().any():
        return training_on_trials(settings, data, table)
    require_network(settings, (names.TABLE_NETWORK,))
    gain = bool(settings.network.output_gain)
    return TableTraining(
        wanted=wanted(settings, names.TABLE_NETWORK, table.dim, gain, TableTraining.calibrates),
        table=table,
        path=data,
        space=settings.table.into(Space, **({"bounded": "map"} if likelihood else {})),
        likelihood=likelihood,
        condition_shape=settings.table.cond_shape,
    )


def training_on_trials(settings: TrainSettings, data: Path, table: DataTable) -> TrialTraining:
    """What options say of a training on the table of a likelihood, of which data are missing.
    Raises UsageError if they contradict it."""
    require_network(settings, (names.TRIAL_NETWORK,))
    what = f"the likelihood of {data}, which has missing data,"
    settings.require_none_of_complete_tables(what, but=["likelihood", "cond"])
    return TrialTraining(
        wanted=wanted(
            settings, names.TRIAL_NETWORK, table.dim, calibrates=TrialTraining.calibrates
        ),
        table=table,
        path=data,
        space=Space("none", "none"),
        likelihood=True,
    )


def training_on_images(settings: TrainSettings, data: Path) -> ImageTraining:
    """What options say of a training on images. Raises UsageError if they contradict it."""
    settings.require_kind(names.IMAGES, str(data))
    require_network(settings, names.IMAGE_NETWORK_NAMES)
    if settings.flow.dims_to_keep == names.AUTO:
        raise UsageError("--dims_to_keep=auto is for tables: give a number")
    options, network, run = settings.data, settings.network, settings.run
    images, held_out = ImageDataset(data, use_labels=options.cond, xflip=options.xflip), None
    if options.held_out:
        images, held_out = images.split(options.held_out, run.seed)
    inflates = settings.flow.precond == "ifs"
    gain = inflates if network.output_gain is None else network.output_gain
    other = settings.calibration.calibration_data
    sizes = {"cbase": network.cbase, "cres": ",".join(map(str, network.cres or ()))}
    return ImageTraining(
        wanted=wanted(settings, network.arch or names.IMAGE_NETWORK_NAMES[0], images.dim, gain),
        images=images,
        held_out=held_out,
        calibrated_on=open_alike(other, images, options.cond) if other else None,
        published=settings.training.preset == "published",
        basis_images=options.batch_pca,
        tries_precisions=tries_precisions(settings),
        transfer=network.transfer,
        compiles=network.compile,
        benchmarks=network.bench,
        sizes=" ".join(f"--{name}={sizes[name]}" for name in sizes if name in settings.given),
    )


def tries_precisions(settings: TrainSettings) -> bool:
    """Whether the time that it takes is to say in which precision images are trained on."""
    unsaid = settings.network.precision is None and settings.training.preset != "published"
    return unsaid and not (settings.run.deterministic or settings.run.dry_run)


def require_network(settings: TrainSettings, known: tuple[str, ...]) -> None:
    """Raises UsageError if the network is for the other kind of data."""
    network = settings.network.arch
    if network is not None and network not in known:
        raise UsageError(
            f"--arch={network} does not go with {settings.data.data}: give {', '.join(known)}"
        )


def with_wanted_conditions(settings: TrainSettings, table: DataTable) -> DataTable:
    """The table, with conditions if they are wanted, or as the likelihood's. Raises UsageError if
    they are wanted, but there are none, or an option is for them alone, DataError if no data of a
    likelihood vary."""
    if settings.data.likelihood:
        settings.table.require_likelihood()
        table, lines = exchanged(table, str(settings.data.data))
        for line in lines:
            logger.info(line)
        return table
    if settings.data.cond and table.conditions is None:
        raise UsageError(
            f"--cond is given, but {settings.data.data} has no conditions: make it with "
            "dataset_tool.py --conditions=NAMES"
        )
    if settings.data.cond and table.has_holes:
        raise UsageError(
            f"{settings.data.data} has trials with missing data, which no flow given these takes: "
            "give --likelihood in place of --cond, or make it with dataset_tool.py --missing=drop"
        )
    if settings.data.cond:
        shape = settings.table.cond_shape
        if shape is not None and shape[0] == names.ANY_NUMBER:
            return as_sets(table, shape[1], str(settings.data.data))
        return table
    settings.table.require_nothing_of_conditions()
    if table.condition_dim:
        left_out = ", ".join(table.condition_names)
        more = "--cond conditions the flow on such columns"
        if table.has_holes:
            more = "--likelihood trains the law of such data, also where some are missing"
        logger.warning(f"Warning: {left_out} left out: {more}")
    return one_of_each(table.without_conditions())
