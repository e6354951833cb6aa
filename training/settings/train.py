"""Settings of ``train.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.errors import UsageError, agree
from training import learning
from training.data import tables
from training.learning.recipes import (
    COMPRESSED_TIME,
    PUBLISHED_T_MAX,
    ImageRecipe,
    TableRecipe,
    fitted,
    published,
)
from training.names import (
    AUTO,
    IMAGE_NETWORK_NAMES,
    LABEL_DIM,
    T_SAMPLINGS,
    TABLE_NETWORK,
)
from training.settings.declared import Declared, option, options_of
from training.settings.schedules import InflationOptions
from training.settings.tables import TableOptions
from training.settings.trained_network import NetworkOptions
from training.settings.training import (
    CalibrationOptions,
    LatentLawOptions,
    RunOptions,
    TrainingOptions,
)
from training.settings.types import (
    COUNT,
    DATA_SET,
    FILE,
    NOT_NEGATIVE,
    POSITIVE,
    STEPS,
    FiniteFloat,
    choice,
)

if TYPE_CHECKING:
    import torch

    from training.data.images.dataset import ImageDataset

PRESETS = ("auto", "published")
IMAGES_ONLY = {
    *("augment", "batch_pca", "bench", "blocks", "cache", "calibration_data", "cbase", "compile"),
    *("cres", "held_out", "pixel_waves", "precision", "preset", "transfer", "workers", "xflip"),
}
"""Options that a table has no use for."""
FREE_ON_RESUME = ("bench", "cache", "compile", "workers")
"""Further options that a resumed run may change."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(Declared):
    """What to train on."""

    section = "Data"
    data: Path | None = option(
        type=DATA_SET,
        help="Zip or folder of images, or .npz of a table, made by dataset_tool.py.  [required]",
    )
    cond: bool = option(
        is_flag=True,
        help="Condition on the labels of the images, or on the conditions of the table.",
    )
    xflip: bool = option(is_flag=True, help="Add the mirror image of each image to the data.")
    augment: float | None = option(
        type=FiniteFloat(min=0, max=1),
        unset="the preset's",
        help="Probability of each augmentation; 0 is off.",
    )
    held_out: float | None = option(
        type=FiniteFloat(min=0, max=1, min_open=True, max_open=True),
        unset="none",
        help="Fraction of the images that is not trained on, whose loss every report tells.",
    )
    batch_pca: int | None = option(
        type=COUNT, unset="all", help="Number of images that the basis is fitted to."
    )
    cache: bool | None = option(
        "--cache/--no-cache", unset="the preset's", help="Keep the data set in memory."
    )
    workers: int | None = option(
        type=click.IntRange(min=0), unset="the preset's", help="Processes that read data."
    )


@dataclass(frozen=True, kw_only=True)
class ImageFlowOptions(InflationOptions):
    """The flow's schedule and times."""

    precond: str = option(
        type=choice(("ifs", "edm", "vp", "ve")),
        default="ifs",
        help="Inflationary flow, or an isotropic model of Karras et al. 2022, table 1.",
    )
    tmin: float | None = option(type=NOT_NEGATIVE, unset="the schedule's", help="First time.")
    dims_to_keep: int | str | None = option(
        type=STEPS,
        unset="all",
        help="Dimensions that keep inflating: as many as the data has is PR-preserving, fewer is "
        "PR-reducing; auto, for tables, is the participation ratio.",
    )
    tmax: float | None = option(
        type=POSITIVE,
        unset="when a tenth of the top dimension's variance is data, half as long again if "
        f"dimensions are compressed; preset published: {PUBLISHED_T_MAX}",
        help="Last time.",
    )
    t_sampling: str | None = option(
        type=choice(T_SAMPLINGS),
        unset="uniform; edm: normal; ve: log_uniform",
        help="Law of the times in training.",
    )


@dataclass(frozen=True, kw_only=True)
class ImageTrainingOptions(TrainingOptions):
    """How long and how to train."""

    preset: str = option(
        type=choice(PRESETS),
        default="auto",
        help="What decides the options that are left out: a recipe that fits the images and the "
        "device (auto), or the one of the paper (published): 55 million parameters, 200 million "
        "samples.",
    )
    lr_ramp: float | None = option(
        type=NOT_NEGATIVE,
        unset="5% of the duration, at most 10",
        help="Million samples in which the learning rate rises.",
    )
    lr_decay: bool | None = option(
        "--lr_decay/--no-lr_decay",
        unset="the preset's",
        help="Let the rate fall to 0 along a cosine.",
    )


