"""What was seen of the columns of records, in lines for people."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from training.data.records.inferring import CONSTANT, Survey
from training.data.records.parsing import date_text, day_of, number_in, visible
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn, Records
from training.data.records.writing import text_of
from training.names import IDENTIFIER

SHOWN_COLUMNS, SHOWN_LEVELS = 60, 6
MOST_WORDS = 3
"""Different words in a column of numbers that may stand for missing ones."""


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
            kind, seen = CONSTANT, visible(records.constants[name]) or "no value"
        else:
            kind, seen = IDENTIFIER, "left out, and kept beside"
        share = shares.get(name, 0.0)
        rows.append((visible(name) or "(no name)", kind, seen, f"{share:.1%}" * bool(share)))
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
        listed = (" < " if column.ordered else ", ").join(
            map(visible, column.levels[:SHOWN_LEVELS])
        )
        more = ", ..." * (len(column.levels) > SHOWN_LEVELS)
        return f"{len(column.levels)} levels: {listed}{more}"
    ends = [float(np.nanmin(values)), float(np.nanmax(values))]
    if column.decimals is None and column.type != DATE:
        return " to ".join(f"{end:.6g}" for end in ends)
    return " to ".join(text_of(column, end, decimal) for end in ends)


def _other_readings(
    surveys: Sequence[Survey], records: Records, asked: Collection[str]
) -> Iterator[str]:
    """Lines about cells that may mean something else: dates with the month first, points that part
    thousands, and words among numbers."""
    columns = {column.name: column for column in records.columns}
    for survey in surveys:
        name, column = survey.name, columns.get(survey.name)
        if name in asked or not name:
            continue
        if column is not None and column.type == DATE and len(survey.formats) > 1:
            first, second = survey.formats[:2]
            text = next(iter(survey.counts))
            yield (
                f"Warning: dates of '{name}' are read as {first}, {text} as "
                f"{date_text(day_of(text, first) or 0.0, '%Y-%m-%d')}; if they are {second}, give "
                f"--types={name}:{second}"
            )
        elif column is not None and column.type in (NUMBER, WHOLE):
            other = survey.numbers(",") if records.decimal == "." else None
            if records.separator == ";" and other is not None and other.grouped:
                yield f"Warning: if points part thousands in '{name}', give --decimal=,"
        else:
            words = [text for text in survey.counts if number_in(text, records.decimal) is None]
            rows = sum(survey.counts[text] for text in words)
            if 0 < len(words) <= MOST_WORDS and 2 * rows < survey.present:
                listed = ",".join(map(visible, words))
                yield (
                    f"Warning: '{name}' has numbers, but for {rows} cells: if these have no value, "
                    f"give --missing_values={listed}"
                )
