"""Questions about rows: what ``ask.py`` runs."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dnnlib.files import require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only
from training.data.records.encoding import encode
from training.data.records.records import Records
from training.data.records.writing import save_texts, texts_of
from training.files.answers import params_path, real_path, save_check, save_params
from training.files.records import columns_json, holds_records, load_as_records, load_records
from training.names import UNSOUND
from training.options import ask as options
from training.runs import asking
from training.runs.asking import Sheet
from training.runs.intervals import Interval, require_same_columns
from training.subjects import NetworkFile, RecordFlow
from training.subjects.records import Progress


@first_rank_only
def fill(settings: options.FillSettings) -> None:
    dest, sheet = settings.dest, None
    numbers = range(1, (settings.tables or 0) + 1)
    paths = [dest.with_name(f"{dest.stem}_{number}{dest.suffix}") for number in numbers]
    flow = opened(settings, *(paths or [dest]), params_path(dest))
    records = rows_of(settings, flow)
    if not paths:
        with bar("cells", None) as progress:
            sheet = asking.fill(flow, records, intervals(settings, flow), progress)
    for number, path in enumerate(paths):
        with bar("rows", len(records)) as progress:
            save(path, asking.completed(flow, records, settings.seed, number, progress), records)
    finish(settings, flow, "fill", sheet, records)


@first_rank_only
def predict(settings: options.PredictSettings) -> None:
    flow = opened(settings, settings.dest, params_path(settings.dest))
    records, columns = rows_of(settings, flow, settings.columns), settings.columns
    wanted = intervals(settings, flow)
    with bar("rows", len(records) * len(columns)) as progress:
        sheet = asking.predict(flow, records, columns, wanted, progress)
    finish(settings, flow, "predict", sheet, records)


@first_rank_only
def score(settings: options.ScoreSettings) -> None:
    flow = opened(settings, settings.dest, params_path(settings.dest))
    records = rows_of(settings, flow)
    with bar("cells", len(records) * (1 + len(records.columns))) as progress:
        sheet = asking.score(flow, records, settings.odd, progress)
    finish(settings, flow, "score", sheet, records)


@first_rank_only
def sample(settings: options.DrawSettings) -> None:
    dest, data, given = settings.dest, settings.data, settings.given_ or ()
    flow = opened(settings, dest, params_path(dest), *([real_path(dest)] if data else []))
    real = asking.to_compare(flow, data_set(data, flow.empty), given) if data else None
    with bar("rows", settings.count) as progress:
        sheet = asking.draw(flow, settings.count, given, settings.seed, progress)
    finish(settings, flow, "sample", sheet, flow.empty, real)


@first_rank_only
def check(settings: options.AskCheckSettings) -> int:
    flow = opened(settings, settings.dest)
    records = data_set(settings.data, flow.empty)
    facts = asking.checked(flow, records, settings.hidden, settings.level, settings.seed)
    save_check(settings.dest, settings.recorded(), facts)
    logger.info("\n".join([*asking.check_lines(facts), f"Wrote {settings.dest}"]))
    return UNSOUND if facts["fails"] and settings.strict else 0


def opened(settings: options.AskSettings | options.AskCheckSettings, *files: Path) -> RecordFlow:
    """The flow of a network, about which these files are to be written. Raises UsageError if one is
    there, DataError if the network answers no questions."""
    require_new(list(files), settings.overwrite, "--dest")
    return RecordFlow.of(NetworkFile.open(settings.network))


def intervals(settings: options.IntervalSettings, flow: RecordFlow) -> Interval:
    """Those that are wanted."""
    if settings.calibrate is None:
        return Interval(settings.interval, settings.held_out)
    marks = settings.missing_values or ()
    return Interval(settings.interval, data_set(settings.calibrate, flow.empty, marks))


def rows_of(settings: options.RowSettings, flow: RecordFlow, asked: Sequence[str] = ()) -> Records:
    """Rows of a file, with the columns of the network; warns of what does not fit."""
    source: Records | str = str(settings.data)
    if holds_records(settings.data):
        source = load_records(settings.data)
        require_same_columns(flow, source)
    return asking.rows_of(flow, source, asked, settings.missing_values or ())


def data_set(path: Path, empty: Records, missing_values: Sequence[str] = ()) -> Records:
    """The records of a data set, a table as records, or rows of another file, all held out; warns
    of what does not fit."""
    records = load_as_records(path)
    if records is None:
        records, lines = encode(path, empty.columns, missing_values=missing_values, like=empty)
        for line in lines:
            logger.warning(f"Warning: {line}")
    return records


def save(path: Path, sheet: Sheet, records: Records) -> None:
    """Writes a sheet and says so."""
    save_texts(path, sheet.names, sheet.rows, records.separator)
    logger.info(f"Wrote {path}: {len(sheet.rows)} rows of {len(sheet.names)} columns")


def finish(
    settings: options.AskSettings,
    flow: RecordFlow,
    question: str,
    sheet: Sheet | None,
    records: Records,
    real: Records | None = None,
) -> None:
    """Writes a sheet of answers, which is None where there are several and they are there, and how
    they came about. ``records`` are those that the sheet is of, ``real`` rows to compare with."""
    if sheet is not None:
        save(settings.dest, sheet, records)
    if real is not None:
        save(real_path(settings.dest), Sheet(*texts_of(flow.empty, real.values)), flow.empty)
    table = replace(flow.empty, separator=records.separator, decimal=records.decimal)
    about = {
        "question": question,
        "data_name": flow.file.model.about.get("data_name"),
        "sheet": None if sheet is None else settings.dest.name,
        "beside": None if sheet is None else sheet.beside,
        "held_out": None if real is None else bool(real.held_out.all()),
        "table": json.loads(columns_json(table)),
    }
    digest = flow.file.model.digest()
    save_params(params_path(settings.dest), settings.recorded(), digest, about)


@contextmanager
def bar(unit: str, total: Any) -> Iterator[Progress]:
    """A progress bar of what is asked."""
    with tqdm(total=total, desc="asking", unit=f" {unit}", disable=None) as shown:
        yield shown.update
