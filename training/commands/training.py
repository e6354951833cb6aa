"""What options of trainings stand for, and how a resumed run takes over its own."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.files import require_writable
from training.learning.melting import LawPlan
from training.learning.restarting import OPTIONS_NAME
from training.learning.resuming import place_to_resume, read_record
from training.learning.run_folder import Place
from training.learning.trainer import TrainingConfig
from training.options.declared import Declared
from training.options.training import (
    LatentLawOptions,
    RunOptions,
    TrainingOptions,
    as_typed,
    require_values,
)
from training.recipes import TableRecipe, TrainingRecipe


def place_of(run: RunOptions, *parts: str | None) -> Place:
    """The run's folder, named by those of the parts that are there."""
    assert run.outdir is not None
    name = "-".join(part for part in (*parts, run.desc) if part)
    return Place(run.outdir, name, run.nosubdir)


def law_to_learn(options: LatentLawOptions, precond: str, plan: LawPlan) -> LawPlan | None:
    """What is left of a plan to learn the law of latents; None where there is no law to learn.

    Raises:
        UsageError: It was asked for of an isotropic model.
    """
    if precond == "ifs":
        return replace(plan, learned=options.latent_law != "gaussian")
    if options.latent_law == "learned":
        raise UsageError(f"--latent_law=learned is for precond=ifs, not {precond}")
    return None


def training_config(
    recipe: TrainingRecipe, training: TrainingOptions, run: RunOptions, antithetic: bool = False
) -> TrainingConfig:
    """The recipe in samples, with what is no part of it."""
    return TrainingConfig(
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


def settled(settings: S, data: str) -> tuple[S, Path | None]:
    """The settings of a new run, or of the one that is resumed.

    Args:
        settings: As typed.
        data: Name of the option that says what to train on.

    Returns:
        The settings, and the folder or state to go on from, if there is one.

    Raises:
        click.UsageError: What to train on is missing, or where to write.
        UsageError: A typed option contradicts the run that is resumed.
        DataError: That run is of another script, or its options cannot be read; or nothing can be
            written where a new one is to be.
    """
    values = settings.recorded()
    place = place_to_resume(values["resume"], values["outdir"], values["nosubdir"])
    if place is not None:
        saved = _saved_options(place, data)
        free = type(settings).free_names()
        merged = resumed_options(values, settings.given, saved, free, str(place))
        source = (place if place.is_dir() else place.parent) / OPTIONS_NAME
        settings = type(settings).of(as_typed(type(settings), merged, source), settings.given)
        values = settings.recorded()
    require_values(values, data)
    if place is None and not values["dry_run"]:
        require_writable(Path(values["outdir"]))
    return settings, place


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
    began = read_record(resume)
    length = {"duration": duration} if "duration" in began["options"] else {}
    return {**began, "options": {**began["options"], **length}}


def _saved_options(place: Path, data: str) -> dict[str, Any]:
    record = read_record(place)
    if data not in record["options"]:
        command = record.get("command")
        script = command[0] if isinstance(command, list) and command else "another script"
        raise DataError(f"{place} is a run of {script}, which has no --{data}: resume it with that")
    return record["options"]
