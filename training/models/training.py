"""Training of denoisers on toys, images, or rows of a table, and the options of resumed runs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.files import require_writable
from dnnlib.logs import logger
from dnnlib.warned import warn
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training import names
from training.data.images.dataset import ImageDataset
from training.data.images.stacks import ImageStack
from training.data.tables.making import exchanged
from training.data.tables.raw_shape import RawShape
from training.data.tables.repeated_trials import as_sets, one_of_each
from training.data.tables.table import DataTable
from training.data.toys import Toy
from training.files.records import load_data_set
from training.learning.building import ModelConfig, describe_training, resolved_options
from training.learning.cost import print_dry_run
from training.learning.run import Progress, TimeBudget, run_training, train_in_memory
from training.learning.run_folder import (
    CHOSEN,
    OPTIONS_NAME,
    Place,
    Resumed,
    read_chosen,
    read_record,
)
from training.models.reports import warn_if_longer
from training.names import script
from training.settings.declared import Declared
from training.settings.train import TrainSettings
from training.settings.training import ToyTrainSettings, as_typed, require_values
from training.subjects import (
    ImageTraining,
    RecordTraining,
    TableTraining,
    ToyTraining,
    Training,
)
from training.subjects.table_spaces import Space
from training.trained.network import TrainedNetwork

LEAST = 0.2
"""Smallest fraction of the time of a run for the steps of its training."""


class Trained(NamedTuple):
    """Result of a training: the model, or the network file that contains it.

    Attributes:
        model: TrainedNetwork, if the run was kept in memory.
        path: Network file, if the run has a directory.
    """

    model: TrainedNetwork | None = None
    path: Path | None = None


def training_of(
    settings: TrainSettings, data: Path | DataTable, name: str, embedding: nn.Module | None = None
) -> Training:
    """Return the training on a data set that the settings describe.

    Args:
        settings: Settings of the run.
        data: Data set, in a file or in memory.
        name: Name of the data for results.
        embedding: Network of the user's that embeds raw conditions; None for none.

    Raises:
        UsageError: Settings contradict the data set.
    """
    path = data if isinstance(data, Path) else Path(f"{name}.npz")
    table = load_data_set(data) if isinstance(data, Path) else data
    if table is None:
        return training_on_images(settings, path)
    _require_options_of_raw(settings, path, table.raw, embedding)
    if table.typed or settings.data.any or settings.data.ask:
        return training_on_records(settings, path, table.as_typed())
    table = table.with_held_out_last(isinstance(data, Path))
    return training_on_table(settings, path, table, embedding)


def training_on_records(settings: TrainSettings, data: Path, records: DataTable) -> RecordTraining:
    """Return the training for conditional queries that the options describe.

    Raises:
        UsageError: Options contradict the records.
    """
    settings.require_kind(names.TABLE, str(data))
    require_network(settings, (names.QUESTIONS,))
    settings.require_none_of_complete_tables(str(data))
    calibrates = RecordTraining.calibrates
    return RecordTraining(
        **shared_arguments(settings, names.QUESTIONS, len(records.columns), calibrates=calibrates),
        records=records,
        path=data,
        ask=settings.data.ask or (),
    )


def training_on_table(
    settings: TrainSettings, data: Path, rows: DataTable, embedding: nn.Module | None = None
) -> TableTraining:
    """Return the training on a table that the options describe.

    Raises:
        UsageError: Options contradict the table.
    """
    settings.require_kind(names.TABLE, str(data))
    table = with_wanted_conditions(settings, rows, data)
    likelihood, network = settings.data.likelihood, TableTraining.network
    require_network(settings, (network,))
    bounded = "map" if likelihood else settings.table.bounded
    space = Space(settings.table.marginals, names.AUTO, names.AUTO, bounded, names.AUTO)
    return TableTraining(
        **shared_arguments(settings, network, table.dim, calibrates=TableTraining.calibrates),
        table=table,
        path=data,
        space=space,
        likelihood=likelihood,
        condition_shape=settings.table.cond_shape,
        embedding=embedding,
        minutes=settings.training.minutes,
    )


def _require_options_of_raw(
    settings: TrainSettings, path: Path, raw: RawShape | None, embedding: nn.Module | None
) -> None:
    """Raise UsageError if options do not fit the raw data of a table, or there are none."""
    if embedding is not None and (raw is None or raw.kind != names.ARRAYS):
        raise UsageError(
            f"{path} has {raw or 'numbers'} as conditions: leave embedding out, or make the "
            f"simulations with data_as='{names.ARRAYS}'"
        )
    if raw is None:
        return
    if embedding is None and raw.kind == names.ARRAYS and settings.data.cond:
        raise UsageError(f"{path} has {raw} as conditions: give their network, embedding=")
    chosen = {**vars(settings.data), **vars(settings.table)}
    wrong = [name for name in ("likelihood", "any", "ask", "cond_shape") if chosen[name]]
    if wrong:
        raise UsageError(f"{path} has {raw} as conditions: leave {wrong[0]} out")


def training_on_images(
    settings: TrainSettings, data: Path, stack: ImageStack | None = None
) -> ImageTraining:
    """Return the training on images that the options describe.

    Args:
        settings: Settings of the run.
        data: Data set, or the name of images in memory.
        stack: Images in memory; None to read the data set.

    Raises:
        UsageError: Options contradict the images.
    """
    settings.require_kind(names.IMAGES, str(data))
    require_network(settings, names.IMAGE_NETWORK_NAMES)
    if settings.flow.dims_to_keep == names.AUTO:
        raise UsageError("--dims_to_keep=auto is for tables: give a number")
    options, network, run = settings.data, settings.network, settings.run
    images = ImageDataset(data, use_labels=options.cond, xflip=options.xflip, stack=stack)
    held_out = None
    if options.held_out:
        images, held_out = images.split(options.held_out, run.seed)
    precond = settings.flow.precond
    learns_gain = precond == "ifs" and settings.calibration.wanted(precond)
    sizes = {"cbase": network.cbase, "cres": ",".join(map(str, network.cres or ()))}
    return ImageTraining(
        **shared_arguments(
            settings, network.arch or names.IMAGE_NETWORK_NAMES[0], images.dim, learns_gain
        ),
        images=images,
        held_out=held_out,
        published=settings.training.preset == "published",
        tries_precisions=tries_precisions(settings),
        transfer=network.transfer,
        benchmarks=network.bench,
        sizes=" ".join(f"--{name}={sizes[name]}" for name in sizes if name in settings.given),
    )


def tries_precisions(settings: TrainSettings) -> bool:
    """Return whether the precision of training on images is chosen by measured speed."""
    unsaid = settings.network.precision is None and settings.training.preset != "published"
    return unsaid and not settings.run.dry_run


def require_network(settings: TrainSettings, known: tuple[str, ...]) -> None:
    """Check that the network is for this kind of data.

    Raises:
        UsageError: The network is for another kind of data.
    """
    network = settings.network.arch
    if network is not None and network not in known:
        raise UsageError(
            f"--arch={network} does not match {settings.data.data}: give {', '.join(known)}"
        )


def with_wanted_conditions(settings: TrainSettings, table: DataTable, path: Path) -> DataTable:
    """Return the table with its conditions if they are requested, or as the data of a likelihood.

    Raises:
        UsageError: Conditions are requested, but there are none, or an option applies only with
            conditions.
        DataError: All data of a likelihood are constant.
    """
    if settings.data.likelihood:
        settings.table.require_likelihood()
        table, lines = exchanged(table, str(path))
        for line in lines:
            logger.info(line)
        return table
    if settings.data.cond and table.conditions is None:
        raise UsageError(
            f"--cond is given, but {path} has no conditions: make it again "
            f"with {script('dataset_tool')} --conditions=NAMES"
        )
    if settings.data.cond:
        shape = settings.table.cond_shape
        if shape is not None and shape[0] == names.ANY_NUMBER:
            return as_sets(table, shape[1], str(path))
        return table
    settings.table.require_nothing_of_conditions()
    if table.condition_dim:
        left_out = ", ".join(table.condition_names)
        warn(
            "ignored-conditions",
            f"ignoring {left_out}: --cond makes the flow conditional on these columns",
        )
    return one_of_each(table.without_conditions())


def training_on_toy(settings: ToyTrainSettings) -> ToyTraining:
    """Return the training on a toy that the options describe.

    Raises:
        UsageError: Options contradict the toy.
    """
    assert settings.toy.data_name is not None
    toy = Toy(settings.toy.data_name, settings.toy.augment_to)
    return ToyTraining(
        **shared_arguments(settings, settings.network.arch, toy.dim),
        toy=toy,
        others=settings.toy.others,
    )


TrainingSettings = ToyTrainSettings | TrainSettings


def train(
    settings: TrainingSettings,
    training: Training,
    resume: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Run a training from its start, or resume an earlier run.

    Args:
        settings: Settings of the run. Without an output directory, nothing is written.
        training: The training.
        resume: Folder or state to resume; None for a new run.
        progress: Function called after each report with the fraction of the training that is done.

    Returns:
        The model, or the network file if there is an output directory; neither for a dry run.

    Raises:
        StoppedBySignal: SIGINT or SIGTERM came. In memory, SIGINT ends the training instead.
    """
    began, run, minutes = settings.began, settings.run, settings.training.minutes
    if resume is not None or run.dry_run:
        minutes = None
    elif minutes is not None and settings.training.duration is not None:
        raise UsageError("--minutes replaces --duration: give only one of them")
    threads = None
    if resume is not None:
        chosen = read_chosen(resume)
        threads, training = chosen.get("threads"), training.with_choices(chosen)
    kernels = _kernels(training.benchmarks)
    with kernels, process_group(run.device_name, threads, training.useful_threads) as device:
        resumed = Resumed.for_all_ranks(resume)
        start = training.start(device, resumed)
        fits = 0.0
        if minutes is not None:
            start.model.denoiser.to(device)
            training, fits = training.within(_left(minutes, began), start)
            start = training.start(device, resumed)
        model, loss, recipe = start.model, start.loss, start.recipe
        logger.info(model.denoiser.basis.describe())
        logger.info(describe_training(model, loss, recipe))
        resolved = {
            **start.resolved,
            **resolved_options(model),
            "calibrate": start.ending.calibration is not None,
            "threads": torch.get_num_threads(),
        }
        own = settings.recorded().keys() & resolved.keys()
        options = settings.recorded(**{name: resolved[name] for name in own})
        chosen = {name: value for name, value in resolved.items() if name not in own}
        chosen |= start.space
        record = {"options": options, CHOSEN: chosen, **provenance("started")}
        if run.dry_run:
            print_dry_run(record, model)
            return Trained()
        model.denoiser.to(device)
        trainer, source = training.begin(start, resumed)
        name = "-".join(part for part in (*start.name, run.desc) if part)
        work: dict[str, Any] = {
            "ending": start.ending,
            "watch": start.watch(),
            "progress": progress,
            "budget": None
            if minutes is None
            else TimeBudget(_left(minutes, began, fits), began + 60 * minutes),
        }
        if run.outdir is None:
            result = Trained(model=train_in_memory(trainer, source, **work))
        else:
            place = Place(run.outdir, name, run.nosubdir)
            record = record if resume is None else record_of(resume, recipe.duration)
            result = Trained(path=run_training(trainer, source, place, record, resumed, **work))
        if minutes is not None:
            seconds, early = monotonic() - began, trainer.step < trainer.recipe.steps
            reason = "validation stopped improving" if early else "all planned steps are done"
            logger.info(f"Ended after {seconds:.0f} of {60 * minutes:.0f} s: {reason}")
        why = "choices before the training and fits after it took longer than expected"
        warn_if_longer("the training", monotonic() - began, minutes, why)
        return result


