"""What was seen of the columns of records, in lines for people."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from torch_utils.inert_pickle import shown
from training.data.records.inferring import CONSTANT, Survey
from training.data.records.parsing import date_text, day_of
from training.data.records.records import CATEGORY, DATE, RecordColumn, Records
from training.data.records.writing import text_of
from training.names import IDENTIFIER

SHOWN_COLUMNS, SHOWN_LEVELS = 60, 6


def summary_of(records: Records, surveys: Sequence[Survey], asked: Collection[str]) -> list[str]:
    """A table of the columns: name, type, what was seen, and the share missing; and how else dates
    may be read, unless their type was given."""
    shares = {survey.name: survey.missing / survey.rows for survey in surveys}
    rows = [("column", "type", "seen", "missing")]
    modelled = {column.name: place for place, column in enumerate(records.columns)}
    for name in [*records.order, *(column.name for column in records.columns if column.of)]:
        if name in modelled:
            column = records.columns[modelled[name]]
            kind = f"{column.type}{', ordered' * column.ordered}"
            seen = _seen(column, records.values[:, modelled[name]], records.decimal)
        elif name in records.constants:
            kind, seen = CONSTANT, shown(records.constants[name]) or "no value"
        else:
            kind, seen = IDENTIFIER, "left out, and kept beside"
        share = shares.get(name, 0.0)
        rows.append((shown(name) or "(no name)", kind, seen, f"{share:.1%}" * bool(share)))
    few = rows[: SHOWN_COLUMNS + 1]
    widths = [max(len(row[place]) for row in few) for place in range(3)]
    more = len(rows) - len(few)
    return [
        f"{len(records)} rows, {int(records.held_out.sum())} of them held out; where a type is "
        "wrong, give it by --types=name:type",
        *("  " + "  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in few),
        *([f"  ... and {more} more"] if more else []),
        *_other_readings(surveys, records, asked),
    ]


def _seen(column: RecordColumn, values: np.ndarray, decimal: str) -> str:
    if column.type == CATEGORY:
        listed = (" < " if column.ordered else ", ").join(map(shown, column.levels[:SHOWN_LEVELS]))
        more = ", ..." * (len(column.levels) > SHOWN_LEVELS)
        return f"{len(column.levels)} levels: {listed}{more}"
    ends = (text_of(column, float(end), decimal) for end in (np.nanmin(values), np.nanmax(values)))
    return " to ".join(ends)


def _other_readings(
    surveys: Sequence[Survey], records: Records, asked: Collection[str]
) -> Iterator[str]:
    """Lines about dates that may be read in two ways."""
    dates = {column.name for column in records.columns if column.type == DATE and not column.of}
    for survey in surveys:
        if survey.name in dates and survey.name not in asked and len(survey.formats) > 1:
            first, second = survey.formats[:2]
            text = next(iter(survey.counts))
            yield (
                f"Warning: dates of '{survey.name}' are read as {first}, {text} as "
                f"{date_text(day_of(text, first) or 0.0, '%Y-%m-%d')}; they may be {second}: "
                f"then give --types={survey.name}:{second}"
            )
