"""Numbers of records as points: a flow for the query that asks for all numbers.

Observed categories are known exactly, as conditions of the query. Unobserved ones are absent, so
the distribution of numbers is marginal over them. Numbers with atoms have a density only elsewhere:
their distribution is that of rows in which they are at no atom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils.inert_pickle import shown
from training.data.tables.encoding import contradicted, encode
from training.data.tables.formats import TableSource, listed
from training.data.tables.raw_tables import open_cells
from training.data.tables.schema import CATEGORY, Column, Schema
from training.data.tables.table import DataSource, DataTable
from training.files.records import holds_records, load_records
from training.names import script
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.subjects.record_spaces import level_of
from training.subjects.records import RecordFlow
from training.subjects.tables import TableFlow
from training.trained.network import TrainedNetwork
from training.trained.questions import EncodedRows, pack


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordPrior(TableFlow):
    """Flow of the numeric columns of records, as a prior for posteriors.

    Attributes:
        answers: Flow of all columns of the records, with the same network.
    """

    answers: RecordFlow

    @classmethod
    def of(
        cls, network: TrainedNetwork, expected: Mapping[str, Any], data_name: str | None = None
    ) -> "RecordPrior":
        """Return the flow of a network file; arguments are those of ``TableFlow.of``.

        Raises:
            UsageError: An option contradicts the network, the network was trained for one query, or
                no column is a number.
            DataError: The file has another kind of data, or is broken.
        """
        answers = RecordFlow.of(network)
        answers.require_any()
        names = [answers.empty.names[place] for place in answers.space.numbers]
        if not names:
            raise UsageError(
                f"{network.path} models all columns as categories, but posteriors are for "
                f"numbers: use it with {script('ask')}"
            )
        for name, place in zip(names, answers.space.numbers, strict=True):
            atoms = ", ".join(f"{atom + 0.0:g}" for atom in answers.space.atoms_at(place))
            if atoms:
                logger.info(f"Posteriors are of rows in which '{name}' is not {atoms}")
        known = {"data_dim": len(names), "dims_to_keep": len(names)}
        return cls(
            **network.as_subject(expected, data_name, "records", known),
            schema=Schema.plain(names),
            answers=answers,
        )

    def table(self, path: DataSource) -> DataTable:
        """Return the numeric columns of a data set, without rows with missing numbers or atoms.

        Atoms are frequently repeated values of a number.
        """
        if not holds_records(path):
            table = super().table(path)
            atoms = self._are_atoms(self.names, table.values)
            return table.at(np.flatnonzero(~atoms.any(axis=1))) if atoms.any() else table
        assert isinstance(path, Path)
        records = load_records(path)
        places = [
            place
            for place, column in enumerate(records.columns)
            if column.name in self.names and column.type != CATEGORY
        ]
        values = records.values[:, places]
        names = [records.names[place] for place in places]
        whole = ~np.isnan(values).any(axis=1) & ~self._are_atoms(names, values).any(axis=1)
        columns = [*map(Column, names)]
        return DataTable(columns, names, values=values[whole], held_out=records.held_out[whole])

    def whole(self, path: DataSource) -> DataTable:
        """Return the data set like ``table``, including rows kept for calibration, if any."""
        return self.table(path) if holds_records(path) else super().whole(path)

    def points(self, path: TableSource, seen: Tensor | None = None) -> Tensor:
        """Read the numeric columns ``[M, D]`` of records.

        No number may be missing or at an atom (a frequently repeated value).

        Raises:
            DataError: A value is missing or at an atom, or the file has unknown columns.
        """
        empty, numbers = self.answers.empty, self.answers.space.numbers
        places = numbers if seen is None else [numbers[place] for place in seen.tolist()]
        records, _ = encode(path, [empty.columns[place] for place in places], like=empty)
        self.warn_of_others(contradicted(records, empty), str(path))
        strange = [name for name in records.beside if name not in empty.order]
        if strange:
            raise DataError(
                f"{path} has a column '{shown(strange[0])}', which is not among "
                f"{listed(empty.names)}: leave it out, or rename it"
            )
        atoms = self._are_atoms(records.names, records.values)
        for wrong, form in (
            (
                np.isnan(records.values),
                (
                    "missing: put rows without it in a separate file, and name the observed "
                    "columns with --mask"
                ),
            ),
            (
                atoms,
                (
                    "{:g}, which is so frequent that it has no density: leave such rows "
                    f"out, or use {script('ask')}"
                ),
            ),
        ):
            for row, column in np.argwhere(wrong)[:1]:
                what = form.format(records.values[row, column])
                raise DataError(f"{path}, row {row + 1}: '{records.names[column]}' is {what}")
        return torch.from_numpy(records.values)

    def _are_atoms(self, names: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Return which values ``[n, K]`` of columns of these names are atoms."""
        space, own = self.answers.space, self.answers.empty.names
        flags = np.zeros(values.shape, dtype=bool)
        for at, name in enumerate(names):
            atoms = space.atoms_at(own.index(name)) if name in own else ()
            if atoms:
                flags[:, at] = level_of(values[:, at], atoms) >= 0
        return flags

    def _at_no_atom(self, levels: Tensor) -> Tensor:
        """Return levels ``[n, C]`` in which numbers with atoms are at no atom."""
        space = self.answers.space
        last = torch.tensor(space.level_counts, dtype=levels.dtype) - 1
        atoms = torch.arange(levels.shape[1]) >= levels.shape[1] - len(space.atoms)
        return torch.where(atoms, last, levels)

    def questions(self, path: TableSource) -> Tensor | None:
        """Return the network's input ``[M, L]`` for queries given the observed categories.

        Returns:
            The input, or None if the file has no column of categories.

        Raises:
            DataError: A category is unknown.
        """
        space, names = self.answers.space, open_cells(path).names
        columns = space.columns
        # An indicator of missing cells follows from another column.
        places = [
            at
            for at in space.categories
            if columns[at].name in names and not columns[at].of and at not in space.numbers
        ]
        if not places:
            return None
        own, empty = [columns[place] for place in places], self.answers.empty
        records, unknown = encode(path, own, like=empty)
        if unknown:
            raise DataError(f"{path}: {unknown[0]}: correct them, or leave them empty")
        values = np.full((len(records), len(columns)), np.nan)
        values[:, places] = records.values
        rows = space.encoded(values)
        rows = EncodedRows(rows.numbers, self._at_no_atom(rows.levels))
        known = rows.levels >= 0
        misfits = np.argwhere(~known.numpy() & ~np.isnan(values[:, space.categories]))
        if len(misfits):
            row, at = misfits[0]
            place = space.categories[at]
            raise DataError(
                f"{path}, row {row + 1}: {values[row, place]:g} is not a value of "
                f"'{columns[place].name}'"
            )
        states = torch.full_like(rows.numbers, ASKED)
        return pack(rows, states, torch.where(known, KNOWN, ABSENT), space.level_counts)
