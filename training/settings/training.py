"""Options of the scripts that train, and how a resumed run takes over its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from dnnlib.errors import DataError, UsageError, agree, in_one_line
from dnnlib.files import require_writable
from training import learning
from training.learning.recipes import TableRecipe, TrainingRecipe
from training.names import METHODS
from training.settings.declared import Declared, option
from training.settings.types import (
    AMOUNT,
    COUNT,
    FILE,
    NETWORK,
    POSITIVE,
    SEED,
    FiniteFloat,
    Integers,
    choice,
)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Declared):
    """How long and how to train; what is None is the recipe's."""

    section = "Training"
    duration: float | None = option(
        type=AMOUNT,
        unset="the preset's",
        help="Length of the training, million samples. With --resume, a new length.",
    )
    batch: int | None = option(type=COUNT, unset="the preset's", help="Batch size over all ranks.")
    batch_gpu: int | None = option(
        "--batch-gpu", type=COUNT, unset="no limit", help="Largest batch of one rank at a time."
    )
    lr: float | None = option(type=POSITIVE, unset="the preset's", help="Peak learning rate.")
    ema: float | None = option(
        type=FiniteFloat(min=0, max=1e9),
        unset="the preset's",
        help="Half-life of averaged weights, million samples.",
    )
    ls: float = option(
        type=POSITIVE,
        default=1.0,
        help="Loss scale in the backward pass; in fp16, times one of 65536 that adapts.",
    )


LATENT_LAWS = ("learned", "gaussian")


@dataclass(frozen=True, kw_only=True)
class LatentLawOptions(Declared):
    """Whether to learn what compressed latents are distributed as."""

    section = "Calibration"
    latent_law: str | None = option(
        type=choice(LATENT_LAWS),
        unset="learned, if dimensions are compressed",
        help="Law of the latents that samples start from: learned from data that the trained "
        "network melts, or the Gaussian of the closed form. Kept latents are compared with it, "
        "but for those of tables that are given conditions.",
    )

    network: str | None = option(
        type=NETWORK,
        help="With --refit_latent_law: the network file, path or https URL.",
    )
    refit_latent_law: bool = option(
        is_flag=True,
        help="Do not train, but learn the law of the latents of --network, which is written with "
        "it as NAME-law.pkl into --outdir, or beside it.",
    )

    def __post_init__(self) -> None:
        if (self.network is not None) != self.refit_latent_law:
            raise UsageError("--network and --refit_latent_law go together")
        if self.refit_latent_law and self.latent_law == "gaussian":
            raise UsageError("--refit_latent_law learns a law: leave --latent_law=gaussian out")

    def law_plan(self, precond: str, plan: learning.LawPlan) -> learning.LawPlan | None:
        """What is left of a plan to learn the law of latents; None where there is no law to learn.

        Raises:
            UsageError: It was asked for of an isotropic model.
        """
        if precond == "ifs":
            return replace(plan, learned=self.latent_law != "gaussian")
        if self.latent_law == "learned":
            raise UsageError(f"--latent_law=learned is for precond=ifs, not {precond}")
        return None


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(Declared):
    """Whether and how to correct the trained network by what it does on data."""

    section = "Calibration"
    calibrate: bool | None = option(
        "--calibrate/--no-calibrate",
        unset="with precond=ifs",
        help="After training, correct the network by its regression on the data.",
    )
    calibration_fit: str = option(
        type=choice(METHODS),
        default=METHODS[0],
        help="What is corrected: the scale of the network's output (gain), for samples; or also "
        "its slope in its input, fitted to noisy data (marginal) or along the flow (path), for "
        "latent variances.",
    )

    def wanted(self, precond: str, by_default: bool = True) -> bool:
        """Whether there is to be a calibration.

        Args:
            precond: Kind of the model.
            by_default: Whether there is one, where there can be one, unless something is said.

        Raises:
            UsageError: It was asked for, but is not defined for the isotropic models; or how to
                fit was said, but there is no fit.
        """
        if self.calibrate and precond != "ifs":
            raise UsageError(
                f"--calibrate goes with --precond=ifs only, not {precond}: leave it out"
            )
        possible = precond == "ifs"
        wanted = possible and by_default if self.calibrate is None else self.calibrate
        if "calibration_fit" in self.given and not wanted:
            right = "leave it out" + ", or give --calibrate" * (possible and not by_default)
            raise UsageError(f"--calibration_fit is given, but there is no calibration: {right}")
        return wanted


