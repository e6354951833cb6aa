"""Conditional queries about rows: the functions behind ``ask.py``, and their Python interface.

The Python interface takes and returns data frames.
"""

import csv
import importlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dnnlib.errors import UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from dnnlib.numbers import fraction, natural
from torch_utils.distributed import first_rank_only
from training.models.rows import FRAMES, frame_class, kind_of
from training.data.records.encoding import contradicted, encode
from training.data.records.records import Records
from training.data.records.writing import save_texts, texts_of
from training.data.tables.formats import MISSING
from training.files.answers import params_path, real_path, save_check, save_params
from training.files.records import columns_json, holds_records, load_as_records, load_records
from training.names import UNSOUND, script
from training.settings import ask as options
from training.runs.intervals import Interval, require_same_columns
from training.runs.queries import Asking, Sheet, check_lines
from training.subjects import NetworkFile, RecordFlow


@first_rank_only
def fill(settings: options.FillSettings) -> None:
    """Impute missing values of rows, or write several tables with joint draws of them."""
    dest, sheet = settings.dest, None
    numbers = range(1, (settings.tables or 0) + 1)
    paths = [dest.with_name(f"{dest.stem}_{number}{dest.suffix}") for number in numbers]
    flow = opened(settings, *(paths or [dest]), params_path(dest))
    records = rows_of(settings, flow)
    if not paths:
        with bar(flow, "cells", None) as asked:
            sheet = asked.fill(records, intervals(settings, flow))
    for number, path in enumerate(paths):
        with bar(flow, "rows", len(records)) as asked:
            save(path, asked.completed(records, settings.seed, number), records)
    finish(settings, flow, "fill", sheet, records)


@first_rank_only
def predict(settings: options.PredictSettings) -> None:
    """Predict columns of rows, given all other cells that are present."""
    flow = opened(settings, settings.dest, params_path(settings.dest))
    records, columns = rows_of(settings, flow, settings.columns), settings.columns
    wanted = intervals(settings, flow)
    with bar(flow, "rows", len(records) * len(columns)) as asked:
        sheet = asked.predict(records, columns, wanted)
    finish(settings, flow, "predict", sheet, records)


@first_rank_only
def score(settings: options.ScoreSettings) -> None:
    """Write the log density of each row, its error, and its outlying cells."""
    flow = opened(settings, settings.dest, params_path(settings.dest))
    records = rows_of(settings, flow)
    with bar(flow, "cells", len(records) * (1 + len(records.columns))) as asked:
        sheet = asked.score(records, settings.odd)
    finish(settings, flow, "score", sheet, records)


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
    return RecordFlow.of(NetworkFile.open(settings.network))


def intervals(settings: options.IntervalSettings, flow: RecordFlow) -> Interval:
    """Return the settings of the prediction intervals: coverage and calibration."""
    if settings.calibrate is None:
        return Interval(settings.interval, settings.held_out)
    marks = settings.missing_values or ()
    return Interval(settings.interval, data_set(settings.calibrate, flow.empty, marks))


def rows_of(settings: options.RowSettings, flow: RecordFlow, asked: Sequence[str] = ()) -> Records:
    """Read rows of a file, with the columns of the network, and warn about mismatches.

    Raises:
        UsageError: Marks for missing values are given, but all files are data sets, not texts.
    """
    source: Records | str = str(settings.data)
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


def data_set(path: Path, empty: Records, missing_values: Sequence[str] = ()) -> Records:
    """Read held-out records from a data set, a table or another file.

    Warnings report mismatches with the columns of the network.
    """
    records = load_as_records(path)
    if records is None:
        records, lines = encode(path, empty.columns, missing_values=missing_values, like=empty)
        for line in [*lines, *contradicted(records, empty)]:
            logger.warning(f"Warning: {line}")
    return records


def save(path: Path, sheet: Sheet, records: Records) -> None:
    """Write a sheet of results as CSV, and log its path."""
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
def bar(flow: RecordFlow, unit: str, total: Any) -> Iterator[Asking]:
    """Yield an interface to queries of a flow, with a progress bar."""
    with tqdm(total=total, desc="asking", unit=f" {unit}", disable=None) as shown:
        yield Asking(flow, shown.update)


