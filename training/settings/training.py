"""Options of the scripts that train, settings of ``toy_train.py``, and options of resumed runs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dnnlib.errors import DataError, UsageError, in_one_line
from training import names
from training.names import command_line
from training.recipes import AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, OF_TOYS, PLANE, TOY
from training.settings.declared import Declared, declarations, option, options_of
from training.settings.shared import InflationOptions
from training.settings.types import (
    AMOUNT,
    NOT_NEGATIVE,
    SEED,
    Integers,
    Names,
    Real,
    Whole,
    choice,
)


class TrainingOptions(Declared, section="Training"):
    """Options for the duration and optimization of a training.

    None stands for the value of the recipe.
    """

    duration: float | None = option(
        free=True,
        type=AMOUNT,
        unset="set by --preset, for tables by the number of rows",
        help="Length of training, in million samples. With --resume: the new total length.",
    )
    minutes: float | None = option(
        unset="train for --duration",
        help="Time in minutes, with the choices before and the fits after the training, instead of "
        "--duration. Training can stop earlier if the validation loss stops improving.",
    )
    batch: int | None = option(
        unset="set by --preset, for tables by the number of rows",
        help="Batch size, summed over all ranks.",
    )
    batch_gpu: int | None = option(
        "--batch-gpu",
        free=True,
        unset="the whole batch of the rank",
        help="Largest number of samples that one rank processes at a time.",
    )
    lr: float | None = option(
        unset="set by --preset, for tables by the number of rows", help="Peak learning rate."
    )
    ema: float | None = option(
        type=Real(min=0, max=1e9),
        unset="set by --preset, for tables by the number of rows",
        help="Half-life of the moving average of the weights, in million samples.",
    )
    ls: float = option(
        default=1.0,
        help="Factor on the loss; with fp16, an adaptive scale is applied as well.",
    )


class CalibrationOptions(Declared, section="Calibration"):
    """Options for the calibration of the network."""

    calibrate: bool | None = option(
        unset="yes with --precond=ifs, else no",
        help="After training, correct the network by regression on the data.",
    )

    def wanted(self, precond: str, by_default: bool = True) -> bool:
        """Return whether to calibrate the network of a training.

        Args:
            precond: Kind of model; isotropic models have no calibration.
            by_default: Whether to calibrate if no option decides.

        Raises:
            UsageError: A calibration is requested for an isotropic model.
        """
        if self.calibrate and precond != "ifs":
            raise UsageError(
                f"--calibrate goes with --precond=ifs only, not {precond}: leave it out"
            )
        return precond == "ifs" and by_default if self.calibrate is None else self.calibrate


class RunOptions(Declared, section="Run"):
    """Options for output, resumption, device and random seed."""

    outdir: Path | None = option(help="Folder for the new run directory.  [required]")
    desc: str | None = option(help="Text to append to the name of the run directory.")
    nosubdir: bool = option(is_flag=True, help="Use --outdir itself as the run directory.")
    resume: Path | None = option(
        free=True,
        help="Run directory or training-state-*.pt to resume from. The options of that run are "
        "reused.",
    )
    tick: int | None = option(
        free=True,
        unset="set by --preset; tables: --duration / --snap",
        help="Interval between reports, in thousand samples.",
    )
    snap: int | None = option(
        free=True,
        unset="set by --preset; tables: 50, or 40 with --any",
        help="Interval between network files, in reports. The last network is always written.",
    )
    dump: int | None = option(
        free=True,
        unset="set by --preset; tables: 5",
        help="Interval between training states, in reports. The last state is always written.",
    )
    seed: int = option(type=SEED, default=0, help="Random seed.")
    device_name: str | None = option(
        free=True, unset="cuda if available, else cpu", help="Device: cpu, cuda or cuda:N."
    )
    dry_run: bool = option(
        "-n",
        "--dry-run",
        free=True,
        is_flag=True,
        help="Print the plan and the number of parameters, and exit.",
    )


def require_named(settings: Declared, data: str) -> None:
    """Raise UsageError if a new run has no data or no output directory."""
    values = settings.recorded()
    if values["resume"] is None:
        require_values(values, data)


def require_values(values: Mapping[str, Any], data: str) -> None:
    """Raise UsageError unless the output directory and the data are given.

    Args:
        values: Values of the options, by name.
        data: Name of the option for the data.
    """
    for name in ("outdir", data):
        if values[name] is None:
            raise UsageError(f"Missing option '--{name}'.")


def as_typed(cls: type[Declared], options: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Convert option values from a file as if they were typed on the command line.

    Raises:
        DataError: A value is invalid, or a required one is missing.
    """
    typed = {}
    for declared in declarations(cls):
        name, value = declared.name, options.get(declared.name)
        if value is None and isinstance(declared.default, int | float | str):
            raise DataError(f"{source} has no value for --{name}")
        listed = isinstance(value, list | tuple) and isinstance(declared.type, Integers | Names)
        if not listed and not isinstance(value, str | int | float | Path | None):
            raise DataError(f"{source}: --{name} is not a single value")
        try:
            typed[name] = declared.parse(value if listed or value is None else str(value))
        except ValueError as error:
            raise DataError(f"{source}: --{name}: {in_one_line(str(error))}") from error
    return typed


