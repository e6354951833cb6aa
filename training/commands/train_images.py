"""Trains a denoiser on images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils.determinism import algorithms
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.commands.training import law_to_learn, place_of, record_of, training_config
from training.data.augment import AugmentedBatches, GeometricAugmentation
from training.data.batches import BatchSource
from training.data.images.batches import ImageBatches, ImageDataset
from training.flow.calls import BLOCK_ROWS
from training.flow.eigenbasis import EigenBasis
from training.learning.building import Choices, describe_training, resolved_options
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
from training.learning.loop import Progress
from training.learning.melting import LawPlan, points_to_melt
from training.learning.precision import fastest_precision
from training.learning.resuming import Resumed
from training.learning.run import run_training
from training.learning.selection import Watch
from training.learning.trainer import Trainer
from training.model.model import Model
from training.names import LABEL_DIM
from training.options.train import TrainSettings
from training.recipes import (
    COMPRESSED_TIME,
    PUBLISHED_T_MAX,
    ImageRecipe,
    describe_recipe,
    fitted,
    published,
)


def train_on_images(
    settings: TrainSettings, data: Path, resume: Path | None, progress: Progress | None
) -> Path | None:
    """Trains on images."""
    run = settings.run
    dataset = ImageDataset(data, use_labels=settings.data.cond, xflip=settings.data.xflip)
    fraction = settings.data.held_out
    dataset, held_out = dataset.split(fraction, run.seed) if fraction else (dataset, None)
    calibration = calibration_plan(settings, dataset)
    kernels = algorithms(run.deterministic, settings.network.bench)
    with kernels, process_group(run.device_name, run.threads) as device:
        resumed = resumed_on(dataset, resume) if resume else None
        recipe = image_recipe(settings, len(dataset), dataset.image_shape, device)
        choices = image_choices(settings, recipe, dataset)
        if settings.training.preset == "auto":
            logger.info(describe_recipe(recipe, len(dataset), dataset.image_shape, device.type))
        require_batch(recipe.batch, dataset.dim, device)
        with sizes_named(settings):
            require_network(choices.network, choices.network_arguments, device)
        if recipe.cache and not run.dry_run:
            dataset.keep_in_memory()
        augmentation = GeometricAugmentation(recipe.augment) if recipe.augment else None
        basis, variance = basis_of(settings, dataset, resumed, augmentation, device)
        model, loss = choices.build(basis, variance)
        model.about |= about_images(dataset)
        config = training_config(recipe, settings.training, run)
        if tries_precisions(settings, device):
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
            return None
        if settings.network.transfer and not resumed:
            transfer(settings.network.transfer, model)
        model.denoiser.to(device)
        model.denoiser.precision = recipe.precision
        trainer = Trainer(model, loss, config)
        source = batch_source(dataset, recipe, augmentation, run.seed, device)
        if settings.network.compile:
            compile_network(trainer, source)
        place = place_of(run, *settings.name_parts(dataset.name, loss.schedule.name, recipe))
        watch = Watch(HeldOut.of_images(held_out, loss, run.seed)) if held_out else None
        law = law_plan(settings, dataset, held_out, config.total, device)
        record = record_of(record, resume, recipe.duration)
        return run_training(
            trainer, source, place, record, resumed, calibration, law, watch, progress
        )


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
    return law_to_learn(settings.law, settings.flow.precond, plan)


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


def image_recipe(
    settings: TrainSettings, images: int, image_shape: Sequence[int], device: torch.device
) -> ImageRecipe:
    """The amounts that were given, and the preset's where they were left out."""
    values = settings.recorded()
    if settings.training.preset == "published":
        return published(settings.arch, values)
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return fitted(settings.arch, images, image_shape, device.type, values, has_bf16)


def tries_precisions(settings: TrainSettings, device: torch.device) -> bool:
    """Whether the time that it takes is to say in which precision images are trained on."""
    unsaid = settings.network.precision is None and settings.training.preset != "published"
    return (
        unsaid and device.type == "cpu" and not (settings.run.deterministic or settings.run.dry_run)
    )


def image_choices(settings: TrainSettings, recipe: ImageRecipe, dataset: ImageDataset) -> Choices:
    """The model to build for a data set.

    Raises:
        UsageError: Options contradict the data set or each other.
    """
    flow, network = settings.flow, settings.network
    agree("data_dim", flow.data_dim, dataset.dim, f"the data set {dataset.name}")
    is_published, inflating = settings.training.preset == "published", flow.precond == "ifs"
    return Choices(
        precond=flow.precond,
        inflation=flow.arguments(flow.precond, dataset.dim),
        network=settings.arch,
        network_arguments={
            "image_shape": list(dataset.image_shape),
            "label_dim": dataset.label_dim,
            "augment_dim": LABEL_DIM if recipe.augment else 0,
            "model_channels": recipe.cbase,
            "channel_mult": list(recipe.cres),
            "dropout": recipe.dropout,
            # What is left out is not written either: networks without are what they were.
            **({"num_blocks": recipe.blocks} if recipe.blocks else {}),
            **({"pixel_waves": recipe.pixel_waves} if recipe.pixel_waves else {}),
        },
        space=network.space,
        noise_cond=network.noise_cond or ("ddpm" if flow.precond == "vp" else "log"),
        t_min=flow.tmin,
        t_max=flow.tmax or (PUBLISHED_T_MAX if is_published and inflating else None),
        compressed_time=COMPRESSED_TIME,
        t_sampling=flow.t_sampling,
        output_gain=settings.output_gain,
        seed=settings.run.seed,
    )


@contextmanager
def sizes_named(settings: TrainSettings) -> Iterator[None]:
    """Names the options, not the network's arguments, in errors about its sizes."""
    try:
        yield
    except UsageError as error:
        sizes = {
            "cbase": settings.network.cbase,
            "cres": ",".join(map(str, settings.network.cres or ())),
        }
        typed = [f"--{name}={size}" for name, size in sizes.items() if name in settings.given]
        text = str(error).replace("channel_mult", "--cres")
        raise UsageError(": ".join([*filter(None, [" ".join(typed)]), text])) from error


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
