"""Sizes of networks and lengths of trainings: as published, or fitted to the data and the device.

The choices of ``fitted`` are those that worked where they were measured, on 8 x 8 digits on two
cores of a CPU (docs/howto/images.md), extrapolated to other sizes by a few rules:

==============  ==================================================================================
size            16 channels on a CPU, 32 on CUDA, times (1, 2) at 8 pixels, (1, 2, 2) above; on
                CUDA, from 32 pixels on, the published 128 channels
attention       on a CPU at 8 pixels, for images of 9 to 32 pixels; else as published
duration        64 passes over the images on a CPU, 400 on CUDA, between 0.1 and 1 million samples
                on a CPU, 0.5 and 200 on CUDA
batch           64 up to 1 million samples, 256 up to 10, then 512
learning rate   2e-3 for networks of up to 32 channels, else 1e-3; it rises over 5 % of the
                duration and falls along a cosine
average         half-life of a tenth of the duration, at most half a million samples
pixel waves     5 in image space, for small networks
augmentation    for color images only, and only with 100 passes or more: a mirrored digit is not a
                digit
last time       as for toys, half as long again if dimensions are compressed
==============  ==================================================================================

The choices of ``fitted_to_table`` worked on tables with 178 to 53,920 rows and 5 to 61 columns:
many small steps of a small network, larger batches for many rows, and regularization against
memorizing few rows. docs/tutorials/table.md lists the results. Where points have conditions, few
rows get a short training of a network without waves of the conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil, cos, pi, prod
from typing import Any, TypeVar

from training.names import ADAM, SOAP

R = TypeVar("R", bound="Recipe")


def _setting(default: Any) -> Any:
    """Declare a setting that is not chosen by recipes, but by the user or the kind of data."""
    return field(default=default, metadata={"chosen": False})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lengths, rates and settings of a training, in the units of the options and by their names.

    The default values are those of the published recipe.

    Attributes:
        duration: Length of the training, million samples.
        batch: Batch size over all ranks.
        lr: Peak learning rate.
        lr_ramp: Length of the linear rise of the learning rate at the start, million samples.
        lr_decay: Whether the rate then falls to zero along a cosine; otherwise it stays constant.
        ema: Half-life of the averaged weights, million samples.
        tick: Interval between reports, in thousand samples.
        snap: Number of reports between network files.
        dump: Number of reports between training states.
        optimizer: Name of the optimizer, one of ``OPTIMIZERS``.
        weight_decay: Weight decay, per step and unit of the learning rate (Loshchilov and Hutter
            2019).
        batch_gpu: Largest microbatch of one rank; None for no limit.
        ls: Factor on the loss in the backward pass, divided out of the gradients. In float16 there
            is a further, adaptive factor.
        antithetic: Whether samples come in pairs of the same time and opposite noise. This helps
            only if both samples of a pair have the same point.
        ema_ramp: Largest half-life of the averaged weights as a fraction of the samples so far.
        seed: Random seed.
    """

    duration: float
    batch: int
    lr: float = 1e-3
    lr_ramp: float = 10.0
    lr_decay: bool = False
    ema: float = 0.5
    tick: float = 50
    snap: int = 50
    dump: int = 500
    optimizer: str = _setting(ADAM)
    weight_decay: float = _setting(0.0)
    batch_gpu: int | None = _setting(None)
    ls: float = _setting(1.0)
    antithetic: bool = _setting(False)
    ema_ramp: float = _setting(0.05)
    seed: int = _setting(0)

    def but(self: R, amounts: Mapping[str, Any]) -> R:
        """Return a copy of this recipe with some of its amounts replaced.

        Args:
            amounts: New amounts by name; None and unknown names are ignored.
        """
        names = {item.name for item in fields(self)}
        return replace(self, **{k: v for k, v in amounts.items() if k in names and v is not None})

    @property
    def chosen(self) -> dict[str, Any]:
        """Amounts that the recipe chooses, unless the user does, by the names of their options."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.metadata.get("chosen", True)
        }

    @property
    def samples(self) -> int:
        """Length of the training, in samples."""
        return round(self.duration * 1e6)

    @property
    def steps(self) -> int:
        """Number of steps of the training."""
        return ceil(self.samples / self.batch)

    @property
    def tick_samples(self) -> int:
        """Interval between reports, in samples."""
        return round(self.tick * 1000)

    def is_reported(self, seen: int) -> bool:
        """Return whether a report is due after the step that brings the number of samples here."""
        return seen // self.tick_samples > (seen - self.batch) // self.tick_samples

    def learning_rate(self, seen: int) -> float:
        """Return the learning rate after ``seen`` samples."""
        ramp = min(1.0, (seen + self.batch) / max(round(self.lr_ramp * 1e6), 1))
        done = min(1.0, seen / self.samples) if self.lr_decay else 0.0
        return self.lr * ramp * 0.5 * (1 + cos(pi * done))

    def ema_decay(self, seen: int) -> float:
        """Return the factor on the averaged weights in a step.

        The step brings the number of samples to ``seen``.
        """
        halflife = min(round(self.ema * 1e6), self.ema_ramp * seen)
        return float(0.5 ** (self.batch / max(halflife, 1e-8)))


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe):
    """Settings of a training on images.

    Attributes:
        cbase: Base number of channels of the network.
        cres: Factor on the base number of channels, for each resolution level.
        attend: Resolutions with attention; None for the published ones.
        blocks: Number of residual blocks per encoder level; 0 for the published number.
        dropout: Fraction of activations dropped.
        pixel_waves: Number of frequencies of the sinusoidal features of the noisy pixels, which
            are network inputs; 0 for the whitened image only.
        augment: Probability of each augmentation.
        precision: Precision of the network.
        cache: Whether to keep the data set in memory.
        workers: Number of processes that read data.
    """

    cbase: int
    cres: tuple[int, ...]
    blocks: int
    dropout: float
    pixel_waves: int
    augment: float
    precision: str
    cache: bool
    workers: int
    attend: tuple[int, ...] | None = None


TOY = Recipe(
    duration=6.0,
    batch=2048,
    lr=4e-3,
    lr_ramp=0.2,
    lr_decay=True,
    snap=100,
    dump=100,
    antithetic=True,
)
OF_TOYS = ("duration", "batch", "ema", "lr")
"""Names of the amounts that differ between the recipes of toys."""
AVERAGED_TOY = replace(TOY, duration=2.0, batch=512, ema=0.17)
"""Recipe for toys whose targets are averaged over further points, and therefore have much less
noise.
"""
AVERAGED_PLANE = replace(TOY, duration=1.0, batch=512, lr=8e-3, ema=0.08)
"""Recipe for an mlp on toys with averaged targets in up to ``PLANE`` dimensions."""
AVERAGED_SPACE = replace(TOY, duration=1.4, batch=512, lr=6e-3, ema=0.11)
"""Recipe for an mlp on toys with averaged targets in more dimensions."""
PLANE = 2
"""Largest dimension for ``AVERAGED_PLANE``."""

PUBLISHED = ImageRecipe(
    duration=200.0,
    batch=512,
    cbase=128,
    cres=(2, 2, 2),
    blocks=0,
    dropout=0.13,
    pixel_waves=0,
    augment=0.12,
    precision="fp32",
    cache=False,
    workers=1,
)
"""Published recipe for CIFAR-10 (Karras et al. 2022, table 7)."""
PUBLISHED_T_MAX = 15.01
PUBLISHED_ADM: dict[str, Any] = {"cbase": 192, "cres": (1, 2, 3, 4), "dropout": 0.1}


ONE_THREAD = 256 * 64
"""Number of units of a layer, over all rows of a batch, up to which a second thread gains
nothing.
"""


@dataclass(frozen=True, kw_only=True)
class TableRecipe(Recipe):
    """Settings of a training on a table.

    Attributes:
        width: Number of units per hidden layer.
        depth: Number of hidden layers.
        dropout: Fraction of hidden activations dropped.
        weight_decay: Weight decay of the optimizer.
        gamma0: Noise variance at time 0, in squared units of standardized columns.
        patience: Number of reports without a better validation score after which training stops.
        cond_waves: Number of frequencies of the sinusoidal features of each condition, which are
            network inputs.
        optimizer: Name of the optimizer.
    """

    width: int
    depth: int = 4
    dropout: float = 0.0
    weight_decay: float = 0.0
    gamma0: float
    patience: int = 15
    cond_waves: int = 0
    optimizer: str = ADAM

    @property
    def layers(self) -> dict[str, Any]:
        """Width, depth and dropout of the network, as constructor arguments."""
        return {"width": self.width, "depth": self.depth, "dropout": self.dropout}

    @property
    def useful_threads(self) -> int | None:
        """Largest useful number of CPU threads; None for no limit."""
        small = self.batch * self.width <= ONE_THREAD
        return 1 if small else None


RAMP, TABLE_RAMP, LONGEST_RAMP = 0.05, 0.02, 10.0
"""Fractions of a training with a rising learning rate, for images and for tables; and its largest
length in million samples.
"""
SMALLEST, SMALL, LARGE = 16, 32, 128
"""Channels of a network for CPUs, of a small one, and of the published one."""
SMALL_BLOCKS = 1
"""Number of blocks per level of a small network."""
PIXEL_WAVES = 5
"""Number of pixel waves, down to an eighth of the range of pixels: the noise of the first time
hides finer ones.
"""
CACHED_BYTES = 256 << 20
"""Largest number of pixel values of a data set that is kept in memory, one byte each."""
COMPRESSED_TIME = 1.5
"""Factor on the last time if dimensions are compressed: kept ones inflate at twice the rate, but
digits in 10 dimensions needed more than half of the time to become Gaussian.
"""


def published(arch: str, amounts: Mapping[str, Any]) -> ImageRecipe:
    """Return the published training recipe for a network architecture.

    Args:
        arch: Name of the architecture.
        amounts: Amounts that the user gave, by name, which replace those of the recipe.
    """
    recipe = PUBLISHED.but(PUBLISHED_ADM if arch == "adm" else {}).but(amounts)
    # The published ramp is for 200 million samples: a short training has a proportionally shorter
    # one.
    return replace(recipe, lr_ramp=min(LONGEST_RAMP, RAMP * recipe.duration)).but(amounts)


def fitted(
    arch: str,
    images: int,
    image_shape: Sequence[int],
    device: str,
    amounts: Mapping[str, Any],
    has_bf16: bool = True,
) -> ImageRecipe:
    """Return a training recipe fitted to the number of images and the device.

    Args:
        arch: Name of the network.
        images: Number of images.
        image_shape: Channels, height and width.
        device: ``cpu`` or ``cuda``, the device of the training.
        amounts: Amounts that the user gave, by name, which replace those of the recipe; None for
            an amount left out.
        has_bf16: Whether a CUDA device supports bfloat16.
    """
    cuda = device == "cuda"
    channels, side = image_shape[0], max(image_shape[1:])
    duration = amounts.get("duration")
    if duration is None:
        passes, least, most = (400, 0.5, 200.0) if cuda else (64, 0.1, 1.0)
        duration = round(min(max(passes * images / 1e6, least), most), 2)
    large = cuda and side >= 32
    small = 64 if arch == "adm" else SMALL if cuda else SMALLEST
    cbase = amounts.get("cbase") or (LARGE if large else small)
    # A run that gives its sizes, such as a resumed one, keeps the attention of those sizes.
    own = cuda or arch == "adm" or amounts.get("cbase") or amounts.get("cres")
    cres: tuple[int, ...] = (1, 2) if side <= 8 else (1, 2, 2)
    if large:
        cres = (2, 2, 2)
    if side >= 64:
        cres = (1, 2, 2, 2)
    tick = min(50, max(1, round(100 * duration)))
    cache = amounts.get("cache")
    if cache is None:
        cache = images * prod(image_shape) <= CACHED_BYTES
    recipe = ImageRecipe(
        duration=duration,
        batch=64 if duration <= 1 else 256 if duration <= 10 else 512,
        lr=2e-3 if cbase <= SMALL else 1e-3,
        lr_ramp=min(LONGEST_RAMP, RAMP * duration),
        lr_decay=True,
        ema=min(0.5, duration / 10),
        tick=tick,
        snap=50,
        dump=max(1, round(1000 * duration / tick / 10)),
        cbase=cbase,
        cres=cres,
        blocks=0 if large or arch == "adm" else SMALL_BLOCKS,
        attend=(8,) if 8 < side <= 32 and not own else None,
        dropout=0.1 if arch == "adm" else PUBLISHED.dropout,
        pixel_waves=0 if amounts.get("space") == "ES" or large or arch == "adm" else PIXEL_WAVES,
        augment=PUBLISHED.augment if channels > 1 and duration * 1e6 / images >= 100 else 0.0,
        precision="bf16" if cuda and has_bf16 else "fp32",
        cache=cache,
        workers=0 if cache else 1,
    )
    return recipe.but(amounts)


def describe_recipe(
    recipe: ImageRecipe, images: int, image_shape: Sequence[int], device: str
) -> str:
    """Describe a recipe for images, and the reasons for its values, in one line of text."""
    shape = " x ".join(map(str, image_shape))
    augmentation = f"augmentation {recipe.augment:g}" if recipe.augment else "no augmentation"
    return (
        f"Recipe for {images} images of {shape} on {device}: {recipe.cbase} channels "
        f"times {','.join(map(str, recipe.cres))}, {recipe.duration:g} M samples "
        f"({recipe.duration * 1e6 / images:.3g} "
        f"passes) in batches of {recipe.batch}, {augmentation}; options override it, and "
        "--preset=published selects the recipe of the paper"
    )


FEW_ROWS, MANY_ROWS = 2000, 5000
"""Numbers of training rows: below the first a network memorizes a table unless it is regularized;
from the second on it does not.
"""
WIDE = 24
"""Number of columns from which few rows use the wide network too, and the learning rate is
lower.
"""


def fitted_to_table(
    rows: int, dim: int, amounts: Mapping[str, Any], conditions: int = 0, raw: bool = False
) -> TableRecipe:
    """Return a training recipe fitted to the size of a table.

    Args:
        rows: Number of training rows.
        dim: Number of columns.
        amounts: Amounts that the user gave, by name, which replace those of the recipe.
        conditions: Number of conditions.
        raw: Whether the conditions are raw data, with an embedding network.
    """
    if conditions:
        return _fitted_to_simulations(rows, amounts, raw)
    few, many = rows < FEW_ROWS, rows >= MANY_ROWS
    batch = amounts.get("batch") or (128 if few else 512 if many else 256)
    duration = amounts.get("duration") or (4000 if few else 8000 if many else 10_000) * batch / 1e6
    return _of_table(
        amounts,
        duration,
        batch,
        lr=3e-3 if dim < WIDE else 2e-3,
        width=64 if few and dim < WIDE else 128,
        dropout=0.1 if few else 0.0,
        weight_decay=0.3 if few else 0.0,
        gamma0=1e-2 if few else 1e-4 if many else 1e-3,
    )


def _of_table(
    amounts: Mapping[str, Any], duration: float, batch: int, snap: int = 50, **others: Any
) -> TableRecipe:
    """Return a recipe with ``snap`` reports, the last of which writes the network file.

    ``others`` are settings that differ between tables. The amounts that a user gave override the
    recipe.
    """
    recipe = TableRecipe(
        duration=duration,
        batch=batch,
        lr_ramp=TABLE_RAMP * duration,
        lr_decay=True,
        ema=duration,
        tick=max(1, round(1000 * duration / snap)),
        snap=snap,
        dump=5,
        **others,
    )
    return recipe.but(amounts)


def _fitted_to_simulations(rows: int, amounts: Mapping[str, Any], raw: bool) -> TableRecipe:
    """Return a recipe for points with conditions, which can be raw data."""
    few = rows < FEW_ROWS
    batch = amounts.get("batch") or 256
    duration = amounts.get("duration") or (1500 if few else 20_000) * batch / 1e6
    lr, waves = (6e-3, 0) if few else (3e-3, 1)
    others: dict[str, Any] = {"width": 64, "gamma0": 1e-4, "cond_waves": waves}
    if raw:  # the embedding network has many weights
        lr, decay = (lr, 0.1) if few else (2e-3, 0.0)
        return _of_table(amounts, duration, batch, lr=lr, weight_decay=decay, **others)
    return _of_table(amounts, duration, batch, lr=lr, **others)


def fitted_to_questions(rows: int, amounts: Mapping[str, Any]) -> TableRecipe:
    """Return a training recipe for a network that answers conditional queries about a table.

    Args:
        rows: Number of training rows.
        amounts: Amounts that the user gave, by name, which replace those of the recipe.
    """
    few, many = rows < FEW_ROWS, rows >= MANY_ROWS
    batch = amounts.get("batch") or (128 if few else 256)
    duration = amounts.get("duration") or (1500 if few else 3000 if many else 2500) * batch / 1e6
    return _of_table(
        amounts,
        duration,
        batch,
        lr=2e-3 if few else 3e-3,
        snap=40,
        width=128,
        dropout=0.2 if few else 0.0,
        weight_decay=0.3 if few else 0.0,
        gamma0=1e-3 if few else 1e-4,
        patience=12,
        optimizer=SOAP,
    )


def describe_table_recipe(recipe: TableRecipe, rows: int, dim: int, conditions: int = 0) -> str:
    """Describe a recipe for tables, and the reasons for its values, in one line of text."""
    careful = (
        f", dropout {recipe.dropout:g}, weight decay {recipe.weight_decay:g}"
        if recipe.dropout or recipe.weight_decay
        else ""
    )
    given = f" given {conditions} conditions" if conditions else ""
    passes = recipe.duration * 1e6 / rows
    return (
        f"Recipe for {rows} rows of {dim} columns{given}: {recipe.depth} layers "
        f"of {recipe.width} units{careful}; {recipe.duration:g} M samples ({passes:.3g} "
        f"passes) in batches of {recipe.batch}, learning rate {recipe.lr:g}, gamma0 "
        f"{recipe.gamma0:g}, patience {recipe.patience} reports; options override it"
    )


def describe_option_of_tables(name: str) -> str:
    """Describe the default values of an option in the recipes for tables, for its help text.

    Args:
        name: Name of the option.
    """
    few, many, narrow = FEW_ROWS - 1, MANY_ROWS, WIDE // 2
    rows, both = f"under {FEW_ROWS} rows", f"under {FEW_ROWS} rows and {WIDE} columns"
    given = f"{rows}, with --cond"
    recipes = {
        "": fitted_to_table(many, WIDE, {}),
        rows: fitted_to_table(few, WIDE, {}),
        both: fitted_to_table(few, narrow, {}),
        "--cond": fitted_to_table(many, narrow, {}, conditions=1),
        given: fitted_to_table(few, narrow, {}, conditions=1),
    }
    # A value that equals that of a broader kind is not repeated.
    broader = {both: rows, given: "--cond"}
    values = {kind: getattr(recipe, name) for kind, recipe in recipes.items()}
    return "; ".join(
        f"{kind}: {value:g}" if kind else f"{value:g}"
        for kind, value in values.items()
        if not kind or value != values[broader.get(kind, "")]
    )
