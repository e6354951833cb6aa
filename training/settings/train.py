"""Settings of ``train.py``."""

from collections.abc import Sequence
from pathlib import Path

from dnnlib.errors import UsageError
from training import names, recipes
from training.names import command_line, script
from training.settings.declared import Declared, option, options_of
from training.settings.shared import InflationOptions
from training.settings.training import (
    CalibrationOptions,
    LatentLawOptions,
    RunOptions,
    TrainingOptions,
    require_named,
)
from training.settings.types import (
    DATA_SET,
    MULTIPLIERS,
    NOT_NEGATIVE,
    SHAPE,
    SIDES,
    Real,
    Whole,
    choice,
)


class NetworkOptions(Declared, section="Network"):
    """Options for the network architecture."""

    arch: str | None = option(
        type=choice(
            (*names.IMAGE_NETWORK_NAMES, names.TABLE_NETWORK, names.QUESTIONS, names.TRIAL_NETWORK)
        ),
        unset=f"ddpmpp; tables: {names.TABLE_NETWORK}; with --any: {names.QUESTIONS}; trials "
        f"with missing data: {names.TRIAL_NETWORK}",
        help="Network architecture.",
    )
    cbase: int | None = option(
        of=names.IMAGES,
        unset="set by --preset",
        help="Base number of channels. The factors in --cres multiply it.",
    )
    cres: tuple[int, ...] | None = option(
        of=names.IMAGES,
        type=MULTIPLIERS,
        unset="set by --preset",
        help="Factor on --cbase for each resolution of the network.",
    )
    attend: tuple[int, ...] | None = option(
        of=names.IMAGES,
        type=SIDES,
        unset="16; adm: 32,16,8; set by --preset on CPUs",
        help="Image sides in pixels at which blocks use attention, rounded up to powers of 2.",
    )
    blocks: int | None = option(
        of=names.IMAGES,
        type=Whole(0, names.MOST_BLOCKS),
        unset="set by --preset",
        help="Number of residual blocks per encoder resolution; the decoder has one more. 0 "
        "means the published number: 4, or 3 for the network adm.",
    )
    dropout: float | None = option(
        type=Real(min=0, max=1, max_open=True),
        unset=f"{recipes.PUBLISHED.dropout:g}; adm: {recipes.PUBLISHED_ADM['dropout']:g}; tables: "
        + recipes.describe_option_of_tables("dropout"),
        help="Dropout probability.",
    )
    space: str = option(
        type=choice(names.SPACES),
        default="IS",
        help="Coordinates of the network input: pixels or columns (IS), or principal axes (ES).",
    )
    noise_cond: str | None = option(
        type=choice(names.NOISE_CONDITIONINGS),
        unset="log; with --precond=vp: ddpm",
        help="Time input of the network: logarithm of the noise (log) or 999 t (ddpm).",
    )
    output_gain: bool | None = option(
        unset="yes for images with --precond=ifs, else no",
        help="Learn a factor on the network output, for each dimension and time.",
    )
    pixel_waves: int | None = option(
        of=names.IMAGES,
        type=Whole(0, names.MOST_WAVES),
        unset="set by --preset",
        help="Add the noisy pixels and their sine features of this many frequencies to the "
        "network inputs; 0: add neither.",
    )
    precision: str | None = option(
        of=names.IMAGES,
        type=choice(names.PRECISIONS),
        unset="set by --preset; on a CPU, bf16 if a short test shows that it is much faster",
        help="Floating-point type of the network.",
    )
    compile: bool = option(
        free=True, of=names.IMAGES, is_flag=True, help="Compile the network with torch.compile."
    )
    bench: bool = option(
        free=True,
        of=names.IMAGES,
        default=True,
        help="Let cuDNN choose its kernels by benchmarking.",
    )
    transfer: str | None = option(
        of=names.IMAGES,
        help="Network file (path or https URL) that the initial weights are copied from.",
    )


CONDITIONAL = {"bounded", "cond_screen", "cond_shape", "cond_waves", "linear_start"}
"""Names of the options that apply only to tables with conditions."""


