"""Answers about rows: the CSVs and the JSON of ``ask.py``.

CSVs have the columns of the source, in its order and format, followed by

    fill      {column}_low, {column}_high, the ends of the interval of an imputed number, or
              {column}_probability, the probability of an imputed level, for each column with
              missing values, and empty where none was missing; with --tables nothing, in M files
              {dest}_1.csv, ...
    predict   {column}_predicted, for numbers {column}_low and {column}_high, and
              {column}_is_{level} for each level, its probability; also for numbers with few
              different values, and for each frequently repeated value of a number
    sample    nothing; with --data a second file, {dest}_real.csv, has rows to compare with

A name that already exists gets a _ appended. ``score`` has, before the columns of the source,

    row               number of the row, from 1
    log_prob          log density of the present cells in nats: of continuous numbers the log
                      density in their units, of discrete numbers and levels the log probability
    log_prob_error    estimated error of its numerical integration, in nats; 0 in tables without
                      discrete numbers, whose integration schedule was chosen by its error
    least_probable    over the cells: smallest tail probability of a value, given the others
    odd_cells         name (probability) of cells with at most --odd, the least probable first

and after them ``{column}_probability`` of each cell, which is empty where the cell is. A first
column of the source without a name is called ``index``.

Beside each CSV, ``{name}_params.json`` has the options, the digest of the network, the versions,
and everything needed to read the CSV again: question (the command), data_name, sheet (name of the
CSV, null with --tables), beside (the number of last columns that are not from the source), held_out
(whether the rows to compare with are held-out data; null without such rows) and table (the columns,
as in a data set of records).

The JSON of ``check`` has the options, rows (number of held-out rows), hidden, level, verdict,
detectable (the error of coverage that a test detects in 90 % of cases), fails, p_values and
adjusted (Holm) by test, copies (drawn, held_out: median distance to the nearest training row), and
columns, for each column that was tested

    cells                            number of target cells
    coverage                         coverage of central intervals, by their probability
    mean_error, mean_error_of_median of numbers: mean absolute error of the medians given the row,
                                     and of the one median of the column
    right, said                      of levels: fraction of cells whose most probable level is
                                     correct, and mean probability of that level
    log_loss, log_loss_of_shares     of levels: log loss in nats, and that of the column's level
                                     frequencies
    reliability                      of levels: for each bin of probabilities, of width a tenth,
                                     their mean, the fraction of levels that occurred, and their
                                     number
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import load_json, provenance, save_json
from training.data.tables.encoding import encode
from training.data.tables.raw_tables import open_cells
from training.data.tables.schema import CATEGORY, Column
from training.data.tables.table import DataTable
from training.files.arrays import evenly, typed
from training.files.declared import Format
from training.files.records import without_rows
from training.files.rows import LARGEST
from training.measure.posterior.calibration import LARGE
from training.names import script

ANSWERS = "inflationary-flows answers 1"
FORMAT = "inflationary-flows check of answers 1"
FORMATS = {
    "answers": Format("answers about rows", "answers.content_of"),
    "check of answers": Format("a check of answers", "answers.content_of_check"),
}
SCORES = ("row", "log_prob", "log_prob_error", "least_probable", "odd_cells")
"""First columns of a CSV of scores."""
INDEX = "index"
"""Name, in a CSV of scores, of an unnamed column of the source."""
QUESTIONS = ("fill", "predict", "score", "sample")
LOW, MIDDLE, HIGH, PROBABILITY = "low", "predicted", "high", "probability"


def params_path(dest: Path) -> Path:
    """Return the path of the JSON with the parameters of ``dest``, a CSV of answers."""
    return dest.with_name(f"{dest.stem}_params.json")


def real_path(dest: Path) -> Path:
    """Return the path of the CSV of real rows to compare with ``dest``, a CSV of samples."""
    return dest.with_name(f"{dest.stem}_real.csv")


def save_params(
    path: Path, options: Mapping[str, Any], network_sha256: str, about: Mapping[str, Any]
) -> None:
    """Write the JSON with the parameters of a CSV of answers: options, network and versions.

    Args:
        path: Path of the JSON, from ``params_path``.
        options: Options of the command, by name.
        network_sha256: SHA-256 of the network.
        about: Further entries of the JSON.
    """
    made_by = {"format": ANSWERS, **about, "options": options, "network_sha256": network_sha256}
    save_json(path, {**made_by, **provenance()})


def save_check(path: Path, options: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the JSON with the results of a calibration check of ``ask.py``, atomically."""
    save_json(path, {"format": FORMAT, "options": options, **facts, **provenance()})