@dataclass(frozen=True, kw_only=True)
class RunOptions(Declared):
    """Where a run is, what it writes and when, and what it goes on from."""

    section = "Run"
    outdir: Path | None = option(type=FILE, help="Where to make the run's folder.  [required]")
    desc: str | None = option(help="Text to add to the name of the run's folder.")
    nosubdir: bool = option(is_flag=True, help="Use --outdir itself as the run's folder.")
    resume: Path | None = option(
        type=FILE,
        help="A run's folder or training-state-*.pt: go on in that folder, with its options.",
    )
    tick: int | None = option(
        type=COUNT, unset="the preset's", help="Thousand samples between reports."
    )
    snap: int | None = option(
        type=COUNT,
        unset="the preset's",
        help="Reports between network files; the last is always written.",
    )
    dump: int | None = option(
        type=COUNT,
        unset="the preset's",
        help="Reports between training states; the last is always written.",
    )
    keep: int = option(type=COUNT, default=2, help="Training states to keep, the newest.")
    seed: int = option(type=SEED, default=0, help="Seed of all random numbers.")
    deterministic: bool = option(
        is_flag=True, help="Use only algorithms of PyTorch that give the same bytes every time."
    )
    device_name: str | None = option(
        unset="cuda where there is one", help="Device: cpu, cuda or cuda:N."
    )
    threads: int | None = option(
        type=COUNT,
        unset="as OMP_NUM_THREADS says, or the machine's idle cores, or one for a small network "
        "of a table",
        help="Threads on a CPU, without torchrun. A resumed run has those that it began with",
    )
    dry_run: bool = option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Print what would be done, and what a step costs: parameters, operations, memory.",
    )
    card_memory: float | None = option(
        "--card-memory",
        type=AMOUNT,
        unset="none",
        help="With --dry-run: memory of a card, GiB, for which to tell the largest --batch-gpu; "
        "it need not be there",
    )

    def __post_init__(self) -> None:
        if "card_memory" in self.given and not self.dry_run:
            raise UsageError("--card-memory goes with --dry-run")

    def place(self, *parts: str | None) -> learning.Place:
        """The run's folder, named by those of the parts that are there."""
        assert self.outdir is not None
        name = "-".join(part for part in (*parts, self.desc) if part)
        return learning.Place(self.outdir, name, self.nosubdir)


FREE_ON_RESUME = frozenset(
    (
        *("batch_gpu", "card_memory", "device_name", "dry_run", "dump", "duration", "keep"),
        *("resume", "snap", "threads", "tick"),
    )
)
"""Options that a resumed run may change and still be the same run, or a longer one."""


def training_config(
    recipe: TrainingRecipe, training: TrainingOptions, run: RunOptions, antithetic: bool = False
) -> learning.TrainingConfig:
    """The recipe in samples, with what is no part of it."""
    return learning.TrainingConfig(
        total=round(recipe.duration * 1e6),
        batch=recipe.batch,
        batch_gpu=training.batch_gpu,
        lr=recipe.lr,
        lr_ramp=round(recipe.lr_ramp * 1e6),
        lr_decay=recipe.lr_decay,
        ema_halflife=round(recipe.ema * 1e6),
        weight_decay=recipe.weight_decay if isinstance(recipe, TableRecipe) else 0.0,
        loss_scale=training.ls,
        antithetic=antithetic,
        tick=recipe.tick * 1000,
        snapshot_ticks=recipe.snap,
        state_ticks=recipe.dump,
        keep_states=run.keep,
        seed=run.seed,
    )


S = TypeVar("S", bound=Declared)