class TableOptions(Declared, section="Tables", of_kind=names.TABLE):
    """Options for transforms of columns and for the network of a table."""

    marginals: str = option(
        type=choice((names.AUTO, *names.MARGINALS, *names.EVENED, names.LOG, names.AXES_TOO)),
        default=names.AUTO,
        help="Transform of each column. yeo-johnson: power transform; quantile: the same, then a "
        "quantile spline; quantile-S: spline fitted to the column plus noise of S standard "
        "deviations; quantile-axes: quantile, then splines along principal axes; log: logarithm; "
        "auto: the best on validation rows.",
    )
    whiten: str = option(
        type=choice((names.AUTO, *names.WHITENINGS)),
        default=names.AUTO,
        help="none: standardize columns; pca: whiten along principal axes; zca: whiten, then "
        "rotate back; auto: chosen on validation rows.",
    )
    linear_start: str = option(
        type=choice(names.LINEAR_STARTS),
        default=names.AUTO,
        help="With --cond: subtract the linear-Gaussian posterior mean first (on), or the "
        "mean of a small network (mean), or use a Gaussian from such a network (gaussian), or "
        "none (off); auto: chosen on validation rows.",
    )
    bounded: str = option(
        type=choice(names.BOUNDED),
        default=names.AUTO,
        help="With --cond: treatment of bounded columns. map: map them to the real line; "
        "reject: reject draws beyond the bounds; auto: chosen on validation rows.",
    )
    cond_screen: str = option(
        type=choice(names.COND_SCREENS),
        default=names.AUTO,
        help="With --cond: drop conditions that are independent of all columns, by a "
        "distance-correlation test at a false discovery rate of 5 %; auto: chosen on "
        "validation rows.",
    )
    ensemble: int | None = option(
        type=Whole(1, 64),
        unset="1",
        help="Number of networks that are trained together; their outputs are averaged.",
    )
    cond_shape: tuple[int, ...] | None = option(
        type=SHAPE,
        unset="none: no embedding network",
        help="With --cond: shape of the conditions, for an embedding network. C: C numbers; "
        "CxL: a series; CxHxW: an image; set:K: any number of trials of K numbers.",
    )
    cond_waves: int | None = option(
        type=Whole(0, names.MOST_WAVES),
        unset=recipes.describe_option_of_tables("cond_waves"),
        help="With --cond: number of frequencies of the sine features of each condition, which "
        "are network inputs.",
    )
    width: int | None = option(
        unset=recipes.describe_option_of_tables("width"),
        help="Number of units per hidden layer",
    )
    depth: int | None = option(
        unset=recipes.describe_option_of_tables("depth"), help="Number of hidden layers"
    )
    weight_decay: float | None = option(
        type=NOT_NEGATIVE,
        unset=recipes.describe_option_of_tables("weight_decay"),
        help="Weight decay of the optimizer.",
    )
    optimizer: str | None = option(
        type=choice(names.OPTIMIZERS),
        unset=f"{names.SOAP} for conditional queries, {names.ADAM} otherwise",
        help="Optimizer. A step of soap takes longer than a step of adam, but learns more",
    )
    patience: int | None = option(
        unset=recipes.describe_option_of_tables("patience"),
        help="Stop training after this many reports without a better validation loss",
    )

    def require_likelihood(self) -> None:
        """Raise UsageError if the user gave an option that does not apply to likelihoods."""
        if self.bounded == "reject":
            raise UsageError(
                "--bounded=reject does not apply to --likelihood, because the likelihood would be "
                "positive beyond the bounds: leave --bounded out"
            )
        if self.cond_shape is not None and self.cond_shape[0] == names.ANY_NUMBER:
            raise UsageError("--cond_shape=set:K is for --cond: a likelihood describes one trial")

    def require_nothing_of_conditions(self) -> None:
        """Raise UsageError if the user gave an option that applies only to conditional flows."""
        for name in sorted(self.given & CONDITIONAL):
            raise UsageError(f"--{name} is only for --cond: leave --{name} out")


class DataOptions(Declared, section="Data"):
    """Options for the training data."""

    data: Path | None = option(
        type=DATA_SET,
        help=f"Data set made by {script('dataset_tool')}: zip or folder of images, or .npz "
        "of a table.  [required]",
    )
    cond: bool = option(
        is_flag=True,
        help="Train a conditional flow. Images are conditioned on their class, tables on their "
        "condition columns.",
    )
    likelihood: bool = option(
        is_flag=True,
        of=names.TABLE,
        help="Instead of --cond: learn the likelihood of one trial given its parameters, for "
        f"{script('posterior')} --prior.",
    )
    any: bool = option(
        is_flag=True,
        of=names.TABLE,
        help="Train one network for all conditional queries: any columns given any other "
        "columns. Always on for tables with text, dates or missing values.",
    )
    ask: tuple[str, ...] | None = option(
        unset="any columns",
        of=names.TABLE,
        help="With --any: columns that queries predict, given all other columns",
    )
    xflip: bool = option(
        of=names.IMAGES, is_flag=True, help="Also train on the mirror image of each image."
    )
    augment: float | None = option(
        of=names.IMAGES,
        type=Real(min=0, max=1),
        unset="set by --preset",
        help="Probability of each augmentation; 0: no augmentation.",
    )
    held_out: float | None = option(
        of=names.IMAGES,
        type=Real(min=0, max=1, min_open=True, max_open=True),
        help="Fraction of the images held out for validation. Every report prints their loss.",
    )
    batch_pca: int | None = option(
        of=names.IMAGES,
        unset="all",
        help="Number of images that the principal axes are computed from.",
    )
    cache: bool | None = option(
        free=True, of=names.IMAGES, unset="set by --preset", help="Keep the data set in memory."
    )
    workers: int | None = option(
        free=True,
        of=names.IMAGES,
        type=Whole(min=0),
        unset="set by --preset",
        help="Number of processes that load data.",
    )


