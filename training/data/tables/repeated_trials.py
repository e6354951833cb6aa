"""Repeated measurements: one row per trial, grouped into datasets.

A simulation with n measurements has one set of parameters and n trials. It is stored in long form:
one row per trial, with the same parameters in all rows of a dataset. Numbers of trials can differ.

If a dataset is one point given all of its trials, these are side by side in a row of conditions
``[N, n K]``, padded with NaN.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.data.tables.formats import ForeignTable, places_of
from training.data.tables.table import DataTable
from training.names import script

DATASET = "(dataset)"
"""Name of a temporary column for the row number, which no source has."""
Groups = Sequence[Sequence[str]]
"""Columns of each trial, all groups in the same order."""
STAR = "*"


def groups_of(groups: Groups, names: Sequence[str]) -> tuple[Groups, Sequence[str]]:
    """Return the columns of each trial, and the names that a trial's columns get in long form.

    A group with ``*`` stands for all matching groups. The names in long form are the names of the
    first group, or the names in the pattern without ``*``.

    Args:
        groups: Groups of columns, one per trial, as given by the user: ``y1,y2`` and ``y3,y4``, or
            the pattern ``y*,t*`` alone.
        names: Names of all columns.

    Raises:
        UsageError: Groups have different sizes, or no column matches.
    """
    if len(groups) == 1 and all(STAR in name for name in groups[0]):
        first, *_ = groups[0]
        form = re.compile(re.escape(first).replace(re.escape(STAR), "(.+)", 1))
        matches = (form.fullmatch(name) for name in names)
        keys = [match[1] for match in matches if match]
        if not keys:
            raise UsageError(
                f"--repeats={','.join(groups[0])}: no column matches '{first}', so correct the "
                "pattern"
            )
        whole = [[name.replace(STAR, key, 1) for name in groups[0]] for key in keys]
        return whole, [name.replace(STAR, "", 1).strip("_. ") or name for name in groups[0]]
    for group in groups:
        if len(group) != len(groups[0]):
            raise UsageError(
                f"--repeats has {','.join(groups[0])} in one trial but {','.join(group)} "
                "in another: give the same number of columns for each trial"
            )
    return groups, groups[0]


def unrolled(
    source: ForeignTable, groups: Groups, columns: Sequence[str], dataset: str
) -> ForeignTable:
    """Convert a table with several trials per row to long form, with one row per trial.

    Trials with all cells missing are left out.

    Args:
        source: The table.
        groups: Columns of each trial, see ``groups_of``.
        columns: Names of a trial's columns.
        dataset: Name of a new column with the number of the original row, from 0.

    Raises:
        UsageError: A column does not exist, or is named twice.
        DataError: A row has no trials; raised when blocks are read.
    """
    places = [places_of(source.names, group, source.name) for group in groups]
    flat = [place for group in places for place in group]
    if len(set(flat)) < len(flat):
        raise UsageError("--repeats names a column twice: name it in one trial only")
    rest = [place for place in range(len(source.names)) if place not in flat]
    names = [*(source.names[place] for place in rest), *columns, dataset]
    rows: list[int] = []

    def blocks() -> Iterator[np.ndarray]:
        rows.clear()
        begun = 0
        for block in source.blocks():
            trials = np.stack([block[:, group] for group in places], axis=1)
            made = ~np.isnan(trials).all(axis=2)
            if not made.any(axis=1).all():
                row = begun + int((~made.any(axis=1)).argmax())
                raise DataError(
                    f"{source.name}, {source.place_of(row)} has no trials: leave this row out"
                )
            which = made.nonzero()[0]
            numbers = begun + which
            rows.extend(numbers.tolist())
            begun += len(block)
            yield np.column_stack([block[which][:, rest], trials[made], numbers])

    return replace(
        source, names=names, blocks=blocks, place_of=lambda row: source.place_of(rows[row])
    )


def numbered_datasets(
    identifiers: np.ndarray,
    parameters: np.ndarray,
    names: Sequence[str],
    source: ForeignTable,
    rows: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the dataset number of each row ``[N]``, from 0, and the first row of each dataset.

    Args:
        identifiers: Values ``[N]`` that identify the dataset of each row.
        parameters: Parameters ``[N, D]``.
        names: Names of the parameters.
        source: The table, for messages.
        rows: Row numbers ``[N]`` in the source, if some rows are left out; None if all rows are
            used.

    Raises:
        DataError: Parameters differ within a dataset.
    """
    _, first, which = np.unique(identifiers, return_index=True, return_inverse=True)
    differ = parameters != parameters[first[which]]
    if differ.any():
        row, column = np.argwhere(differ)[0]
        before = first[which[row]]
        places = [row, before] if rows is None else rows[[row, before]].tolist()
        here, there = (source.place_of(int(place)) for place in places)
        raise DataError(
            f"{source.name}, {here}, column '{names[column]}' has {parameters[row, column]:.10g}, "
            f"but {parameters[before, column]:.10g} in {there} of the same dataset, "
            f"{identifiers[row]:.10g}: give the same parameters to all trials of a dataset"
        )
    return which.astype(np.int64), first


