"""Settings of ``train.py``."""

from pathlib import Path

from dnnlib.errors import UsageError
from training import names, recipes
from training.names import command_line, script
from training.settings.declared import Declared, option, options_of
from training.settings.shared import InflationOptions
from training.settings.training import (
    CalibrationOptions,
    RunOptions,
    TrainingOptions,
    require_named,
)
from training.settings.types import (
    DATA_SET,
    MULTIPLIERS,
    NOT_NEGATIVE,
    SHAPE,
    Real,
    Whole,
    choice,
)


class NetworkOptions(Declared, section="Network"):
    """Options for the network architecture."""

    arch: str | None = option(
        type=choice((*names.IMAGE_NETWORK_NAMES, names.TABLE_NETWORK, names.QUESTIONS)),
        unset=f"ddpmpp; tables: {names.TABLE_NETWORK}; with --any: {names.QUESTIONS}",
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
    precision: str | None = option(
        of=names.IMAGES,
        type=choice(names.PRECISIONS),
        unset="set by --preset; on a CPU, bf16 if a short test shows that it is much faster",
        help="Floating-point type of the network.",
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


CONDITIONAL = {"bounded", "cond_shape"}
"""Names of the options that apply only to tables with conditions."""


class TableOptions(Declared, section="Tables", of_kind=names.TABLE):
    """Options for transforms of columns and for the network of a table."""

    marginals: str = option(
        type=choice((names.AUTO, "none", names.RANKS)),
        default=names.AUTO,
        help="Transform of each column. none: standardize; ranks: power transform, then a spline "
        "to normal scores; auto: the best on validation rows.",
    )
    bounded: str = option(
        type=choice(names.BOUNDED),
        default=names.AUTO,
        help="With --cond: treatment of bounded columns. map: map them to the real line; "
        "reject: reject draws beyond the bounds; auto: chosen on validation rows.",
    )
    cond_shape: tuple[int, ...] | None = option(
        type=SHAPE,
        unset="none: no embedding network",
        help="With --cond: shape of the conditions, for an embedding network. C: C numbers; "
        "CxL: a series; CxHxW: an image; set:K: any number of trials of K numbers.",
    )
    width: int | None = option(
        unset=recipes.describe_option_of_tables("width"),
        help="Number of units per hidden layer",
    )
    depth: int | None = option(
        unset=recipes.describe_option_of_tables("depth"), help="Number of hidden layers"
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


class ImageCalibrationOptions(CalibrationOptions):
    """Options for the calibration of the network."""

    calibrate: bool | None = option(
        unset="yes for images with --precond=ifs, else no",
        help="Correct the network output: for images by a factor that is trained along, and by "
        "regression on the data after training; for tables by regression on validation rows.",
    )


class TrainSettings(
    Declared,
    example=f"{command_line('train')} --data=houses.npz --outdir=out --minutes=5",
    common="data outdir cond any likelihood dims_to_keep preset duration minutes batch "
    "resume seed device_name dry_run",
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
    run: RunOptions = options_of(RunOptions)

    def __post_init__(self) -> None:
        if self.data.likelihood and self.data.cond:
            raise UsageError(
                "--cond trains a posterior and --likelihood a likelihood: give one of them"
            )

    def require_complete(self) -> None:
        """Raise UsageError if a new run has no data or no output directory."""
        require_named(self, "data")

    def require_none_of_complete_tables(self, what: str) -> None:
        """Raise UsageError if the user gave an option that does not apply to conditional queries.

        Args:
            what: Description of the data set, for the message.
        """
        for name in ("marginals", "bounded", "cond", "likelihood", "cond_shape"):
            if name in self.given:
                raise UsageError(
                    f"--{name} is for flows of whole rows, but {what} is trained for conditional "
                    "queries: leave it out"
                )
