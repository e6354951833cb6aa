"""Trains a denoiser on images, or on the rows of a table: what ``train.py`` runs."""

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils.determinism import algorithms
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.data.augment import AugmentedBatches, GeometricAugmentation
from training.data.batches import BatchSource
from training.data.images.batches import ImageBatches, ImageDataset
from training.data.tables.table import Rows
from training.files.table import holds_table, load_table
from training.flow.calls import BLOCK_ROWS
from training.flow.eigenbasis import EigenBasis
from training.learning.building import describe_training, resolved_options
from training.learning.calibrating import CalibrationPlan
from training.learning.compiling import compile_network
from training.learning.cost import tell_dry_run
from training.learning.held_out import HeldOut
from training.learning.images import (
    DRY_RUN_IMAGES,
    about_images,
    calibration_points,
    fit_basis,
    melted_images,
    open_alike,
)
from training.learning.limits import require_batch, require_network
from training.learning.melting import MOST, LawPlan, points_to_melt
from training.learning.precision import fastest_precision
from training.learning.recipes import (
    ImageRecipe,
    describe_recipe,
    describe_table_recipe,
    fitted_to_table,
)
from training.learning.refitting import law_file, refit_latent_law
from training.learning.resuming import Resumed
from training.learning.run import run_training
from training.learning.selection import Watch
from training.learning.tables import (
    Preparation,
    about_table,
    choose_space,
    kept_dimensions,
    rows_to_melt,
)
from training.learning.trainer import Trainer
from training.model.model import Model
from training.names import AXES_TOO, TABLE_NETWORK
from training.settings.train import FREE_ON_RESUME, TrainSettings
from training.settings.training import record_of, settled, training_config
from training.simulation.networks import NetworkChoice, NetworkFile
from training.simulation.subjects import subject_of
from training.simulation.tables import TableFlow


def run(settings: TrainSettings) -> None:
    if settings.law.refit_latent_law:
        refit(settings)
        return
    settings, resume = settled(settings, "data", FREE_ON_RESUME)
    data = settings.data.data
    assert data is not None
    table = holds_table(data)
    settings.require_kind(table)
    if table:
        train_on_table(settings, data, resume)
    else:
        train_on_images(settings, data, resume)


def train_on_table(settings: TrainSettings, data: Path, resume: Path | None) -> None:
    """Trains on the rows of a table that are not held out."""
    run, how = settings.run, settings.calibration
    calibrate = how.wanted(settings.flow.precond, by_default=False)
    whole = load_table(data)
    table = settings.of_table(whole)
    rows, conditions = len(table.train_rows), table.condition_dim
    if whole.condition_dim and not conditions:
        told = ", ".join(whole.condition_names)
        logger.warning(f"Warning: {told} left out: --cond conditions the flow on such columns")
    recipe = fitted_to_table(rows, table.dim, settings.recorded(), conditions)
    group = process_group(run.device_name, run.threads, recipe.useful_threads)
    with algorithms(run.deterministic), group as device:
        resumed = Resumed.find(resume) if resume else None
        logger.info(describe_table_recipe(recipe, rows, table.dim, conditions))
        require_batch(recipe.batch, table.dim, device)
        kept = kept_dimensions(settings.flow.dims_to_keep, table)
        choices = settings.table_choices(recipe, table, kept)
        config = training_config(recipe, settings.training, run)
        preparation = Preparation(table, choices, config, device)
        ways = settings.table
        screen = "off" if ways.cond_shape else ways.cond_screen
        space = choose_space(
            preparation, ways.marginals, ways.whiten, ways.linear_start, ways.bounded, screen
        )
        coordinates = preparation.coordinates(space)
        if resumed:
            resumed.take_coordinates(coordinates)
        far = preparation.told_of_far_rows(coordinates, space)
        if far:
            logger.warning(f"Warning: {far}, or try --marginals={AXES_TOO}")
        model, loss = preparation.build(coordinates)
        model.about |= about_table(table, data.stem)
        logger.info(model.denoiser.basis.describe())
        logger.info(describe_training(model, loss, config))
        found = {**asdict(recipe), **asdict(space), **resolved_options(model, loss)}
        options = settings.recorded(
            **found, arch=TABLE_NETWORK, calibrate=calibrate, threads=torch.get_num_threads()
        )
        record = {"options": options, **provenance("started")}
        if run.dry_run:
            tell_dry_run(record, model, loss, config, run.card_memory)
            return
        held_out = preparation.held_out(coordinates, loss)
        fit = preparation.calibration(coordinates, how.calibration_fit) if calibrate else None
        law = settings.law.law_plan(settings.flow.precond, preparation.law(coordinates))
        if conditions and kept == table.dim:
            law = None  # whether draws are normal given conditions, posterior.py check asks
        run_training(
            Trainer(model, loss, config),
            preparation.source(coordinates),
            run.place(data.stem, loss.schedule.name, TABLE_NETWORK, "cond" if conditions else None),
            record_of(record, resume, recipe.duration),
            resumed,
            fit,
            law,
            watch=Watch(held_out, True, recipe.patience) if held_out else None,
        )


