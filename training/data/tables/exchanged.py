"""The table of a likelihood: data of trials, given parameters and covariates."""

from dataclasses import replace

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from training.data.tables.making import FEWEST_ROWS, independent
from training.data.tables.table import Columns, DataTable, Dropped


def exchanged(table: DataTable, source: str) -> tuple[DataTable, list[str]]:
    """The table of a likelihood, with lines about what was left out: the data of a trial as points,
    given parameters and covariates, the roles that these have in a posterior's exchanged.

    Args:
        table: Parameters as points, given data and covariates.
        source: What messages call it.

    Raises:
        UsageError: There are no data.
        DataError: None of them varies; or one has holes, and another follows from others.
    """
    names = list(table.condition_names)
    data = [place for place, name in enumerate(names) if name not in table.covariates]
    beside = [place for place, name in enumerate(names) if name in table.covariates]
    if table.conditions is None or not data:
        raise UsageError(
            f"a likelihood is of data, which {source} has not: make it with dataset_tool.py "
            "--conditions=NAMES or --repeats"
        )
    lines: list[str] = []
    values = table.conditions[:, data].numpy()
    whole = values[~np.isnan(values).any(axis=1)]
    own = [names[place] for place in data]
    kept, dropped = list(range(len(data))), Dropped.none(own)
    if len(whole) == len(values) or len(whole) >= FEWEST_ROWS:
        kept, dropped = independent(whole, own, source, lines)
    if len(whole) < len(values) and dropped.names:
        raise DataError(
            f"{source}: '{dropped.names[0]}' is constant or follows from other data, of which some "
            "are missing: leave it out by dataset_tool.py --columns"
        )
    known = table.columns_of_conditions
    columns, covariates = known.at([data[place] for place in kept]), known.at(beside)
    likelihood = replace(
        table,
        points=torch.from_numpy(values[:, kept]),
        columns=columns,
        dropped=dropped,
        conditions=torch.cat([table.points, table.conditions[:, beside]], dim=1),
        condition_names=[*table.columns.names, *covariates.names],
        condition_columns=Columns.joined(table.columns, covariates),
    )
    return likelihood, lines