def settled(
    settings: S,
    data: str,
    free: Iterable[str] = (),
) -> tuple[S, Path | None]:
    """The settings of a new run, or of the one that is resumed.

    Args:
        settings: As typed.
        data: Name of the option that says what to train on.
        free: Further options that a resumed run may change.

    Returns:
        The settings, and the folder or state to go on from, if there is one.

    Raises:
        click.UsageError: What to train on is missing, or where to write.
        UsageError: A typed option contradicts the run that is resumed.
        DataError: That run is of another script, or its options cannot be read; or nothing can be
            written where a new one is to be.
    """
    values = settings.recorded()
    place = learning.place_to_resume(values["resume"], values["outdir"], values["nosubdir"])
    if place is not None:
        saved = _saved_options(place, data)
        merged = resumed_options(
            values, settings.given, saved, {*FREE_ON_RESUME, *free}, str(place)
        )
        settings = type(settings).of(_as_typed(merged, place), settings.given)
        values = settings.recorded()
    _require_named(values, data)
    if place is None and not values["dry_run"]:
        require_writable(Path(values["outdir"]))
    return settings, place


def require_named(settings: Declared, data: str) -> None:
    """Raises click.UsageError if a new run is not told what to train on, or where to write.

    ``settled`` refuses it as well; this needs nothing but what was typed.
    """
    values = settings.recorded()
    if values["resume"] is None and not values["refit_latent_law"]:
        _require_named(values, data)


def _require_named(values: Mapping[str, Any], data: str) -> None:
    for name in ("outdir", data):
        if values[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")


def resumed_options(
    typed: Mapping[str, Any],
    given: Iterable[str],
    saved: Mapping[str, Any],
    free: Iterable[str],
    source: str,
) -> dict[str, Any]:
    """The options of a resumed run: the saved ones, but for those that are free to change.

    Args:
        typed: The options of the command line, with defaults.
        given: Names of those that were typed.
        saved: The run's own.
        free: Names that may differ from the run's; the parsed value counts if it was typed.
        source: Where the saved ones are from, for the error.

    Raises:
        UsageError: A typed option contradicts the run's.
    """
    merged = {**typed, **saved}
    for name in given:
        if name not in free:
            agree(name, _plain(typed[name]), saved.get(name), source)
        merged[name] = typed[name]
    return merged


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def record_of(new: dict[str, Any], resume: Path | None, duration: float) -> dict[str, Any]:
    """What ``training_options.json`` is to say: of a run that is resumed, what it said, but for its
    length, if it told one.

    Args:
        new: What it says of a new run.
        resume: The folder or state that a run goes on from.
        duration: Million samples.

    Raises:
        DataError: What that run said cannot be read.
    """
    if resume is None:
        return new
    said = learning.read_record(resume)
    told = {"duration": duration} if "duration" in said["options"] else {}
    return {**said, "options": {**said["options"], **told}}


def _saved_options(place: Path, data: str) -> dict[str, Any]:
    record = learning.read_record(place)
    if data not in record["options"]:
        command = record.get("command")
        script = command[0] if isinstance(command, list) and command else "another script"
        raise DataError(f"{place} is a run of {script}, which has no --{data}: resume it with that")
    return record["options"]


def _as_typed(options: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """Values from a file, as the current command would take them from the command line.

    Raises:
        DataError: An option does not take its value, or has none where there must be one.
    """
    ctx = click.get_current_context()
    source = (place if place.is_dir() else place.parent) / learning.OPTIONS_NAME
    typed = {}
    for param in ctx.command.params:
        name = param.name or ""
        value = options.get(name)
        if value is None and isinstance(param.get_default(ctx), int | float | str):
            raise DataError(f"{source} has no value of --{name}")
        if isinstance(value, list | tuple) and isinstance(param.type, Integers):
            value = param.type.separator.join(map(str, value))
        if not isinstance(value, str | int | float | Path | None):
            raise DataError(f"{source}: --{name} is no single value, as it is on the command line")
        try:
            typed[name] = param.type_cast_value(ctx, None if value is None else str(value))
        except click.UsageError as error:
            raise DataError(f"{source}: {in_one_line(error.format_message())}") from error
    return typed