def train_on_images(settings: TrainSettings, data: Path, resume: Path | None) -> None:
    """Trains on images."""
    run = settings.run
    dataset = ImageDataset(data, use_labels=settings.data.cond, xflip=settings.data.xflip)
    fraction = settings.data.held_out
    dataset, held_out = dataset.split(fraction, run.seed) if fraction else (dataset, None)
    calibration = calibration_plan(settings, dataset)
    kernels = algorithms(run.deterministic, settings.network.bench)
    with kernels, process_group(run.device_name, run.threads) as device:
        resumed = resumed_on(dataset, resume) if resume else None
        recipe = settings.recipe(len(dataset), dataset.image_shape, device)
        choices = settings.choices(recipe, dataset)
        if settings.training.preset == "auto":
            logger.info(describe_recipe(recipe, len(dataset), dataset.image_shape, device))
        require_batch(recipe.batch, dataset.dim, device)
        with settings.sizes_named():
            require_network(choices.network, choices.network_arguments, device)
        if recipe.cache and not run.dry_run:
            dataset.keep_in_memory()
        augmentation = GeometricAugmentation(recipe.augment) if recipe.augment else None
        basis, variance = basis_of(settings, dataset, resumed, augmentation, device)
        model, loss = choices.build(basis, variance)
        model.about |= about_images(dataset)
        config = training_config(recipe, settings.training, run)
        if settings.tries_precisions(device):
            recipe = replace(recipe, precision=fastest_precision(model, loss, config))
        logger.info(f"{len(dataset)} images of {dataset.image_shape} in {dataset.path}")
        logger.info(basis.describe())
        logger.info(describe_training(model, loss, config))
        options = settings.resolved(
            recipe,
            calibrate=calibration is not None,
            noise_cond=choices.noise_cond,
            t_sampling=loss.t_sampling,
            threads=torch.get_num_threads(),
            **resolved_options(model, loss),
        )
        record = {"options": options, **provenance("started")}
        if run.dry_run:
            card = run.card_memory
            tell_dry_run(record, model, loss, config, card, recipe.precision, device.type)
            return
        if settings.network.transfer and not resumed:
            transfer(settings.network.transfer, model)
        model.denoiser.to(device)
        model.denoiser.precision = recipe.precision
        trainer = Trainer(model, loss, config)
        source = batch_source(dataset, recipe, augmentation, run.seed, device)
        if settings.network.compile:
            compile_network(trainer, source)
        place = run.place(*settings.name_parts(dataset.name, loss.schedule.name, recipe))
        watch = Watch(HeldOut.of_images(held_out, loss, run.seed)) if held_out else None
        law = law_plan(settings, dataset, held_out, config.total, device)
        record = record_of(record, resume, recipe.duration)
        run_training(trainer, source, place, record, resumed, calibration, law, watch)