def kind_of_json(path: Path) -> str | None:
    """Return the kind of a JSON file of ``ask.py``; None for other JSON files.

    The kinds are ``answers`` (parameters of a CSV of answers) and ``check of answers``.
    """
    try:
        content = load_json(path)
    except DataError:
        return None  # a folder may contain any JSON
    if content.get("format") == ANSWERS:
        return "answers" if content.get("sheet") is not None else None
    return "check of answers" if content.get("format") == FORMAT else None


@dataclass(frozen=True)
class PredictedColumn:
    """Predictions for n target cells of one column of a table.

    Attributes:
        column: Column of the table.
        truth: True values of the cells ``[n]``; NaN where they are unknown.
        guess: Predicted medians of a number, or most probable levels of a category, ``[n]``.
        low: Lower ends of prediction intervals ``[n]``; NaN for categories.
        high: Upper ends of prediction intervals ``[n]``; NaN for categories.
        probability: Probabilities of the most probable levels ``[n]``; NaN for numbers.
    """

    column: Column
    truth: np.ndarray
    guess: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray

    @property
    def is_level(self) -> bool:
        """Whether the column is categorical: its values are levels instead of numbers."""
        return self.column.type == CATEGORY

    @property
    def known(self) -> np.ndarray:
        """Whether the true value of each cell is known, bool ``[n]``."""
        return ~np.isnan(self.truth)

    @property
    def right(self) -> np.ndarray:
        """Whether the prediction of each cell is correct, bool ``[n]``.

        A number is correct if its interval covers the true value, a category if its most probable
        level is the true one.
        """
        if self.is_level:
            return np.asarray(self.truth == self.guess)
        return (self.low <= self.truth) & (self.truth <= self.high)

    def in_order(self, most: int) -> np.ndarray:
        """Return the indices of the cells in sorted order, thinned evenly to at most ``most``.

        Categories are sorted by probability, numbers by predicted median, lowest first.
        """
        order = np.argsort(self.probability if self.is_level else self.guess, kind="stable")
        return np.asarray(order[evenly(len(order), most)])