def _of_recipes(name: str) -> str:
    """Describe the values of an option in the recipes, for its help."""
    recipes = (AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, TOY)
    plane, space, other, plain = (f"{getattr(each, name):g}" for each in recipes)
    if plane == space == other:
        return f"{plane}; with --others=0: {plain}"
    averaged = f"mlp: {plane} in {PLANE}-D, else {space}; other networks: {other}"
    return f"{averaged}; with --others=0: {plain}"


class ToyOptions(Declared, section="Data"):
    """Options for the training data."""

    data_name: str | None = option(
        type=choice(names.TOY_NAMES), help="Name of the toy.  [required]"
    )
    augment_to: int = option(
        type=Whole(min=0, max=2**31 - 1),
        default=0,
        help="Embed the toy in a space of this many dimensions; 0: no embedding.",
    )
    others: int | None = option(
        type=Whole(min=0),
        unset=f"{names.OTHERS} in up to {names.MOST_AVERAGED} dimensions, else 0",
        help="Number of additional points over which each training target is averaged; 0: no "
        "averaging, and independent noise instead of pairs of opposite noise, as published",
    )


class ToyFlowOptions(InflationOptions):
    """Options for the schedule and the times of the flow."""

    precond: str = option(
        type=choice(names.TOY_PRECONDITIONINGS),
        default="ifs",
        help="Kind of model. ifs: inflationary flow; edm: isotropic model of Karras et al. "
        "2022, with one data variance; edm_es: the same model with one data variance per "
        "axis.",
    )
    tmin: float | None = option(
        type=NOT_NEGATIVE, unset="0; edm, edm_es: 0.002", help="Smallest time of the flow."
    )
    tmax: float | None = option(
        unset="the time when the largest latent variance is ten times the data variance; edm, "
        "edm_es: 80",
        help="Largest time of the flow, T.",
    )


class ToyNetworkOptions(Declared, section="Network"):
    """Options for the network architecture."""

    arch: str = option(
        type=choice(names.TOY_NETWORK_NAMES), default="mlp", help="Network architecture."
    )
    space: str = option(
        type=choice(names.SPACES),
        default="ES",
        help="Coordinates of the network input: data axes (IS) or principal axes (ES).",
    )
    noise_cond: str = option(
        type=choice(names.NOISE_CONDITIONINGS),
        default="log",
        help="Time input of the network: logarithm of the noise (log) or 999 t (ddpm).",
    )


class ToyTrainSettings(
    Declared,
    example=f"{command_line('toy_train')} --data_name=circles --outdir=out",
    common="data_name outdir nosubdir data_dim dims_to_keep tmax arch duration minutes "
    "resume seed device_name dry_run",
):
    """Options of ``toy_train.py``."""

    toy: ToyOptions = options_of(ToyOptions)
    flow: ToyFlowOptions = options_of(ToyFlowOptions)
    network: ToyNetworkOptions = options_of(ToyNetworkOptions)
    training: TrainingOptions = options_of(
        TrainingOptions, unset={name: _of_recipes(name) for name in OF_TOYS}
    )
    calibration: CalibrationOptions = options_of(CalibrationOptions)
    run: RunOptions = options_of(RunOptions, defaults=asdict(TOY))

    def require_complete(self) -> None:
        """Raise UsageError if a new run has no toy or no output directory."""
        require_named(self, "data_name")