def refit(settings: TrainSettings) -> None:
    """Learns the law of latents of a network that was trained before."""
    data, seed = settings.data.data, settings.run.seed
    assert settings.law.network is not None
    if data is None:
        raise UsageError("--refit_latent_law melts data: give --data")
    choice = NetworkChoice(settings.law.network)
    file = NetworkFile.open(choice)
    path = law_file(file.path, settings.run.outdir)
    subject = subject_of(file, choice, None)
    with process_group(settings.run.device_name) as device:
        if isinstance(subject, TableFlow):
            train, held_out = map(Rows, subject.halves(data))
            plan = rows_to_melt(train, held_out, subject.coordinates, seed, MOST)
        else:
            dataset = subject.dataset(data, None, seed)
            rows = BLOCK_ROWS[device.type]
            plan = LawPlan(partial(melted_images, dataset), None, MOST, seed, rows)
        refit_latent_law(file.model, plan, path, device)


def resumed_on(dataset: ImageDataset, resume: Path) -> Resumed:
    """The state that a training goes on from.

    Raises:
        DataError: There is none, or it is of images of another size.
    """
    resumed = Resumed.find(resume)
    if resumed.basis.dim != dataset.dim:
        raise DataError(
            f"{resumed.path} is of data with {resumed.basis.dim} dimensions, but "
            f"{dataset.path} has {dataset.dim}: give the data set that the run began with"
        )
    return resumed


def basis_of(
    settings: TrainSettings,
    dataset: ImageDataset,
    resumed: Resumed | None,
    augmentation: GeometricAugmentation | None,
    device: torch.device,
) -> tuple[EigenBasis, Tensor | None]:
    """The basis of the images and the variance of augmented ones, or those of a resumed run."""
    if resumed:
        return resumed.basis, resumed.data_variance
    limit = settings.data.batch_pca or len(dataset)
    limit = min(limit, DRY_RUN_IMAGES) if settings.run.dry_run else limit
    return fit_basis(dataset, limit, augmentation, settings.run.seed, device)


def law_plan(
    settings: TrainSettings,
    dataset: ImageDataset,
    held_out: ImageDataset | None,
    samples: float,
    device: torch.device,
) -> LawPlan | None:
    """How to learn the law of latents of images, for a training on so many samples."""
    plan = LawPlan(
        partial(melted_images, dataset),
        partial(melted_images, held_out) if held_out else None,
        points_to_melt(samples),
        settings.run.seed,
        BLOCK_ROWS[device.type],
    )
    return settings.law.law_plan(settings.flow.precond, plan)


def calibration_plan(settings: TrainSettings, dataset: ImageDataset) -> CalibrationPlan | None:
    """How to calibrate, on the data set or on the images that were given for it."""
    if not settings.calibration.wanted(settings.flow.precond):
        return None
    given = settings.calibration.calibration_data
    images = open_alike(given, dataset, settings.data.cond) if given else dataset
    return CalibrationPlan(
        lambda: calibration_points(images),
        settings.run.seed,
        settings.calibration.calibration_fit,
    )


def batch_source(
    dataset: ImageDataset,
    recipe: ImageRecipe,
    augmentation: GeometricAugmentation | None,
    seed: int,
    device: torch.device,
) -> BatchSource:
    """Batches of the images, augmented if they are to be."""
    images = ImageBatches(dataset, recipe.batch, seed, device, recipe.workers)
    if augmentation is None:
        return images
    return AugmentedBatches(images, augmentation, dataset.image_shape, recipe.batch, seed)


def transfer(location: str, model: Model) -> None:
    """Starts a model from the weights of another one's network that have its names and shapes.

    Its output gain stays behind: that belongs to the axes and times of the other one's data.
    """
    path = local_file(location)
    given = Model.load(path).denoiser.network.state_dict()
    own = model.denoiser.network.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise UsageError(f"{path} has no weights that fit this {model.recipe.network}")
    model.denoiser.network.load_state_dict({**own, **fitting})
    logger.info(f"Took {len(fitting)} of {len(own)} tensors from {path}")
