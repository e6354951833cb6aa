"""The table of a likelihood: data of trials, given parameters and covariates."""

from dataclasses import replace

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from training.data.tables.making import FEWEST_ROWS, independent
from training.data.tables.table import Columns, DataTable, Dropped, Levels


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
    covariates = [place for place, name in enumerate(names) if name in table.covariates]
    if table.conditions is None or not data:
        raise UsageError(
            f"a likelihood is of data, which {source} has not: make it with dataset_tool.py "
            "--conditions=NAMES or --repeats"
        )
    lines: list[str] = []
    known = table.columns_of_conditions
    counts = Levels.of(known.at(data), table.conditions[:, data]).counts
    levels = [place for place, count in zip(data, counts, strict=True) if count > 1]
    if len(levels) == len(data) or bool(table.conditions[:, data].isnan().any()):
        levels = []
    numbers = [place for place in data if place not in levels]
    values, own = table.conditions[:, numbers].numpy(), [names[place] for place in numbers]
    whole = values[~np.isnan(values).any(axis=1)]
    kept, dropped = list(range(len(numbers))), Dropped.none(own)
    if len(whole) == len(values) or len(whole) >= FEWEST_ROWS:
        kept, dropped = independent(whole, own, source, lines)
    if len(whole) < len(values) and dropped.names:
        raise DataError(
            f"{source}: '{dropped.names[0]}' is constant or follows from other data, of which some "
            "are missing: leave it out by dataset_tool.py --columns"
        )
    few = [names[place] for place in levels]
    if few:
        lines.append(
            f"{', '.join(few)} of few values: probabilities are learned of these, and a flow of "
            f"{', '.join(own)} given them"
        )
    last = [*covariates, *levels]
    given = known.at(last)
    likelihood = replace(
        table,
        points=torch.from_numpy(values[:, kept]),
        columns=known.at([numbers[place] for place in kept]),
        dropped=dropped,
        conditions=torch.cat([table.points, table.conditions[:, last]], dim=1),
        condition_names=[*table.columns.names, *given.names],
        condition_columns=Columns.joined(table.columns, given),
        covariates=given.names,
        beside=few,
    )
    return likelihood, lines