class ImageFlowOptions(InflationOptions):
    """Options for the schedule and the times of the flow."""

    precond: str = option(
        type=choice(("ifs", "edm", "vp", "ve")),
        default="ifs",
        help="Kind of model. ifs: inflationary flow; edm, vp, ve: isotropic models of Karras et "
        "al. 2022, table 1.",
    )
    tmin: float | None = option(
        type=NOT_NEGATIVE,
        unset="ifs: 0; edm: 0.002; vp: 0.001; ve: 0.0004",
        help="Smallest time of the flow.",
    )
    dims_to_keep: int | str | None = option(
        unset="all",
        help="Number of dimensions that are not compressed: all (the flow preserves the "
        "participation ratio, PRP) or fewer (the flow reduces it, PRR). auto, for tables: "
        "the effective number of dimensions (participation ratio).",
    )
    tmax: float | None = option(
        unset="the time when the largest latent variance is ten times (with --cond: a thousand "
        "times) the data variance; small tables with --cond: chosen on validation rows; "
        "images with compressed dimensions: 1.5 times longer; --preset=published: "
        f"{recipes.PUBLISHED_T_MAX}",
        help="Largest time of the flow, T.",
    )
    t_sampling: str | None = option(
        type=choice(names.T_SAMPLINGS),
        unset=f"uniform; with --cond: {names.BY_WEIGHT}; edm: normal; ve: log_uniform",
        help="Distribution of the training times.",
    )


class ImageTrainingOptions(TrainingOptions):
    """Options for the duration and optimization of a training on images."""

    preset: str = option(
        of=names.IMAGES,
        type=choice(("auto", "published")),
        default="auto",
        help="Recipe that sets default values for images. auto: fitted to the images and the "
        "device; published: the paper's (55 million parameters, 200 million samples).",
    )
    lr_ramp: float | None = option(
        type=NOT_NEGATIVE,
        unset=f"{recipes.RAMP:.0%} of the duration, at most {recipes.LONGEST_RAMP:g}; tables: "
        f"{recipes.TABLE_RAMP:.0%} of the duration",
        help="Length of the warmup of the learning rate, in million samples.",
    )
    lr_decay: bool | None = option(
        unset="set by --preset; tables: yes", help="Decay the learning rate to 0 along a cosine."
    )


class ImageCalibrationOptions(CalibrationOptions):
    """Options for the calibration of the network."""

    calibrate: bool | None = option(
        unset="yes for images with --precond=ifs, else no",
        help="After training, correct the network by regression on the data, for tables on "
        "validation rows.",
    )
    calibration_data: Path | None = option(
        of=names.IMAGES,
        unset="the images in --data",
        help="Images to calibrate on, preferably held out of training.",
    )

    def wanted(self, precond: str, by_default: bool = True) -> bool:
        """Return whether to calibrate the network.

        Args:
            precond: Kind of model; isotropic models have no calibration.
            by_default: Whether to calibrate if no option decides.

        Raises:
            UsageError: The user gave calibration data, but there is no calibration.
        """
        wanted = super().wanted(precond, by_default)
        if self.calibration_data and not wanted:
            raise UsageError("--calibration_data needs a calibration: leave --calibration_data out")
        return wanted


class TrainSettings(
    Declared,
    example=f"{command_line('train')} --data=houses.npz --outdir=out --minutes=5",
    common="data outdir cond any likelihood dims_to_keep preset duration minutes batch "
    "resume seed device_name threads dry_run",
):
    """Options of ``train.py``."""

    data: DataOptions = options_of(DataOptions)
    flow: ImageFlowOptions = options_of(
        ImageFlowOptions, unset={"gamma0": "{}; tables: 1e-4 to 1e-2, by the number of rows"}
    )
    network: NetworkOptions = options_of(NetworkOptions)
    table: TableOptions = options_of(TableOptions)
    training: ImageTrainingOptions = options_of(ImageTrainingOptions)
    calibration: ImageCalibrationOptions = options_of(ImageCalibrationOptions)
    distribution: LatentLawOptions = options_of(LatentLawOptions)
    run: RunOptions = options_of(RunOptions)

    def __post_init__(self) -> None:
        if self.data.likelihood and self.data.cond:
            raise UsageError(
                "--cond trains a posterior and --likelihood a likelihood: give one of them"
            )

    def require_complete(self) -> None:
        """Raise UsageError if a new run has no data or no output directory."""
        require_named(self, "data")

    def require_none_of_complete_tables(self, what: str, but: Sequence[str] = ()) -> None:
        """Raise UsageError if the user gave an option that does not apply to conditional queries.

        Args:
            what: Description of the data set, for the message.
            but: Names of options that are allowed.
        """
        of_spaces = ("marginals", "whiten", "linear_start", "bounded", "ensemble", "cond")
        for name in (*of_spaces, "likelihood", "cond_screen", "cond_shape", "cond_waves"):
            if name in self.given and name not in but:
                raise UsageError(
                    f"--{name} is for flows of whole rows, but {what} is trained for conditional "
                    "queries: leave it out"
                )
