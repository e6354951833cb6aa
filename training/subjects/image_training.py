"""Training on images."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from training.data.augment import AugmentedBatches, GeometricAugmentation, augmented_points
from training.data.batches import Batch, BatchSource
from training.data.images.dataset import ImageBatches, ImageDataset, basis_batches
from training.data.images.stacks import GRAY_RANGE
from training.data.row_hashes import MOST_SKETCHED, RowHashes, row_numbers
from training.flow.denoisers import BLOCK_ROWS
from training.flow.eigenbasis import EigenBasis
from training.learning.building import ModelConfig
from training.learning.cost import (
    fastest_precision,
    require_batch,
    require_network,
)
from training.learning.finishing import LatentPlan, points_to_inflate
from training.learning.held_out import HeldOut, Validation
from training.learning.loss import DenoisingLoss
from training.learning.run import PostTraining
from training.learning.run_folder import Resumed
from training.learning.trainer import Trainer
from training.names import IMAGES, LABEL_DIM
from training.recipes import (
    COMPRESSED_TIME,
    PUBLISHED_T_MAX,
    ImageRecipe,
    describe_recipe,
    fitted,
    published,
)
from training.subjects.training import Start, Training
from training.trained.network import TrainedNetwork

DRY_RUN_IMAGES = 1000
VARIANCE_IMAGES = 10_000
# Each point takes 33 network evaluations, all points together about as much as training on 11,000
# images. The error of a slope is about one over the square root of their number.
CALIBRATION_POINTS = 1000
MOST_MELTED = 10_000
READ_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTraining(Training):
    """A training on images.

    Attributes:
        images: Training images.
        held_out: Images for the validation loss of every report; None for no validation.
        published: Whether to use the recipe of the paper, not one fitted to images and device.
        tries_precisions: Whether a short trial on a CPU chooses the network's precision.
        transfer: Network file, path or https URL, with the initial weights.
        sizes: Options for the network's sizes, as the user gave them, for error messages.
    """

    images: ImageDataset
    held_out: ImageDataset | None = None
    published: bool = False
    tries_precisions: bool = False
    transfer: str | None = None
    sizes: str = ""

    def recipe(self, device: torch.device) -> ImageRecipe:
        """Return the recipe: the amounts that the user gave, completed by the preset."""
        arch, amounts = self.model_config.network, self.amounts
        if self.published:
            return published(arch, amounts)
        images, shape = len(self.images), self.images.image_shape
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return fitted(arch, images, shape, device.type, amounts, has_bf16)

    def full_config(self, recipe: ImageRecipe) -> ModelConfig:
        """Return the configuration of the model to build."""
        choices, images = self.model_config, self.images
        papers = PUBLISHED_T_MAX if self.published and choices.precond == "ifs" else None
        return replace(
            choices,
            network_arguments={
                "image_shape": list(images.image_shape),
                "label_dim": images.label_dim,
                "augment_dim": LABEL_DIM if recipe.augment else 0,
                "model_channels": recipe.cbase,
                "channel_mult": list(recipe.cres),
                "dropout": recipe.dropout,
                # Options left out are not written, so that networks without them keep their
                # description.
                **({"num_blocks": recipe.blocks} if recipe.blocks else {}),
                **({"attention_resolutions": list(recipe.attend)} if recipe.attend else {}),
                **({"pixel_waves": recipe.pixel_waves} if recipe.pixel_waves else {}),
            },
            t_max=choices.t_max or papers,
            compressed_time=COMPRESSED_TIME,
        )

    def start(self, device: torch.device, resumed: Resumed | None) -> Start:
        """Return the start of the training, and log the recipe.

        Raises:
            DataError: The data of the resumed run has another dimension.
            UsageError: Options do not fit the images or the device.
        """
        images = self.images
        if resumed and resumed.basis.dim != images.dim:
            raise DataError(
                f"{resumed.path} has data of {resumed.basis.dim} dimensions, but "
                f"{images.path} has {images.dim}: give the data set of the original run"
            )
        agree("data_dim", self.data_dim, images.dim, f"the data set {images.name}")
        recipe = self.recipe(device)
        choices = self.full_config(recipe)
        if not self.published:
            logger.info(describe_recipe(recipe, len(images), images.image_shape, device.type))
        require_batch(recipe.batch, images.dim, device)
        self._require_network(choices, device)
        if recipe.cache and not self.dry_run:
            images.keep_in_memory()
        augmentation = GeometricAugmentation(recipe.augment) if recipe.augment else None
        model, loss = choices.build(*self._spread(augmentation, device, resumed))
        model.about |= {
            "kind": IMAGES,
            "data_name": images.name,
            "image_shape": list(images.image_shape),
            "label_dim": images.label_dim,
            **({"vectors": True} if images.has_vectors else {}),
            # Left out for 8-bit images, so that their networks keep their description.
            **(
                {"value_range": list(images.value_range)}
                if images.value_range != GRAY_RANGE
                else {}
            ),
            "rows": [] if self.dry_run else hashes_of(images, self.held_out),
        }
        if self.tries_precisions and device.type == "cpu":
            recipe = replace(recipe, precision=fastest_precision(model, loss, recipe))
        model.denoiser.precision = recipe.precision
        logger.info(f"{len(images)} images of {images.image_shape} in {images.path}")
        cond = "cond" if images.has_labels else "uncond"
        melts = points_to_inflate(recipe.samples)
        return Start(
            recipe=recipe,
            model=model,
            loss=loss,
            resolved={
                **recipe.chosen,
                "arch": choices.network,
                "noise_cond": choices.noise_cond,
                "t_sampling": loss.t_sampling,
            },
            name=(
                *(images.name, loss.schedule.name, choices.network, cond),
                *(f"batch{recipe.batch}", recipe.precision),
            ),
            source=partial(self._source, recipe, augmentation, device),
            ending=PostTraining(
                self.calibration(
                    partial(some_images, images, CALIBRATION_POINTS, True), CALIBRATION_POINTS
                ),
                self.distribution(latent_plan(images, self.held_out, melts, self.seed, device)),
                limited=True,
            ),
            watch=partial(self._watch, loss),
        )

    def _spread(
        self,
        augmentation: GeometricAugmentation | None,
        device: torch.device,
        resumed: Resumed | None,
    ) -> tuple[EigenBasis, Tensor | None]:
        """Return the eigenbasis and the variance of augmented images, fitted or from the state."""
        if resumed:
            return resumed.basis, resumed.data_variance
        most = DRY_RUN_IMAGES if self.dry_run else len(self.images)
        return fit_basis(self.images, most, augmentation, self.seed, device)

    def _source(
        self, recipe: ImageRecipe, augmentation: GeometricAugmentation | None, device: torch.device
    ) -> BatchSource:
        images, seed = self.images, self.seed
        batches = ImageBatches(images, recipe.batch, seed, device, recipe.workers)
        if augmentation is None:
            return batches
        return AugmentedBatches(batches, augmentation, images.image_shape, recipe.batch, seed)

    def _watch(self, loss: DenoisingLoss) -> Validation | None:
        held_out = self.held_out
        return Validation(HeldOut.of_images(held_out, loss, self.seed)) if held_out else None

    def _require_network(self, choices: ModelConfig, device: torch.device) -> None:
        """Check that the network can be built, with errors about options instead of arguments.

        Raises:
            UsageError: The network cannot be built.
        """
        try:
            require_network(choices.network, choices.network_arguments, device)
        except UsageError as error:
            text = str(error).replace("channel_mult", "--cres")
            raise UsageError(": ".join([*filter(None, [self.sizes]), text])) from error

    def begin(self, start: Start, resumed: Resumed | None) -> tuple[Trainer, BatchSource]:
        """Return the trainer before its first step, and the source of batches.

        If requested, weights of another network are copied first.
        """
        if self.transfer and not resumed:
            take_weights(self.transfer, start.model)
        return super().begin(start, resumed)


def take_weights(location: str, model: TrainedNetwork) -> None:
    """Copy the weights of another network that fit by name and shape into a model.

    The output gain is not copied, because it belongs to the axes and times of the other data. The
    record of rows that trained the other network is added to that of the model.

    Raises:
        UsageError: No weights of the other network fit.
        DataError: The other file's description of its training rows is invalid.
    """
    path = local_file(location)
    other = TrainedNetwork.load(path)
    given = other.denoiser.network.state_dict()
    own = model.denoiser.network.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise UsageError(f"{path} has no weights that fit this {model.architecture.network}")
    model.denoiser.network.load_state_dict({**own, **fitting})
    seen = [RowHashes.read(path, each.about).numbers for each in (model, other)]
    model.about["rows"] = RowHashes.from_hashes(np.union1d(*seen)).listed
    logger.info(f"Copied {len(fitting)} of {len(own)} tensors from {path}")


def fit_basis(
    dataset: ImageDataset,
    limit: int,
    augmentation: GeometricAugmentation | None,
    seed: int,
    device: torch.device,
) -> tuple[EigenBasis, Tensor | None]:
    """Fit the eigenbasis of images; return it, and the variances of augmented images along it.

    Args:
        dataset: Images.
        limit: Largest number of images to fit to.
        augmentation: Augmentation of the training, or None.
        seed: Random seed of the augmentation.
        device: Device for the computation.

    Returns:
        Basis, and variances ``[D]`` of augmented images; None without augmentation.
    """
    limit = min(limit, len(dataset))
    logger.info(f"Fitting the eigenbasis of {limit} images")
    basis = EigenBasis.fit(basis_batches(dataset, limit, device=device))
    if augmentation is None:
        return basis.cpu(), None
    total = min(limit, VARIANCE_IMAGES)
    images = basis_batches(dataset, total, device=device)
    shape = dataset.image_shape
    variance = basis.second_moments(augmented_points(images, augmentation, shape, total, seed))
    return basis.cpu(), variance.cpu()


def hashes_of(*datasets: ImageDataset | None) -> list[int]:
    """Return hashes of images, which let a network file recognize reused images.

    Larger data sets are represented by a fixed random subset.
    """
    numbers = []
    for dataset in filter(None, datasets):
        images = len(dataset.places)  # without mirror images, which come after these
        chosen = torch.randperm(images, generator=seeded_generator("cpu", 0))[:MOST_SKETCHED]
        for part in torch.split(chosen.sort().values, READ_AT_ONCE):
            pixels, _ = dataset.read(part.tolist())
            numbers.append(row_numbers(pixels.flatten(1).double().numpy()))
    return RowHashes.from_hashes(np.concatenate(numbers)).listed


def some_images(dataset: ImageDataset, count: int, shared: bool = False) -> Batch:
    """Return a fixed random subset of images, without augmentation, with their labels.

    Args:
        dataset: Images.
        count: Number of images; all if there are fewer.
        shared: Whether to return only this rank's part.
    """
    chosen = torch.randperm(len(dataset), generator=seeded_generator("cpu", 0))[:count]
    chosen = chosen[distributed.shard(len(chosen))] if shared else chosen
    pixels, labels = dataset.read(chosen.tolist())
    points = dataset.normalized(pixels)
    return Batch(points, labels if dataset.has_labels else None)


def latent_plan(
    images: ImageDataset, held_out: ImageDataset | None, count: int, seed: int, device: torch.device
) -> LatentPlan:
    """Return the plan for learning the distribution of latents from images.

    Args:
        images: Images to inflate.
        held_out: Images for validation; None for no validation.
        count: Number of points to inflate.
        seed: Random seed.
        device: Device of the training, which sets the size of blocks.
    """

    def of(dataset: ImageDataset, count: int) -> Batch:
        return some_images(dataset, min(count, MOST_MELTED))

    judged = partial(of, held_out) if held_out else None
    return LatentPlan(partial(of, images), judged, count, seed, BLOCK_ROWS[device.type])
