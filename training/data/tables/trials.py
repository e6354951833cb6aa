"""Repeated measurements: a row for each trial, and which rows are of one dataset.

A simulation that measures n times has one set of parameters, and n trials. It is kept in long form,
one row a trial, the parameters the same in all rows of a dataset; numbers of trials may differ.

Where a dataset is one point, given all of its trials, these stand side by side in its row of
conditions ``[N, n K]``, NaN beyond those that it has.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.data.tables.foreign import ForeignTable, places_of
from training.data.tables.table import DataTable
from training.names import script

Groups = Sequence[Sequence[str]]
"""Columns of each trial, all groups in the same order."""
STAR = "*"


def groups_of(groups: Groups, names: Sequence[str]) -> tuple[Groups, Sequence[str]]:
    """Groups of columns as they are, or all that are alike but for what ``*`` stands for; and what
    columns of a trial are called, as in the first one, or without ``*``.

    Args:
        groups: As typed: ``y1,y2`` and ``y3,y4``, or ``y*,t*`` alone.
        names: Of all columns.

    Raises:
        UsageError: Groups are of different sizes, or a column of one is not there.
    """
    if len(groups) == 1 and all(STAR in name for name in groups[0]):
        first, *_ = groups[0]
        form = re.compile(re.escape(first).replace(re.escape(STAR), "(.+)", 1))
        matches = (form.fullmatch(name) for name in names)
        keys = [match[1] for match in matches if match]
        if not keys:
            raise UsageError(f"--repeats={','.join(groups[0])}: no column is like '{first}'")
        whole = [[name.replace(STAR, key, 1) for name in groups[0]] for key in keys]
        return whole, [name.replace(STAR, "", 1).strip("_. ") or name for name in groups[0]]
    for group in groups:
        if len(group) != len(groups[0]):
            raise UsageError(
                f"--repeats has {','.join(groups[0])} in one trial, but {','.join(group)} in "
                "another: give as many columns for each"
            )
    return groups, groups[0]


def unrolled(
    source: ForeignTable, groups: Groups, columns: Sequence[str], dataset: str
) -> ForeignTable:
    """A table whose rows have several trials, in long form.

    A trial all of whose cells are missing was not made.

    Args:
        source: The table.
        groups: Columns of each trial, as ``groups_of`` has them.
        columns: What these are called.
        dataset: The name of a new column: the number of the row, from 0.

    Raises:
        UsageError: A column is not there, or named twice.
        DataError: When it is read: a row has no trials.
    """
    places = [places_of(source.names, group, source.name) for group in groups]
    flat = [place for group in places for place in group]
    if len(set(flat)) < len(flat):
        raise UsageError("--repeats names a column twice: give each in one trial")
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
                    f"{source.name}, {source.place_of(row)} has no trials: leave it out"
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
) -> tuple[Tensor, np.ndarray]:
    """The number of the dataset of each row ``[N]``, from 0, and the first row of each, by what
    says which rows belong together, ``[N]``. Rows have numbers ``[N]`` in their source, if they are
    not all of it. Raises DataError if parameters ``[N, D]`` differ within a dataset."""
    _, first, which = np.unique(identifiers, return_index=True, return_inverse=True)
    differ = parameters != parameters[first[which]]
    if differ.any():
        row, column = np.argwhere(differ)[0]
        before = first[which[row]]
        places = [row, before] if rows is None else rows[[row, before]].tolist()
        here, there = (source.place_of(int(place)) for place in places)
        raise DataError(
            f"{source.name}, {here}, column '{names[column]}': "
            f"{parameters[row, column]:.10g}, but {parameters[before, column]:.10g} in "
            f"{there} of the same dataset, {identifiers[row]:.10g}: all "
            "trials of a dataset have its parameters"
        )
    return torch.from_numpy(which.astype(np.int64)), first


def trials_in_words(datasets: Tensor) -> str:
    """How many trials there are of how many datasets ``[N]``."""
    counts = torch.unique(datasets, return_counts=True)[1]
    least, most = int(counts.min()), int(counts.max())
    trials = f"{least} to {most} trials" if least < most else f"{most} trial{'s' * (most > 1)}"
    return f"{len(counts)} datasets of {trials} each"


def holes_in_words(table: DataTable) -> str:
    """Shares of data that are missing, by column; empty if none are."""
    if not table.has_holes:
        return ""
    assert table.conditions is not None
    shares = table.conditions.isnan().double().mean(dim=0).tolist()
    pairs = zip(table.condition_names, shares, strict=True)
    return ", ".join(f"{name} {share:.1%}" for name, share in pairs if share)


def first_rows(table: DataTable) -> Tensor:
    """The places of the first row of each dataset, in their order: of all rows, if each is one."""
    if table.datasets is None:
        return torch.arange(len(table))
    _, first = np.unique(table.datasets.numpy(), return_index=True)
    return torch.from_numpy(np.sort(first))


def one_of_each(table: DataTable) -> DataTable:
    """The first row of each dataset: parameters as often as they were drawn."""
    return table if table.datasets is None else replace(table.at(first_rows(table)), datasets=None)


def side_by_side(trials: Tensor, datasets: Tensor) -> Tensor:
    """Trials ``[T, K]`` of M datasets, of these numbers ``[T]`` from 0, in rows ``[M, n K]``, NaN
    where a dataset has fewer than n."""
    counts = torch.bincount(datasets)
    order = datasets.argsort(stable=True)
    number = datasets[order]
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[number]
    rows = trials.new_full((len(counts), int(counts.max()), trials.shape[1]), torch.nan)
    rows[number, place] = trials[order]
    return rows.flatten(1)


def as_sets(table: DataTable, size: int, name: str) -> DataTable:
    """A table with a row for each dataset, given all of its trials, of so many numbers, side by
    side. Raises UsageError if there are no trials, or they have other numbers."""
    if table.datasets is None or table.conditions is None:
        raise UsageError(
            f"{name} has no trials, which --cond_shape=set:{size} is of: make it with "
            f"{script('dataset_tool')} --dataset=ID or --repeats"
        )
    if size != table.condition_dim:
        raise UsageError(
            f"--cond_shape=set:{size} does not fit trials of {', '.join(table.condition_names)}: "
            f"give set:{table.condition_dim}"
        )
    first = first_rows(table)
    number = torch.zeros(int(table.datasets.max()) + 1, dtype=torch.int64)
    number[table.datasets[first]] = torch.arange(len(first))
    rows = side_by_side(table.conditions, number[table.datasets])
    kept = None if table.kept is None else table.kept[first]
    return replace(table.at(first), conditions=rows, kept=kept, datasets=None)


def thinned(conditions: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Sets of trials ``[N, n K]``, K being ``size``, of which random ones are left out: from 1 to
    all that are there are kept, any number as often as another."""
    trials = conditions.reshape(len(conditions), -1, size)
    there = ~trials.isnan().all(dim=2)
    kept = torch.rand(len(trials), generator=generator) * there.sum(dim=1)
    keys = torch.rand(there.shape, generator=generator).masked_fill(~there, 2)
    ranks = keys.argsort(dim=1).argsort(dim=1)
    return torch.where((ranks <= kept[:, None])[..., None], trials, torch.nan).flatten(1)