@dataclass(frozen=True, kw_only=True)
class ImageCalibrationOptions(CalibrationOptions):
    """Whether, how and on what to calibrate."""

    calibrate: bool | None = option(
        "--calibrate/--no-calibrate",
        unset="of images, with precond=ifs",
        help="After training, correct the network by its regression on the data; of a table, on "
        "its held-out rows.",
    )
    calibration_data: Path | None = option(
        type=FILE,
        unset="--data",
        help="Images to calibrate on, best such that were held out of training.",
    )

    def wanted(self, precond: str, by_default: bool = True) -> bool:
        wanted = super().wanted(precond, by_default)
        if self.calibration_data and not wanted:
            raise UsageError(
                "--calibration_data is given, but there is no calibration: leave it out"
            )
        return wanted


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Declared):
    """All settings of the script."""

    data: DataOptions = options_of(DataOptions)
    flow: ImageFlowOptions = options_of(ImageFlowOptions)
    network: NetworkOptions = options_of(NetworkOptions)
    table: TableOptions = options_of(TableOptions)
    training: ImageTrainingOptions = options_of(ImageTrainingOptions)
    calibration: ImageCalibrationOptions = options_of(ImageCalibrationOptions)
    law: LatentLawOptions = options_of(LatentLawOptions)
    run: RunOptions = options_of(RunOptions)

    @property
    def arch(self) -> str:
        """The network of images."""
        return self.network.arch or "ddpmpp"

    def require_kind(self, table: bool) -> None:
        """Raises UsageError if an option was given that is for the other kind of data."""
        foreign = IMAGES_ONLY if table else {item.name for item in fields(TableOptions)}
        for name in sorted(self.given & foreign):
            raise UsageError(
                f"--{name} is for {'images' if table else 'tables'}, but {self.data.data} is "
                f"{'a table' if table else 'no table'}: leave it out"
            )
        network = self.network.arch
        if network is not None and (network == TABLE_NETWORK) != table:
            known = [TABLE_NETWORK] if table else list(IMAGE_NETWORK_NAMES)
            raise UsageError(
                f"--arch={network} does not go with {self.data.data}: give {', '.join(known)}"
            )
        if not table and self.flow.dims_to_keep == AUTO:
            raise UsageError("--dims_to_keep=auto is for tables: give a number")

    def of_table(self, table: tables.Table) -> tables.Table:
        """The table, with conditions if they are wanted.

        Raises:
            UsageError: They are wanted, but there are none; or an option is for them alone.
        """
        if not self.data.cond:
            self.table.require_nothing_of_conditions()
            return table.without_conditions()
        if table.conditions is None:
            raise UsageError(
                f"--cond is given, but {self.data.data} has no conditions: make it with "
                "dataset_tool.py --conditions=NAMES"
            )
        return table

    def table_choices(
        self, recipe: TableRecipe, table: tables.Table, dims_to_keep: int
    ) -> learning.Choices:
        """The model to build for a table.

        Args:
            recipe: Of the training.
            table: The table, with the conditions that are wanted.
            dims_to_keep: What ``auto`` has come to.

        Raises:
            UsageError: Options contradict the table or each other.
        """
        flow, network, dim = self.flow, self.network, table.dim
        agree("data_dim", flow.data_dim, dim, f"the table {self.data.data}")
        # What is left out is not written either: networks without these are what they were.
        more = self.table.condition_arguments(table.condition_dim, recipe.cond_waves)
        if recipe.ensemble > 1:
            more["members"] = recipe.ensemble
        inflation = flow.arguments(flow.precond, dim)
        if flow.precond == "ifs":
            inflation |= {"dims_to_keep": dims_to_keep, "gamma0": recipe.gamma0}
        return learning.Choices(
            precond=flow.precond,
            inflation=inflation,
            network=TABLE_NETWORK,
            network_arguments={
                "width": recipe.width,
                "depth": recipe.depth,
                "dropout": recipe.dropout,
                **more,
            },
            space=network.space,
            noise_cond=network.noise_cond or ("ddpm" if flow.precond == "vp" else "log"),
            t_min=flow.tmin,
            t_max=flow.tmax,
            t_sampling=flow.t_sampling,
            output_gain=bool(network.output_gain),
            seed=self.run.seed,
        )

    @property
    def output_gain(self) -> bool:
        """Whether a gain of the network's output is trained with it, of images."""
        given = self.network.output_gain
        return self.flow.precond == "ifs" if given is None else given

    def recipe(self, images: int, image_shape: Sequence[int], device: torch.device) -> ImageRecipe:
        """The amounts that were given, and the preset's where they were left out."""
        values = self.recorded()
        if self.training.preset == "published":
            return published(self.arch, values)
        return fitted(self.arch, images, image_shape, device, values)

    def tries_precisions(self, device: torch.device) -> bool:
        """Whether the time that it takes is to say in which precision images are trained on."""
        unsaid = self.network.precision is None and self.training.preset != "published"
        return unsaid and device.type == "cpu" and not (self.run.deterministic or self.run.dry_run)

    def choices(self, recipe: ImageRecipe, dataset: ImageDataset) -> learning.Choices:
        """The model to build for a data set.

        Raises:
            UsageError: Options contradict the data set or each other.
        """
        flow, network = self.flow, self.network
        agree("data_dim", flow.data_dim, dataset.dim, f"the data set {dataset.name}")
        is_published, inflating = self.training.preset == "published", flow.precond == "ifs"
        return learning.Choices(
            precond=flow.precond,
            inflation=flow.arguments(flow.precond, dataset.dim),
            network=self.arch,
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
            output_gain=self.output_gain,
            seed=self.run.seed,
        )

    def resolved(self, recipe: ImageRecipe, **found: Any) -> dict[str, Any]:
        """Every option with the value that it has come to."""
        return self.recorded(
            **asdict(recipe), arch=self.arch, output_gain=self.output_gain, **found
        )

    def name_parts(self, data: str, schedule: str, recipe: ImageRecipe) -> tuple[str, ...]:
        """What the run's folder is named by."""
        cond = "cond" if self.data.cond else "uncond"
        return (data, schedule, self.arch, cond, f"batch{recipe.batch}", recipe.precision)

    @contextmanager
    def sizes_named(self) -> Iterator[None]:
        """Names the options, not the network's arguments, in errors about its sizes."""
        try:
            yield
        except UsageError as error:
            sizes = {
                "cbase": self.network.cbase,
                "cres": ",".join(map(str, self.network.cres or ())),
            }
            typed = [f"--{name}={size}" for name, size in sizes.items() if name in self.given]
            text = str(error).replace("channel_mult", "--cres")
            raise UsageError(": ".join([*filter(None, [" ".join(typed)]), text])) from error
