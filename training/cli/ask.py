"""Conditional queries about rows: the functions behind ``ask.py``."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from training.data.tables.encoding import contradicted, encode
from training.data.tables.table import DataTable
from training.data.tables.values import save_texts
from training.files.answers import params_path, real_path, save_check, save_params
from training.files.records import columns_json, holds_records, load_data_set, load_records
from training.models.queries import (
    Asking,
    Interval,
    Sheet,
    check_lines,
    require_same_columns,
    sheet_of,
)
from training.names import UNSOUND, script
from training.settings import ask as options
from training.subjects import RecordFlow
from training.trained.network import TrainedNetwork


@first_rank_only
def fill(settings: options.FillSettings) -> None:
    """Impute missing values of rows, or write several tables with joint draws of them."""
    dest = settings.dest
    numbers = range(1, (settings.tables or 0) + 1)
    paths = [dest.with_name(f"{dest.stem}_{number}{dest.suffix}") for number in numbers]
    flow = opened(settings, *(paths or [dest]), params_path(dest))
    records = rows_of(settings, flow)
    if not paths:
        holes = records.holes.sum(axis=0).tolist()
        own = (not column.of for column in records.columns)
        with bar(flow, "cells", sum(compress(holes, own))) as asked:
            sheet = asked.fill(records, intervals(settings, flow))
            finish(settings, flow, "fill", sheet, records)
        return
    for number, path in enumerate(paths):
        with bar(flow, "rows", len(records)) as asked:
            save(path, asked.completed(records, settings.seed, number), records)
    finish(settings, flow, "fill", None, records)


@first_rank_only
def predict(settings: options.PredictSettings) -> None:
    """Predict columns of rows, given all other cells that are present."""
    flow = opened(settings, settings.dest, params_path(settings.dest))
    records, columns = rows_of(settings, flow, settings.columns), settings.columns
    wanted = intervals(settings, flow)
    with bar(flow, "rows", len(records) * len(columns)) as asked:
        finish(settings, flow, "predict", asked.predict(records, columns, wanted), records)


@first_rank_only
def score(settings: options.ScoreSettings) -> None:
    """Write the log density of each row, its error, and its outlying cells."""
    flow = opened(settings, settings.dest, params_path(settings.dest))
    records = rows_of(settings, flow)
    with bar(flow, "rows", len(records)) as asked:
        finish(settings, flow, "score", asked.score(records, settings.odd), records)


@first_rank_only
def sample(settings: options.DrawSettings) -> None:
    """Draw rows given values of some columns, and select rows of data to compare with."""
    dest, data, given = settings.dest, settings.data, settings.given_ or ()
    flow = opened(settings, dest, params_path(dest), *([real_path(dest)] if data else []))
    real = Asking(flow).to_compare(data_set(data, flow.empty), given) if data else None
    with bar(flow, "rows", settings.count) as asked:
        sheet = asked.draw(settings.count, given, settings.seed)
    finish(settings, flow, "sample", sheet, flow.empty, real)


@first_rank_only
def check(settings: options.AskCheckSettings) -> int:
    """Test the conditional distributions of hidden cells in held-out rows.

    Returns:
        The exit code: ``UNSOUND`` with ``--strict`` if a test fails, else 0.
    """
    flow = opened(settings, settings.dest)
    records = data_set(settings.data, flow.empty)
    facts = Asking(flow).checked(records, settings.hidden, settings.level, settings.seed)
    save_check(settings.dest, settings.recorded(), facts)
    logger.info("\n".join([*check_lines(facts), f"Wrote {settings.dest}"]))
    return UNSOUND if facts["fails"] and settings.strict else 0


def opened(settings: options.AskSettings | options.AskCheckSettings, *files: Path) -> RecordFlow:
    """Open the flow of a network for a command that writes the given files.

    Raises:
        UsageError: One of the files exists.
        DataError: The network does not support conditional queries.
    """
    require_new(list(files), settings.overwrite, "--dest")
    return RecordFlow.of(TrainedNetwork.open(settings.network))


def intervals(settings: options.IntervalSettings, flow: RecordFlow) -> Interval:
    """Return the settings of the prediction intervals: coverage and calibration."""
    if settings.calibrate is None:
        return Interval(settings.interval, settings.held_out)
    marks = settings.missing_values or ()
    return Interval(settings.interval, data_set(settings.calibrate, flow.empty, marks))


def rows_of(
    settings: options.RowSettings, flow: RecordFlow, asked: Sequence[str] = ()
) -> DataTable:
    """Read rows of a file, with the columns of the network, and warn about mismatches.

    Raises:
        UsageError: Marks for missing values are given, but all files are data sets, not texts.
    """
    source: DataTable | str = str(settings.data)
    if holds_records(settings.data):
        further = settings.calibrate if isinstance(settings, options.IntervalSettings) else None
        if settings.missing_values and (further is None or holds_records(further)):
            raise UsageError(
                f"--missing_values is for text files, but {settings.data} is a data set: "
                "leave the option out, or make the data set again with "
                f"{script('dataset_tool')} --missing_values"
            )
        source = load_records(settings.data)
        require_same_columns(flow, source)
    return Asking(flow).rows_of(source, asked, settings.missing_values or ())


def data_set(path: Path, empty: DataTable, missing_values: Sequence[str] = ()) -> DataTable:
    """Read held-out records from a data set, a table or another file.

    Warnings report mismatches with the columns of the network.
    """
    table = load_data_set(path)
    if table is not None:
        return table.as_typed()
    records, lines = encode(path, empty.columns, missing_values=missing_values, like=empty)
    for line in [*lines, *contradicted(records, empty)]:
        logger.warning(f"Warning: {line}")
    return records


def save(path: Path, sheet: Sheet, records: DataTable) -> None:
    """Write a sheet of results as CSV, and log its path."""
    save_texts(path, sheet.names, sheet.rows, records.separator)
    logger.info(f"Wrote {path}: {sheet.count} rows of {len(sheet.names)} columns")


def finish(
    settings: options.AskSettings,
    flow: RecordFlow,
    question: str,
    sheet: Sheet | None,
    records: DataTable,
    real: DataTable | None = None,
) -> None:
    """Write a sheet of answers and its parameters.

    Args:
        settings: Settings of the command.
        flow: Flow of the network.
        question: Name of the command.
        sheet: Sheet to write; None if several sheets have already been written.
        records: Records that the sheet contains.
        real: Rows to compare with, if any.
    """
    if sheet is not None:
        save(settings.dest, sheet, records)
    if real is not None:
        save(real_path(settings.dest), sheet_of(flow.empty, real.values), flow.empty)
    table = replace(flow.empty, separator=records.separator, decimal=records.decimal)
    about = {
        "question": question,
        "data_name": flow.network.about.get("data_name"),
        "sheet": None if sheet is None else settings.dest.name,
        "beside": None if sheet is None else sheet.beside,
        "held_out": None if real is None else bool(real.held_out.all()),
        "table": json.loads(columns_json(table)),
    }
    digest = flow.network.digest()
    save_params(params_path(settings.dest), settings.recorded(), digest, about)


@contextmanager
def bar(flow: RecordFlow, unit: str, total: Any) -> Iterator[Asking]:
    """Yield an interface to queries of a flow, with a progress bar."""
    with tqdm(total=total, desc="asking", unit=f" {unit}", disable=None) as shown:
        yield Asking(flow, shown.update)
