"""Settings of ``train.py``."""

from collections.abc import Sequence
from pathlib import Path

import click

from dnnlib.errors import UsageError
from training import names, recipes
from training.names import script
from training.options.declared import Declared, option, options_of
from training.options.shared import InflationOptions
from training.options.training import (
    CalibrationOptions,
    LatentLawOptions,
    RunOptions,
    TrainingOptions,
    require_named,
)
from training.options.types import (
    DATA_SET,
    MULTIPLIERS,
    NOT_NEGATIVE,
    SHAPE,
    SIDES,
    FiniteFloat,
    choice,
)


class NetworkOptions(Declared, section="Network"):
    """The network."""

    arch: str | None = option(
        type=choice(
            (*names.IMAGE_NETWORK_NAMES, names.TABLE_NETWORK, names.QUESTIONS, names.TRIAL_NETWORK)
        ),
        unset=f"ddpmpp; tables: {names.TABLE_NETWORK}; with --any, or of records: "
        f"{names.QUESTIONS}; of trials with missing data: {names.TRIAL_NETWORK}",
        help="Kind of network.",
    )
    cbase: int | None = option(
        of=names.IMAGES,
        unset="the preset's",
        help="Channels of the finest level, but for its factor.",
    )
    cres: tuple[int, ...] | None = option(
        of=names.IMAGES,
        type=MULTIPLIERS,
        unset="the preset's",
        help="Factor of each level's channels.",
    )
    attend: tuple[int, ...] | None = option(
        of=names.IMAGES,
        type=SIDES,
        unset="as published: 16; adm: 32,16,8",
        help="Sides, of the image and of what it is halved to, at which blocks have attention; "
        "those that are no power of 2 count as the next one.",
    )
    blocks: int | None = option(
        of=names.IMAGES,
        type=click.IntRange(0, names.MOST_BLOCKS),
        unset="the preset's",
        help="Residual blocks of each level of the encoder, one more in the decoder; 0 for as many "
        "as published, 4, or 3 of adm.",
    )
    dropout: float | None = option(
        type=FiniteFloat(min=0, max=1, max_open=True),
        unset=f"{recipes.PUBLISHED.dropout:g}; adm: {recipes.PUBLISHED_ADM['dropout']:g}; tables: "
        + recipes.told_of_tables("dropout"),
        help="Fraction of activations dropped.",
    )
    space: str = option(
        type=choice(names.SPACES),
        default="IS",
        help="Coordinates of the network: pixels (IS) or principal axes (ES).",
    )
    noise_cond: str | None = option(
        type=choice(names.NOISE_CONDITIONINGS),
        unset="log; vp: ddpm",
        help="How the network sees the time: as the log of the noise, or as 999 t (ddpm).",
    )
    output_gain: bool | None = option(
        unset="of images, with precond=ifs",
        help="Multiply the network's output by a factor of each dimension and time, which is "
        "trained with it.",
    )
    pixel_waves: int | None = option(
        of=names.IMAGES,
        type=click.IntRange(0, names.MOST_WAVES),
        unset="the preset's",
        help="Show the network the noisy pixels too, and so many waves of them, from the whole "
        "range of gray levels down by halves; 0 for the whitened image alone.",
    )
    precision: str | None = option(
        of=names.IMAGES,
        type=choice(names.PRECISIONS),
        unset="the preset's; on a CPU, bf16 if a short trial finds it much faster",
        help="What the network computes in.",
    )
    compile: bool = option(
        free=True, of=names.IMAGES, is_flag=True, help="Compile the network with torch.compile."
    )
    bench: bool = option(
        free=True, of=names.IMAGES, default=True, help="Let cuDNN look for its fastest kernels."
    )
    transfer: str | None = option(
        of=names.IMAGES, help="Network file, path or https URL, whose weights to start from."
    )


CONDITIONAL = {"bounded", "cond_screen", "cond_shape", "cond_waves", "linear_start"}
"""Options of tables with conditions."""