DIGITS = 15
"""Digits of whole numbers that floating point represents exactly, the type of a column with missing
cells.
"""


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """A trained network of records that answers conditional queries about rows.

    Rows are a data frame, or the path of a table, whose columns have the names of the training
    data. Results are data frames of the same kind, or of pandas.

    Attributes:
        flow: Flow of records, for queries with arrays instead of data frames.
    """

    flow: RecordFlow

    @classmethod
    def open(cls, location: str | Path) -> "Answers":
        """Open a network file that ``train.py`` made from records, or with ``--any``.

        Raises:
            DataError: The file is missing or broken, or of other data.
        """
        return cls(RecordFlow.of(NetworkFile.open(str(location))))

    @classmethod
    def load(cls, path: str | Path) -> "Answers":
        """Load answers from a file that ``save`` or ``train.py`` wrote; see ``open``."""
        return cls.open(path)

    def save(self, path: str | Path) -> None:
        """Write the network file atomically; ``ask.py`` and ``load`` open it."""
        self.flow.file.model.save(path)

    def __repr__(self) -> str:
        return f"Answers({', '.join(self.flow.empty.names)})"

    def fill(self, rows: Any, interval: float = 0.9, held_out: Records | bool = True) -> Any:
        """Impute missing values by medians and most probable levels.

        Columns with the ends of intervals, or with probabilities, are added.

        Args:
            rows: Rows with missing cells.
            interval: Nominal coverage of the intervals of numbers.
            held_out: Whether to calibrate intervals with the scores of held-out cells in the
                network file; or the records of the training, whose held-out rows then calibrate
                the intervals for the same query.
        """
        intervals = Interval(fraction("interval", interval), held_out)
        records = self._rows(rows)
        return _like(rows, _frame(Asking(self.flow).fill(records, intervals), records))

    def complete(self, rows: Any, tables: int = 20, seed: int = 0) -> list[Any]:
        """Return ``tables`` tables with joint draws of the missing values.

        The tables serve multiple imputation.
        """
        records, seed = self._rows(rows), natural("seed", seed)
        return [
            _like(rows, _frame(Asking(self.flow).completed(records, seed, number), records))
            for number in range(natural("tables", tables))
        ]

    def predict(
        self,
        rows: Any,
        columns: Sequence[str],
        interval: float = 0.9,
        held_out: Records | bool = True,
    ) -> Any:
        """Predict columns, given all other cells that are present; see ``fill``."""
        intervals = Interval(fraction("interval", interval), held_out)
        columns = [columns] if isinstance(columns, str) else columns
        records = self._rows(rows, columns)
        return _like(rows, _frame(Asking(self.flow).predict(records, columns, intervals), records))

    def score(self, rows: Any, odd: float = 0.01) -> Any:
        """Return the log density of each row, its error, and its outlying cells.

        Args:
            rows: Rows; their missing cells are ignored.
            odd: A cell is flagged as an outlier if the conditional probability of its value, given
                the others of its row, is below this.
        """
        odd = 1.0 if odd == 1 else fraction("odd", odd)
        records = self._rows(rows)
        return _like(rows, _frame(Asking(self.flow).score(records, odd), records))

    def sample(self, count: int, given: Mapping[str, object] | None = None, seed: int = 0) -> Any:
        """Draw ``count`` rows, given values that all of them have, by column."""
        count, seed = natural("count", count), natural("seed", seed)
        if not isinstance(given or {}, Mapping):
            raise UsageError(
                f"the conditions {given!r} have no column names: give values by column, for "
                "example "
                "{'garden': 'yes'}"
            )
        sign = self.flow.empty.decimal
        pairs = [
            (name, str(value).replace(".", sign) if isinstance(value, Real) else str(value))
            for name, value in (given or {}).items()
        ]
        return _frame(Asking(self.flow).draw(count, pairs, seed), self.flow.empty)

    def check(
        self, records: Records, hidden: float = 0.2, level: float = 0.05, seed: int = 0
    ) -> dict[str, Any]:
        """Test the conditional distributions of hidden cells in held-out rows.

        See ``ask.py check``.
        """
        hidden, level = fraction("hidden", hidden, 0.5), fraction("level", level)
        seed = natural("seed", seed)
        return Asking(self.flow).checked(records, hidden, level, seed)

    def _rows(self, rows: Any, asked: Sequence[str] = ()) -> Records:
        if isinstance(rows, Records):  # their levels may have other indices
            raise UsageError(
                "rows are a Records object: give the file or data frame that it was made from"
            )
        return Asking(self.flow).rows_of(rows, asked)


def _frame(sheet: Sheet, records: Records) -> Any:
    """Convert a sheet to a data frame, with texts parsed as numbers where possible.

    Codes such as 01234 remain texts, as do identifiers that would lose digits.
    """
    own = {column.name: column.missing for column in records.columns}
    texts = {name: {row[at] for row in sheet.rows} for at, name in enumerate(sheet.names)}
    # Levels may be texts that pandas reads as missing, and the source may write other marks.
    gone = {
        name: [text for text in some if text.lower() in MISSING or text == own.get(name)]
        for name, some in texts.items()
    }
    as_written = {
        name: str
        for name, some in texts.items()
        if any(text[:1] == "0" and text[1:2].isdigit() for text in some)
        or (name in records.beside and gone[name] and any(map(_is_long, some)))
    }
    file = io.StringIO()
    csv.writer(file).writerows([sheet.names, *sheet.rows])

    def read(**options: Any) -> Any:
        file.seek(0)
        pandas = importlib.import_module("pandas")
        as_is = {"keep_default_na": False, "na_values": gone, "skip_blank_lines": False}
        return pandas.read_csv(file, **as_is, **options)

    frame = read(decimal=records.decimal, dtype=as_written)
    if records.decimal != "." and sheet.plain:
        frame[sheet.plain] = read(usecols=sheet.plain)[sheet.plain]
    return frame


def _is_long(text: str) -> bool:
    return len(text) > DIGITS and text.removeprefix("-").isdecimal()


def _like(rows: Any, frame: Any) -> Any:
    """Convert a data frame of pandas to the kind of these rows.

    A data frame of pandas gets the same index. In other kinds missing cells are None.
    """
    kind = kind_of(rows)
    if kind == FRAMES:
        return frame.set_index(rows.index)
    if kind in ("builtins", "pathlib"):
        return frame
    columns = {
        name: column.astype(object).where(column.notna(), None).tolist()
        for name, column in frame.items()
    }
    made = frame_class(kind)
    return frame if made is None else made(columns)
