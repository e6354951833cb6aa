"""Tables to train on, from tensors."""

from training.data.tables.schema import Schema
from training.data.tables.table import DataTable


def table_of(columns, points, held_out, conditions, names):
    """A table of points ``[N, D]`` given conditions ``[N, C]`` with these names."""
    return DataTable(
        columns,
        [column.name for column in columns],
        Schema.plain(names).columns,
        values=points.numpy(),
        held_out=held_out.numpy(),
        conditions=conditions.numpy(),
    )