class TableOptions(Declared, section="Tables", of_kind=names.TABLE):
    """How the columns of a table are seen, and the network of a table."""

    marginals: str = option(
        type=choice((names.AUTO, *names.MARGINALS, *names.EVENED, names.LOG, names.AXES_TOO)),
        default=names.AUTO,
        help="What each column is put through: nothing, a power, or a power and a spline of its "
        "quantiles; auto tries these on held-out rows. quantile-0.2 and the like, which data of "
        "records try, even out what is narrower than so many standard deviations. log takes the "
        "logarithm of columns that are positive over three decades or more, which auto tries with "
        "--cond. quantile-axes adds a spline along the whitened axes, which auto does where rows "
        "are far from all others.",
    )
    whiten: str = option(
        type=choice((names.AUTO, *names.WHITENINGS)),
        default=names.AUTO,
        help="Standardize columns alone (none), or whiten along principal axes (pca), or turn back "
        "to the columns after that (zca); auto tries pca and zca, and takes none where dimensions "
        "are compressed.",
    )
    linear_start: str = option(
        type=choice(names.LINEAR_STARTS),
        default=names.AUTO,
        help="With --cond: take the best linear prediction of the columns from the conditions off "
        "before whitening, so that the flow starts from the linear-Gaussian posterior; auto tries "
        "both on held-out rows. With gaussian, which auto tries with --likelihood, mean and "
        "covariance are what a small network makes of the conditions.",
    )
    bounded: str = option(
        type=choice(names.BOUNDED),
        default=names.AUTO,
        help="With --cond: map columns with bounds to the line (map), or leave them alone, and "
        "reject what is beyond when posteriors are drawn (reject); auto tries both on held-out "
        "rows. Other tables are always mapped.",
    )
    cond_screen: str = option(
        type=choice(names.COND_SCREENS),
        default=names.AUTO,
        help="With --cond: leave out the conditions that no column depends on, each by its "
        "distance correlation, at a false discovery rate of 5 %; auto tries both on held-out rows. "
        "Not with --cond_shape.",
    )
    ensemble: int | None = option(
        type=click.IntRange(1, 64),
        unset="1",
        help="Networks that are trained side by side from different initial weights; the flow "
        "takes the mean of what they say.",
    )
    cond_shape: tuple[int, ...] | None = option(
        type=SHAPE,
        unset="none: the network sees the numbers themselves",
        help="With --cond: the conditions, in the order of their columns, are a series of C x L or "
        "an image of C x H x W, or C numbers that are too many; a small network, trained with the "
        "other, makes 32 features of them. set:K: of a data set of trials, p(parameters | all "
        "trials of a dataset), of K columns each, in whatever order and number.",
    )
    cond_waves: int | None = option(
        type=click.IntRange(0, names.MOST_WAVES),
        unset=recipes.told_of_tables("cond_waves"),
        help="With --cond: show the network so many sines and cosines of each condition too, from "
        "a period of 10 standard deviations down.",
    )
    width: int | None = option(unset=recipes.told_of_tables("width"), help="Units of a layer")
    depth: int | None = option(unset=recipes.told_of_tables("depth"), help="Hidden layers")
    weight_decay: float | None = option(
        type=NOT_NEGATIVE, unset=recipes.told_of_tables("weight_decay"), help="Decay of the weights"
    )
    optimizer: str | None = option(
        type=click.Choice(names.OPTIMIZERS),
        unset=f"{names.SOAP} for questions about rows, {names.ADAM} otherwise",
        help="Of tables: what takes the steps; soap takes longer for one, and learns more in it",
    )
    patience: int | None = option(
        unset=recipes.told_of_tables("patience"),
        help="Reports without a better score on held-out rows that end the training",
    )

    def require_likelihood(self) -> None:
        """Raises UsageError if an option was typed that leaves no likelihood."""
        if self.bounded == "reject":
            raise UsageError(
                "--bounded=reject gives data beyond their bounds some of the likelihood: leave it "
                "out with --likelihood"
            )
        if self.cond_shape is not None and self.cond_shape[0] == names.ANY_NUMBER:
            raise UsageError("--cond_shape=set:K is for --cond: a likelihood is of one trial")

    def require_nothing_of_conditions(self) -> None:
        """Raises UsageError if an option was typed that is for tables with conditions."""
        for name in sorted(self.given & CONDITIONAL):
            raise UsageError(f"--{name} is for --cond: leave it out")