@dataclass(frozen=True, eq=False)
class SavedAnswers:
    """A saved CSV of answers with its parameters, for n rows and P columns.

    Attributes:
        path: Path of the JSON of parameters.
        question: One of ``QUESTIONS``.
        name: Name of the network's training data.
        rows: Rows of the CSV, in the columns of the table.
        asked: Predictions by column, for fill and predict.
        interval: Nominal coverage of the prediction intervals.
        log_prob: Log densities of the rows ``[n]`` in nats, for score.
        tails: Tail probabilities of cells ``[n, P]``, for score; NaN where cells are missing.
        odd: Tail probability below which a cell is flagged as an outlier, for score.
        real: Rows to compare with, for sample, if any.
        held_out: Whether the rows to compare with are held-out data.
    """

    path: Path
    question: str
    name: str
    rows: DataTable
    asked: Sequence[PredictedColumn] = ()
    interval: float = 0.9
    log_prob: np.ndarray = field(default_factory=lambda: np.empty(0))
    tails: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    odd: float = 0.01
    real: DataTable | None = None
    held_out: bool = False

    @property
    def stem(self) -> str:
        """Name of the CSV without its ending."""
        return self.path.stem.removesuffix("_params")

    @classmethod
    def load(cls, path: Path) -> "SavedAnswers":
        """Load answers, given the JSON of their parameters; the CSV is in the same folder.

        Raises:
            DataError: One of the files is missing or broken.
        """
        content = load_json(path)
        broken = DataError(f"{path} is damaged, or not from {script('ask')}: make it again")
        question, name, sheet = typed(content, broken, question=str, data_name=str, sheet=str)
        options, beside = typed(content, broken, options=dict, beside=int)
        if content.get("format") != ANSWERS or question not in QUESTIONS or beside < 0:
            raise broken
        # Only a file beside this one: an untrusted path may point anywhere on this machine.
        csv = next((each for each in path.parent.iterdir() if each.name == sheet), None)
        if csv is None:
            raise DataError(
                f"{path}: its CSV of answers is missing: keep both in one folder, or make them "
                "again"
            )
        table = without_rows(json.dumps(content.get("table")), broken)
        held_out = content.get("held_out")
        rows, further = _read(csv, table, beside, SCORES if question == "score" else ())
        saved = cls(path, question, name, rows)
        if question == "sample":
            real = None if held_out is None else _read(real_path(csv), table)[0]
            return replace(saved, real=real, held_out=held_out is True)
        if question == "score":
            absent = np.full(len(rows), np.nan)
            tails = [further.get((each, PROBABILITY), absent) for each in table.names]
            (odd,), log_prob = typed(options, broken, odd=float), rows.beside.get("log_prob")
            if log_prob is None or not 0 < odd <= 1:
                raise broken
            known = _numbers(csv, "log_prob", log_prob, inf)  # impossible rows have -inf
            return replace(saved, log_prob=known, tails=np.stack(tails, axis=1), odd=odd)
        places, filled = range(len(table.columns)), question == "fill"
        answers = [_asked(rows, further, place, filled) for place in places]
        asked = [each for each in answers if each is not None]
        (interval,) = typed(options, broken, interval=float)
        if not 0 < interval <= 1:
            raise broken
        return replace(saved, asked=asked, interval=interval)


Further = Mapping[tuple[str, str], np.ndarray]
"""Further columns ``[n]`` of a CSV of answers, by column of the table and kind, such as ``low``."""


def _read(
    path: Path, table: DataTable, beside: int = 0, before: Sequence[str] = ()
) -> tuple[DataTable, Further]:
    """Read a CSV of answers.

    Args:
        path: The CSV.
        table: Columns of the source.
        beside: Number of last columns that contain answers.
        before: Names of the columns before those of the source.

    Returns:
        The rows in the columns of the table, and the answers by column and kind.
    """
    names = open_cells(path, table.separator).names
    last = names[max(0, len(names) - beside) :]
    ends: dict[tuple[str, str], Column] = {}
    shares: dict[tuple[str, str], str] = {}
    for column in table.columns:
        for kind in (LOW, MIDDLE, HIGH):
            name = _written(f"{column.name}_{kind}", last)
            if name is not None:
                ends[column.name, kind] = replace(column, name=name)
        for kind in (PROBABILITY, *(f"is_{level}" for level in column.levels)):
            name = _written(f"{column.name}_{kind}", last)
            if name is not None:
                shares[column.name, kind] = name
    own = []
    for column in table.columns:
        name = column.name
        while name in before:
            name += "_"
        own.append(replace(column, name=name))
    records, _ = encode(path, [*own, *ends.values()], table.separator, table.decimal)
    texts = records.beside
    further = {key: _numbers(path, name, texts[name], 1.0) for key, name in shares.items()}
    further |= {key: records.values[:, len(own) + at] for at, key in enumerate(ends)}
    values = records.values[:, : len(own)]
    return replace(records, columns=table.columns, values=values), further


def _written(expected: str, names: Sequence[str]) -> str | None:
    """Return the last name that equals the expected one, up to appended underscores.

    Underscores are appended to avoid duplicates. None if there is no such name.
    """
    return next((name for name in names[::-1] if name.rstrip("_") == expected.rstrip("_")), None)


def _numbers(path: Path, name: str, texts: np.ndarray, largest: float) -> np.ndarray:
    """Parse plain numbers ``[n]``, whatever the decimal sign of the table; empty cells are NaN."""
    try:
        values = np.array([float(text or "nan") for text in texts])
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: '{name}' has text instead of a number: make it again"
        ) from error
    if (np.abs(values) > largest).any() or (largest == 1 and (values < 0).any()):
        raise DataError(
            f"{path} is damaged: '{name}' has probabilities outside 0 to 1: make it again"
        )
    return values


