"""Reading of tables: as numbers if all cells are numbers, and as typed records otherwise."""

from collections.abc import Callable, Sequence

from dnnlib.errors import UsageError
from training.data.tables.formats import ForeignTable, NotNumbers, TableChoices
from training.data.tables.making import make_table
from training.data.tables.raw_tables import Cells
from training.data.tables.reading import RecordChoices, SurveyedTable
from training.data.tables.table import DataTable
from training.models.reports import informative_missing

TYPED = "other options make this a typed table"


def read_table(
    numbers: Callable[[], tuple[ForeignTable, TableChoices]],
    cells: Callable[[], Cells],
    choices: RecordChoices,
    only_numbers: Sequence[str] = (),
) -> tuple[DataTable, list[str], str]:
    """Read a table of numbers, or of numbers, categories and dates with missing cells.

    Most numeric tables are read once, directly. Sources with other cells are analyzed further.

    Args:
        numbers: Function that opens the source as numbers, and returns the options for it.
        cells: Function that opens the source as texts of cells.
        choices: User options.
        only_numbers: Names of given options that only tables of numbers have, as the user knows
            them.

    Returns:
        The rows, lines about findings, and the reason why the rows are records; empty for numbers.

    Raises:
        DataError: The source is missing or broken.
        UsageError: An option does not apply to the table.
    """
    reason = TYPED
    if not choices.typed:
        try:
            rows, lines = make_table(*numbers())
        except NotNumbers as error:
            reason = str(error)
        else:
            return rows, lines, ""
    surveyed = SurveyedTable.from_cells(cells(), choices)
    if surveyed.only_numbers:
        rows, lines = make_table(surveyed.numbers(), choices)
        return rows, lines, ""
    for name in only_numbers:
        raise UsageError(f"{name} is for tables of numbers without missing values: {reason}")
    records, lines = surveyed.records()
    why = reason.rpartition(": ")[0] or reason  # without the advice, which is for numbers
    return records, [*lines, *informative_missing(records)], why
