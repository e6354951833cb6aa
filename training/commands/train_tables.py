"""Trains a denoiser on the rows of a table."""

from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import UsageError, agree
from dnnlib.logs import logger
from torch_utils.determinism import algorithms
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.commands.training import law_to_learn, place_of, record_of, training_config
from training.data.tables.table import Table
from training.files.table import load_table
from training.flow.coordinates.coordinates import Coordinates
from training.learning.building import Choices, describe_training, resolved_options
from training.learning.cost import tell_dry_run
from training.learning.limits import require_batch
from training.learning.loop import Progress
from training.learning.resuming import Resumed
from training.learning.run import run_training
from training.learning.selection import Watch
from training.learning.tables import (
    Preparation,
    Space,
    about_table,
    choose_space,
    kept_dimensions,
)
from training.learning.trainer import Trainer
from training.names import AXES_TOO, TABLE_NETWORK
from training.options.tables import TableOptions
from training.options.train import TrainSettings
from training.recipes import TableRecipe, describe_table_recipe, fitted_to_table


def train_on_table(
    settings: TrainSettings, data: Path, resume: Path | None, progress: Progress | None
) -> Path | None:
    """Trains on the rows of a table that are not held out."""
    run, how = settings.run, settings.calibration
    calibrate = how.wanted(settings.flow.precond, by_default=False)
    whole = load_table(data)
    table = wanted_of(settings, whole)
    rows, conditions = len(table.train_rows), table.condition_dim
    if whole.condition_dim and not conditions:
        names = ", ".join(whole.condition_names)
        logger.warning(f"Warning: {names} left out: --cond conditions the flow on such columns")
    recipe = fitted_to_table(rows, table.dim, settings.recorded(), conditions)
    group = process_group(run.device_name, run.threads, recipe.useful_threads)
    with algorithms(run.deterministic), group as device:
        resumed = Resumed.find(resume) if resume else None
        logger.info(describe_table_recipe(recipe, rows, table.dim, conditions))
        require_batch(recipe.batch, table.dim, device)
        kept = kept_dimensions(settings.flow.dims_to_keep, table)
        choices = table_choices(settings, recipe, table, kept)
        config = training_config(recipe, settings.training, run)
        preparation = Preparation(table, choices, config, device)
        space, coordinates = coordinates_of(settings.table, preparation, resumed)
        model, loss = preparation.build(coordinates)
        model.about |= about_table(table, data.stem)
        logger.info(model.denoiser.basis.describe())
        logger.info(describe_training(model, loss, config))
        resolved = {**asdict(recipe), **asdict(space), **resolved_options(model, loss)}
        options = settings.recorded(
            **resolved, arch=TABLE_NETWORK, calibrate=calibrate, threads=torch.get_num_threads()
        )
        record = {"options": options, **provenance("started")}
        if run.dry_run:
            tell_dry_run(record, model, loss, config, run.card_memory)
            return None
        held_out = preparation.held_out(coordinates, loss)
        fit = preparation.calibration(coordinates, how.calibration_fit) if calibrate else None
        law = law_to_learn(settings.law, settings.flow.precond, preparation.law(coordinates))
        if conditions and kept == table.dim:
            law = None  # whether draws are normal given conditions, posterior.py check asks
        return run_training(
            Trainer(model, loss, config),
            preparation.source(coordinates),
            place_of(
                run, data.stem, loss.schedule.name, TABLE_NETWORK, "cond" if conditions else None
            ),
            record_of(record, resume, recipe.duration),
            resumed,
            fit,
            law,
            watch=Watch(held_out, True, recipe.patience) if held_out else None,
            progress=progress,
        )


def coordinates_of(
    options: TableOptions, preparation: Preparation, resumed: Resumed | None
) -> tuple[Space, Coordinates]:
    """How the flow sees the table: as a resumed run does, or by what is best on held-out rows."""
    screen = "off" if options.cond_shape else options.cond_screen
    space = choose_space(
        preparation,
        options.marginals,
        options.whiten,
        options.linear_start,
        options.bounded,
        screen,
    )
    coordinates = preparation.coordinates(space)
    if resumed:
        resumed.take_coordinates(coordinates)
    far = preparation.told_of_far_rows(coordinates, space)
    if far:
        logger.warning(f"Warning: {far}, or try --marginals={AXES_TOO}")
    return space, coordinates


def wanted_of(settings: TrainSettings, table: Table) -> Table:
    """The table, with conditions if they are wanted.

    Raises:
        UsageError: They are wanted, but there are none; or an option is for them alone.
    """
    if not settings.data.cond:
        settings.table.require_nothing_of_conditions()
        return table.without_conditions()
    if table.conditions is None:
        raise UsageError(
            f"--cond is given, but {settings.data.data} has no conditions: make it with "
            "dataset_tool.py --conditions=NAMES"
        )
    return table


def table_choices(
    settings: TrainSettings, recipe: TableRecipe, table: Table, dims_to_keep: int
) -> Choices:
    """The model to build for a table.

    Args:
        recipe: Of the training.
        table: The table, with the conditions that are wanted.
        dims_to_keep: What ``auto`` has come to.

    Raises:
        UsageError: Options contradict the table or each other.
    """
    flow, network, dim = settings.flow, settings.network, table.dim
    agree("data_dim", flow.data_dim, dim, f"the table {settings.data.data}")
    # What is left out is not written either: networks without these are what they were.
    more = condition_arguments(settings.table, table.condition_dim, recipe.cond_waves)
    if recipe.ensemble > 1:
        more["members"] = recipe.ensemble
    inflation = flow.arguments(flow.precond, dim)
    if flow.precond == "ifs":
        inflation |= {"dims_to_keep": dims_to_keep, "gamma0": recipe.gamma0}
    return Choices(
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
        seed=settings.run.seed,
    )


def condition_arguments(options: TableOptions, count: int, waves: int) -> dict[str, Any]:
    """What a network is to be told of so many conditions, and waves of each.

    Raises:
        UsageError: They are not as many as their shape has.
    """
    if not count:
        return {}
    seen = {"label_dim": count, "condition_features": waves}
    if options.cond_shape is None:
        return seen
    if options.cond_screen == "on":
        raise UsageError("--cond_screen=on leaves out parts of --cond_shape: give one of them")
    if prod(options.cond_shape) != count or len(options.cond_shape) > 3:
        shape = "x".join(map(str, options.cond_shape))
        raise UsageError(
            f"--cond_shape={shape} does not fit the {count} conditions of the table: give C, "
            f"CxL or CxHxW whose product is {count}"
        )
    return {**seen, "condition_shape": list(options.cond_shape)}
