"""Tables of numbers: rows are points, columns their dimensions."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.data.tables.formats import is_table as is_table
    from training.data.tables.making import Choices as Choices
    from training.data.tables.table import Table as Table
else:
    __getattr__ = lazily(
        __name__,
        {
            "Choices": "making",
            "is_table": "formats",
            "Table": "table",
        },
    )