def trials_in_words(datasets: np.ndarray) -> str:
    """Return a text with the number of datasets and the number of trials per dataset.

    Args:
        datasets: Dataset number of each row ``[N]``.
    """
    counts = np.unique(datasets, return_counts=True)[1]
    least, most = int(counts.min()), int(counts.max())
    trials = f"{least} to {most} trials" if least < most else f"{most} trial{'s' * (most > 1)}"
    return f"{len(counts)} datasets with {trials} each"


def first_rows(table: DataTable) -> np.ndarray:
    """Return the index of the first row of each dataset, in order; of all rows without datasets."""
    if table.datasets is None:
        return np.arange(len(table))
    return np.sort(np.unique(table.datasets, return_index=True)[1])


def one_of_each(table: DataTable) -> DataTable:
    """Return a table with only the first row of each dataset, so that parameters do not repeat."""
    return table if table.datasets is None else replace(table.at(first_rows(table)), datasets=None)


def side_by_side(trials: Tensor, datasets: Tensor) -> Tensor:
    """Arrange the trials of M datasets side by side in rows ``[M, n K]``, padded with NaN.

    Args:
        trials: Trials ``[T, K]``.
        datasets: Dataset number of each trial ``[T]``, from 0.
    """
    counts = torch.bincount(datasets)
    order = datasets.argsort(stable=True)
    number = datasets[order]
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[number]
    rows = trials.new_full((len(counts), int(counts.max()), trials.shape[1]), torch.nan)
    rows[number, place] = trials[order]
    return rows.flatten(1)


def as_sets(table: DataTable, size: int, name: str) -> DataTable:
    """Convert a table from one row per trial to one row per dataset, with trials side by side.

    The trials of a dataset become the conditions of its row.

    Args:
        table: Table with one row per trial.
        size: Expected number of values of a trial.
        name: Name of the table, for messages.

    Raises:
        UsageError: The table has no trials, or trials do not have ``size`` values.
    """
    if table.datasets is None or table.conditions is None:
        raise UsageError(
            f"{name} has no trials, which --cond_shape=set:{size} needs: make the data set with "
            f"{script('dataset_tool')} --dataset=ID or --repeats"
        )
    if size != table.condition_dim:
        raise UsageError(
            f"--cond_shape=set:{size} does not match trials of "
            f"{', '.join(table.condition_names)}: give set:{table.condition_dim}"
        )
    first = first_rows(table)
    number = np.zeros(table.datasets.max() + 1, dtype=np.int64)
    number[table.datasets[first]] = np.arange(len(first))
    trials, datasets = map(torch.from_numpy, (table.conditions, number[table.datasets]))
    rows = side_by_side(trials, datasets).numpy()
    kept = None if table.kept is None else table.kept[first]
    return replace(table.at(first), conditions=rows, kept=kept, datasets=None)


def thinned(conditions: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Set random trials of sets ``[N, n K]`` to missing, so that sets have various sizes.

    The number of trials that are kept in a set is uniform from 1 to all present trials.

    Args:
        conditions: Sets of n trials, side by side.
        size: K, the number of values per trial.
        generator: Random generator on the CPU.
    """
    trials = conditions.reshape(len(conditions), -1, size)
    there = ~trials.isnan().all(dim=2)
    kept = torch.rand(len(trials), generator=generator) * there.sum(dim=1)
    keys = torch.rand(there.shape, generator=generator).masked_fill(~there, 2)
    ranks = keys.argsort(dim=1).argsort(dim=1)
    return torch.where((ranks <= kept[:, None])[..., None], trials, torch.nan).flatten(1)
