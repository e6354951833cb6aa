"""Options of the scripts that train, and how a resumed run merges them with its own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from dnnlib.errors import DataError, UsageError, agree
from training.data.batches import Batch
from training.learning.calibrating import CalibrationPlan
from training.learning.trainer import TrainingConfig
from training.settings.options import Decorator, device_option, option_group
from training.settings.types import AMOUNT, COUNT, FILE, POSITIVE, SEED, FiniteFloat, choice


def training_options(
    fits: Iterable[str],
    calibration_fit: str,
    duration: float,
    batch: int,
    lr: float,
    ema: float,
    tick: int,
    snap: int,
    dump: int,
) -> Decorator[Any]:
    """What every training script asks, with that script's defaults, and the calibrations' names."""
    return option_group(
        click.option("--outdir", type=FILE, help="Where to make the run's folder."),
        click.option(
            "--duration",
            type=AMOUNT,
            default=duration,
            help="Length of training, million samples.",
        ),
        click.option("--batch", type=COUNT, default=batch, help="Batch size over all ranks."),
        click.option(
            "--batch-gpu",
            type=COUNT,
            help="Largest batch of one rank at a time  [default: no limit]",
        ),
        click.option("--lr", type=POSITIVE, default=lr, help="Peak learning rate."),
        click.option(
            "--ema",
            type=FiniteFloat(min=0, max=1e9),
            default=ema,
            help="Half-life of averaged weights, million samples.",
        ),
        click.option(
            "--calibrate/--no-calibrate",
            default=None,
            help="Correct the trained network by its regression on the data  "
            "[default: with precond=ifs]",
        ),
        click.option(
            "--calibration_fit",
            type=choice(fits),
            help="What it corrects: the scale of the network's output (gain), for samples; or also "
            "its slope in its input, fitted to noisy data (marginal) or along the flow (path), "
            f"for latent variances  [default: {calibration_fit}]",
        ),
        click.option("--ls", type=POSITIVE, default=1.0, help="Loss scale in the backward pass."),
        click.option("--seed", type=SEED, default=0, help="Seed of all random numbers."),
        click.option(
            "--resume",
            type=FILE,
            help="A run's folder or training-state-*.pt: go on in that folder, with its options.",
        ),
        click.option("--desc", help="Text to add to the name of the run's folder."),
        click.option("--nosubdir", is_flag=True, help="Use --outdir itself as the run's folder."),
        click.option("--tick", type=COUNT, default=tick, help="Thousand samples between reports."),
        click.option(
            "--snap",
            type=COUNT,
            default=snap,
            help="Reports between network files; the last is always written.",
        ),
        click.option(
            "--dump",
            type=COUNT,
            default=dump,
            help="Reports between training states; the last is always written.",
        ),
        click.option("--keep", type=COUNT, default=2, help="Training states to keep, the newest."),
        click.option(
            "--deterministic",
            is_flag=True,
            help="Use only algorithms of PyTorch that give the same bytes every time.",
        ),
        device_option,
        click.option("-n", "--dry-run", is_flag=True, help="Print the options and stop."),
    )


def resumed_options(
    options: Mapping[str, Any],
    given: set[str],
    saved: Mapping[str, Any],
    free: set[str],
    source: str,
) -> dict[str, Any]:
    """The options of a resumed run: the saved ones, but for those that are free to change.

    Args:
        options: As parsed, with defaults.
        given: Names of those that were typed.
        saved: The run's own.
        free: Names that may differ from the run's; the parsed value counts if it was typed.
        source: Where the saved ones are from, for the error.

    Raises:
        UsageError: A typed option contradicts the run's.
    """
    merged = {**options, **saved}
    for name in given:
        if name not in free:
            # Paths are strings in a file.
            value = str(options[name]) if isinstance(options[name], Path) else options[name]
            agree(name, value, saved.get(name), source)
        merged[name] = options[name]
    return merged


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Values from a file, as the current command would take them from the command line.

    Raises:
        click.UsageError: A value that an option does not take.
        DataError: A value that no command line could give, or none where there must be one.
    """
    ctx = click.get_current_context()
    checked = {}
    for param in ctx.command.params:
        name, value = param.name, options.get(param.name or "")
        if not name:
            continue
        if value is None and isinstance(param.get_default(ctx), int | float | str):
            raise DataError(f"the saved options have no value of --{name}")
        try:
            checked[name] = param.type_cast_value(ctx, value)
        except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
            raise DataError(f"the saved options have no usable value of --{name}") from error
    return checked


def calibrates(options: Mapping[str, Any]) -> bool:
    """Whether options ask for a calibration after training: by default where there can be one.

    Raises:
        UsageError: It was asked for, but is not defined for the isotropic models; or what to fit
            was said, but there is no fit.
    """
    asked, precond = options["calibrate"], options["precond"]
    if asked and precond != "ifs":
        raise UsageError(f"--calibrate goes with --precond=ifs only, not {precond}: leave it out")
    asked = precond == "ifs" if asked is None else asked
    if options["calibration_fit"] and not asked:
        raise UsageError("--calibration_fit is given, but there is no calibration: leave it out")
    return bool(asked)


def calibration_plan(
    options: Mapping[str, Any],
    default_method: str,
    points: Callable[[], Batch],
    seed: int,
) -> CalibrationPlan | None:
    """The plan of a training script's options, or None if they ask for no calibration."""
    method = options["calibration_fit"] or default_method
    return CalibrationPlan(points, seed, method) if options["calibrate"] else None


def training_config(options: Mapping[str, Any], **recipe: Any) -> TrainingConfig:
    """From the amounts of the command line: millions, and thousands for the tick."""
    return TrainingConfig(
        total=round(options["duration"] * 1e6),
        batch=options["batch"],
        batch_gpu=options["batch_gpu"],
        lr=options["lr"],
        ema_halflife=round(options["ema"] * 1e6),
        loss_scale=options["ls"],
        tick=options["tick"] * 1000,
        snapshot_ticks=options["snap"],
        state_ticks=options["dump"],
        keep_states=options["keep"],
        seed=options["seed"],
        **recipe,
    )