class DataOptions(Declared, section="Data"):
    """What to train on."""

    data: Path | None = option(
        type=DATA_SET,
        help=f"Zip or folder of images, or .npz of a table, made by {script('dataset_tool')}.  "
        "[required]",
    )
    cond: bool = option(
        is_flag=True,
        help="Condition on the labels of the images, or on the conditions of the table.",
    )
    likelihood: bool = option(
        is_flag=True,
        of=names.TABLE,
        help="In place of --cond: train the law of the data of one trial, given the parameters and "
        f"covariates. {script('posterior')} multiplies it over trials.",
    )
    any: bool = option(
        is_flag=True,
        of=names.TABLE,
        help="Train for any question about a row: any cells, given any others. So are tables that "
        "have text, dates or holes.",
    )
    ask: tuple[str, ...] | None = option(
        unset="any question",
        of=names.TABLE,
        help="Columns that alone are asked, given all others: one question",
    )
    xflip: bool = option(
        of=names.IMAGES, is_flag=True, help="Add the mirror image of each image to the data."
    )
    augment: float | None = option(
        of=names.IMAGES,
        type=FiniteFloat(min=0, max=1),
        unset="the preset's",
        help="Probability of each augmentation; 0 is off.",
    )
    held_out: float | None = option(
        of=names.IMAGES,
        type=FiniteFloat(min=0, max=1, min_open=True, max_open=True),
        unset="none",
        help="Fraction of the images that is not trained on, whose loss every report tells.",
    )
    batch_pca: int | None = option(
        of=names.IMAGES, unset="all", help="Number of images that the basis is fitted to."
    )
    cache: bool | None = option(
        free=True, of=names.IMAGES, unset="the preset's", help="Keep the data set in memory."
    )
    workers: int | None = option(
        free=True,
        of=names.IMAGES,
        type=click.IntRange(min=0),
        unset="the preset's",
        help="Processes that read data.",
    )


class ImageFlowOptions(InflationOptions):
    """The flow's schedule and times."""

    precond: str = option(
        type=choice(("ifs", "edm", "vp", "ve")),
        default="ifs",
        help="Inflationary flow, or an isotropic model of Karras et al. 2022, table 1.",
    )
    tmin: float | None = option(type=NOT_NEGATIVE, unset="the schedule's", help="First time.")
    dims_to_keep: int | str | None = option(
        unset="all",
        help="Dimensions that keep inflating: as many as the data has is PR-preserving, fewer is "
        "PR-reducing; auto, for tables, is the participation ratio.",
    )
    tmax: float | None = option(
        unset="when a tenth of the top dimension's variance is data, with --cond a thousandth, or "
        "by held-out rows where they are few; half as long again if "
        f"dimensions are compressed; preset published: {recipes.PUBLISHED_T_MAX}",
        help="Last time.",
    )
    t_sampling: str | None = option(
        type=choice(names.T_SAMPLINGS),
        unset=f"uniform; with --cond {names.BY_WEIGHT}; edm: normal; ve: log_uniform",
        help="Distribution of the times in training.",
    )


class ImageTrainingOptions(TrainingOptions):
    """How long and how to train."""

    preset: str = option(
        of=names.IMAGES,
        type=choice(("auto", "published")),
        default="auto",
        help="What decides the options that are left out: a recipe that fits the images and the "
        "device (auto), or the one of the paper (published): 55 million parameters, 200 million "
        "samples.",
    )
    lr_ramp: float | None = option(
        type=NOT_NEGATIVE,
        unset=f"{recipes.RAMP:.0%} of the duration, at most {recipes.LONGEST_RAMP:g}; tables: "
        f"{recipes.TABLE_RAMP:.0%}",
        help="Million samples in which the learning rate rises.",
    )
    lr_decay: bool | None = option(
        unset="the preset's", help="Let the rate fall to 0 along a cosine."
    )


class ImageCalibrationOptions(CalibrationOptions):
    """Whether, how and on what to calibrate."""

    calibrate: bool | None = option(
        unset="of images, with precond=ifs",
        help="After training, correct the network by its regression on the data; of a table, on "
        "its held-out rows.",
    )
    calibration_data: Path | None = option(
        of=names.IMAGES,
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

    def __post_init__(self) -> None:
        if self.data.likelihood and self.data.cond:
            raise UsageError(
                "--cond trains a posterior, and --likelihood a likelihood: give one of them"
            )

    def require_complete(self) -> None:
        require_named(self, "data")

    def require_none_of_complete_tables(self, what: str, but: Sequence[str] = ()) -> None:
        """Raises UsageError if an option was typed that has no effect where questions are asked,
        but for some."""
        of_spaces = ("marginals", "whiten", "linear_start", "bounded", "ensemble", "cond")
        for name in (*of_spaces, "likelihood", "cond_screen", "cond_shape", "cond_waves"):
            if name in self.given and name not in but:
                raise UsageError(
                    f"--{name} is for flows of whole rows, but {what} is trained for questions: "
                    "leave it out"
                )