@contextmanager
def _kernels(benchmark: bool) -> Iterator[None]:
    """Set whether cuDNN searches for its fastest kernels, for the duration of the block."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _left(minutes: float, began: float, fits: float = 0.0) -> float:
    """Return the seconds that are left for the steps of a training, a fifth of all or more.

    Args:
        minutes: Minutes of the whole run.
        began: Time of its start.
        fits: Seconds of the fits after the training.
    """
    return max(60 * minutes - (monotonic() - began) - fits, LEAST * 60 * minutes)


def shared_arguments(
    settings: TrainingSettings,
    network: str,
    dim: int,
    learns_gain: bool = False,
    calibrates: bool = True,
) -> dict[str, Any]:
    """Return the arguments that all trainings share, for data of ``dim`` dimensions.

    The arguments of the network are omitted, since they follow from the data.

    Args:
        settings: Settings of the run.
        network: Name of the network.
        dim: Number of dimensions.
        learns_gain: Whether a factor on the network output is learned.
        calibrates: Whether the denoiser is calibrated by default.

    Raises:
        UsageError: Options contradict each other.
    """
    calibration, flow, precond = settings.calibration, settings.flow, settings.flow.precond
    choices = flow.into(
        ModelConfig,
        inflation=flow.arguments(precond, dim),
        network=network,
        network_arguments={},
        space=settings.network.space,
        noise_cond=settings.network.noise_cond or ("ddpm" if precond == "vp" else "log"),
        t_min=flow.tmin,
        t_max=flow.tmax,
        output_gain=learns_gain,
        seed=settings.run.seed,
    )
    calibrate = calibration.wanted(precond, calibrates)
    return {
        "model_config": choices,
        "data_dim": settings.flow.data_dim,
        "amounts": settings.recorded(),
        "calibrate": calibrate,
        "inflates": precond == "ifs",
        "dry_run": settings.run.dry_run,
    }


S = TypeVar("S", bound=Declared)


def settled(settings: S, data: str) -> tuple[S, Path | None]:
    """Return the settings of a new run, or of the resumed one.

    Args:
        settings: Settings as given.
        data: Name of the option for the data set.

    Returns:
        The settings, and the folder or state to resume, if there is one.

    Raises:
        click.UsageError: The data set or the output directory is missing.
        UsageError: A given option contradicts the resumed run.
        DataError: The resumed run is of another script, or its options cannot be read; or the
            folder of a new run cannot be written.
    """
    values = settings.recorded()
    place = values["resume"]
    if place is not None:
        record = read_record(place)
        saved, command = record["options"], record.get("command")
        if data not in saved:
            script = command[0] if isinstance(command, list) and command else "another script"
            raise DataError(
                f"{place} is a run of {script}, which has no --{data}: resume it with that script"
            )
        free = type(settings).names_that_are("free")
        merged = resumed_options(values, settings.given, saved, free, str(place))
        source = (place if place.is_dir() else place.parent) / OPTIONS_NAME
        settings = type(settings).of(as_typed(type(settings), merged, source), settings.given)
        values = settings.recorded()
    require_values(values, data)
    if place is None and not values["dry_run"]:
        require_writable(Path(values["outdir"]))
    return settings, place


def resumed_options(
    typed: Mapping[str, Any],
    given: Iterable[str],
    saved: Mapping[str, Any],
    free: Iterable[str],
    source: str,
) -> dict[str, Any]:
    """Return the options of a resumed run: saved values, but new values of options that may change.

    Args:
        typed: Options of the command line, with defaults.
        given: Names of the options that were given.
        saved: Options of the resumed run.
        free: Names of options that may change; their parsed values are used if they were given.
        source: Origin of the saved options, for the error message.

    Raises:
        UsageError: A given option contradicts the resumed run.
    """
    merged = {**typed, **saved}
    for name in given:
        if name not in free:
            agree(name, _plain(typed[name]), saved.get(name), source)
        merged[name] = typed[name]
    return merged


def _plain(value: Any) -> Any:
    """Return a value as JSON represents it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def record_of(resume: Path, duration: float) -> dict[str, Any]:
    """Return the contents of ``training_options.json`` for a resumed run.

    They are the previous contents, with a new length in million samples if they contain a length.

    Raises:
        DataError: The file cannot be read.
    """
    began = read_record(resume)
    length = {"duration": duration} if "duration" in began["options"] else {}
    return {**began, "options": {**began["options"], **length}}