def _asked(rows: DataTable, further: Further, place: int, filled: bool) -> PredictedColumn | None:
    """Return the imputed or predicted values of a column; None if the column was not a target."""
    column, absent = rows.columns[place], np.full(len(rows), np.nan)
    low, high = (further.get((column.name, kind), absent) for kind in (LOW, HIGH))
    kinds = (PROBABILITY, *(f"is_{level}" for level in column.levels))
    probability = np.fmax.reduce([further.get((column.name, kind), absent) for kind in kinds])
    own = rows.values[:, place]
    truth, guess = (absent, own) if filled else (own, further.get((column.name, MIDDLE), absent))
    there = ~np.isnan(guess + (probability if column.type == CATEGORY else low + high))
    parts = (truth, guess, low, high, probability)
    return PredictedColumn(column, *(part[there] for part in parts)) if there.any() else None


@dataclass(frozen=True)
class ColumnCheck:
    """Results of a calibration check of ``ask.py`` for one column of a table.

    Attributes:
        name: Name of the column.
        cells: Number of cells tested.
        coverage: Coverage of the central intervals, by their nominal probability.
        reliability: Reliability diagram of the level probabilities ``[K, 3]``: mean probability,
            observed frequency and number of each of K bins; None for numbers.
    """

    name: str
    cells: int
    coverage: Mapping[float, float]
    reliability: np.ndarray | None = None


@dataclass(frozen=True)
class SavedAnswerCheck:
    """A saved check of the calibration of answers on held-out rows.

    Attributes:
        path: Path of the JSON of the check.
        rows: Number of held-out rows.
        level: Significance level for the family of all tests.
        verdict: The result in words.
        adjusted: P-values by name of the test, adjusted for multiple testing.
        conclusive: Whether the check could have detected a large error.
        columns: Results for the tested columns.
    """

    path: Path
    rows: int
    level: float
    verdict: str
    adjusted: Mapping[str, float]
    conclusive: bool
    columns: Sequence[ColumnCheck]

    @property
    def probabilities(self) -> list[float]:
        """Nominal probabilities of the central intervals, increasing."""
        return sorted({each for column in self.columns for each in column.coverage})

    @property
    def passed(self) -> bool:
        """Whether no test rejected calibration."""
        return min(self.adjusted.values()) >= self.level

    @classmethod
    def load(cls, path: Path) -> "SavedAnswerCheck":
        """Load the check in a JSON file.

        Raises:
            DataError: The file is missing or broken.
        """
        content = load_json(path)
        broken = DataError(f"{path} is damaged, or not a check of {script('ask')}: make it again")
        rows, level, detectable = typed(content, broken, rows=int, level=float, detectable=float)
        tests, each = dict[str, float], dict[str, dict[str, Any]]
        verdict, adjusted, columns = typed(
            content, broken, verdict=str, adjusted=tests, columns=each
        )
        whole = content.get("format") == FORMAT and adjusted and columns
        if not (whole and all(map(_is_share, (level, detectable, *adjusted.values())))):
            raise broken
        checks = [_column_check(name, facts, broken) for name, facts in columns.items()]
        return cls(path, rows, level, verdict, adjusted, detectable <= LARGE, checks)


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _column_check(name: str, facts: Any, broken: DataError) -> ColumnCheck:
    cells, coverage, bins = typed(
        facts, broken, cells=int, coverage=dict[str, float], reliability=list[list[float]] | None
    )
    try:
        held = {float(probability): share for probability, share in coverage.items()}
        table = np.array(bins or np.empty((0, 3)), dtype=float)
    except (ValueError, OverflowError) as error:
        raise broken from error
    sound = 0 < cells < LARGEST and all(map(_is_share, held.values())) and table.shape[1:] == (3,)
    sound = sound and bool(((table[:, :2] >= 0) & (table[:, :2] <= 1)).all())
    counts = table[:, 2:]
    sound = sound and bool(((counts > 0) & (counts < LARGEST) & (counts % 1 == 0)).all())
    if not sound or not all(0 < probability < 1 for probability in held):
        raise broken
    return ColumnCheck(name, cells, held, table if bins else None)
