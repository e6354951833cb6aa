"""Coordinates of records for a flow: numbers in coordinates of their own, categories by level.

Each number goes through maps of its column alone, so that any number may be known or asked for. The
maps, and the number of mixture components from which the flow starts, are chosen by the log density
of numbers in held-out rows.

Numbers with few distinct values, such as cylinders or grades, are also treated as categories. They
have probabilities, and draws take values that occur in the data. The same holds for *atoms*: values
that a number has in many rows, such as 0 where nothing was measured, or 40 hours a week. Elsewhere
it is a number, and a bin of a discrete number that an atom fills is removed from its axis
(``Gaps``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from math import inf, isnan, nan

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.row_hashes import row_numbers
from training.data.tables.making import OFTEN, Marginal
from training.data.tables.schema import CATEGORY, DATE, Column, Schema
from training.data.tables.table import DataTable
from training.data.tables.values import on_grid
from training.flow.coordinates.coordinates import Coordinates, dither
from training.flow.coordinates.maps import MOST_GAPS, Logarithm
from training.learning.coordinates import fit_coordinates, over_decades
from training.learning.mixture_start import COMPONENTS, FIRST, Mixture, fit_mixture
from training.names import EVENED, LOG, RANKS, script
from training.trained.questions import EncodedRows

FEW_VALUES, FEW_OF_RUN = 12, 8
"""Largest numbers of distinct values for treating a number as categories, too.

The second one is for values with equal steps, such as months. As a number, a month may follow
exactly from a date and a year.
"""
ROWS_PER_VALUE = 10
"""Smallest average number of rows per distinct value for treating a number as categories."""
ATOM, ROWS_OF_ATOM = 0.05, 20
"""Smallest fraction and number of rows for a value of a discrete column to be an atom.

For a continuous column the fraction is ``OFTEN``, since values with a density do not repeat.
"""
ABOVE_NEIGHBORS = 5.0
"""Smallest ratio of an atom's count to the median count of the neighboring values."""
SAME = 1e-12
"""Largest relative difference between equal values, as large as rounding of decimal sums."""
NEIGHBORS = 2
"""Number of neighboring values, on each side, with which an atom's count is compared."""
FEWEST_ELSEWHERE = 30
"""Smallest number of rows at no atom for treating a column as a number elsewhere."""
FAR = 6.0
"""Latent coordinate, in standard deviations, for numbers outside the domain of the maps."""
MARGINALS = ("none", "yeo-johnson", RANKS, *EVENED, LOG)
"""Names of the marginal maps that are compared."""


def digest_of(records: DataTable) -> str:
    """Return the SHA-256 of all cells and of the split into training and held-out rows."""
    cells = np.where(np.isnan(records.values), np.nan, records.values).tobytes()
    return sha256(cells + records.held_out.tobytes()).hexdigest()


def numbers_of_rows(records: DataTable, places: Sequence[int]) -> np.ndarray:
    """Return hashes of the rows that have no missing values in the columns with these indices."""
    values = records.values[:, list(places)]
    return row_numbers(values[~np.isnan(values).any(axis=1)])


def few_values(column: Column, values: np.ndarray) -> tuple[float, ...]:
    """Return the distinct values of a column if it is treated as categories, else none."""
    if column.type == CATEGORY:
        return tuple(float(place) for place in range(len(column.levels)))
    if column.type == DATE:
        return ()
    present = values[~np.isnan(values)]
    different = np.unique(present)
    steps = np.diff(different)
    run = len(steps) > 1 and np.allclose(steps, steps[0], rtol=1e-6, atol=0.0)
    most = FEW_OF_RUN if run else FEW_VALUES
    few = len(different) <= min(most, len(present) / ROWS_PER_VALUE)
    return tuple(different.tolist()) if few else ()


def atoms_of(column: Column, values: np.ndarray) -> tuple[float, ...]:
    """Return the atoms (frequently repeated values) of a numeric column without ``few_values``."""
    if column.type == DATE:
        return ()
    present = values[~np.isnan(values)]
    different, counts = np.unique(present, return_counts=True)
    share = ATOM if Marginal.from_values(present).step else OFTEN
    often = counts >= max(ROWS_OF_ATOM, share * counts.sum())
    around = np.pad(counts.astype(np.float64), NEIGHBORS, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * NEIGHBORS + 1)
    usual = np.nanmedian(np.delete(windows, NEIGHBORS, axis=1), axis=1)
    places = np.flatnonzero(often & (counts >= ABOVE_NEIGHBORS * usual))
    atoms = different[places[np.argsort(-counts[places], kind="stable")[:MOST_GAPS]]]
    elsewhere = counts[~np.isin(different, atoms)].sum()
    return tuple(sorted(atoms.tolist())) if elsewhere >= FEWEST_ELSEWHERE else ()


@dataclass(frozen=True, eq=False)
class RecordSpace:
    """Map between records ``[n, P]`` and the numbers and categories of a flow.

    Attributes:
        columns: The P columns.
        values: Values of each column's levels. The levels of a number are its atoms, followed by
            NaN for all other values; a number without atoms has no levels.
        coordinates: Coordinates of the D numbers. Without numbers, these are the coordinates of one
            number that is always missing.
    """

    columns: Sequence[Column]
    values: Sequence[tuple[float, ...]]
    coordinates: Coordinates

    @cached_property
    def numbers(self) -> list[int]:
        """Indices of the columns that are numbers."""
        return [place for place, values in enumerate(self.values) if is_number(values)]

    @cached_property
    def categories(self) -> list[int]:
        """Indices of the columns with levels; numbers with atoms come last."""
        levels = [place for place, values in enumerate(self.values) if values]
        return sorted(levels, key=lambda place: (place in self.numbers, place))

    @property
    def atoms(self) -> list[int]:
        """Indices, among the numbers, of the numbers with atoms."""
        return [self.numbers.index(place) for place in self.categories if place in self.numbers]

    def atoms_at(self, place: int) -> tuple[float, ...]:
        """Return the atoms of a column; none if the column is not a number."""
        return tuple(self.values[place][:-1]) if place in self.numbers else ()

    @property
    def level_counts(self) -> list[int]:
        """Number of levels of each category."""
        return [len(self.values[place]) for place in self.categories]

    @property
    def dim(self) -> int:
        """Number of numeric columns, D."""
        return self.coordinates.dim

    def cell(self, place: int) -> int:
        """Return a column's index in query states; with atoms, the index of its number."""
        if place in self.numbers:
            return self.numbers.index(place)
        return self.level_cell(place)

    def level_cell(self, place: int) -> int:
        """Return the index of a column's levels in the states of queries."""
        return self.dim + self.categories.index(place)

    @property
    def middle(self) -> Tensor:
        """Point ``[1, D]`` whose coordinates are all 0."""
        return self._at(0.0)

    def states(self, by_column: Tensor) -> Tensor:
        """Return states of queries ``[n, D + C]`` for D numbers and C categories.

        Args:
            by_column: State (known, asked for or absent) of each column in each row, ``[n, P]``.
        """
        states = torch.full((len(by_column), self.dim + len(self.categories)), -1)
        for place, values in enumerate(self.values):
            states[:, self.cell(place)] = by_column[:, place]
            if values:
                states[:, self.level_cell(place)] = by_column[:, place]
        return states

    def encoded(self, values: np.ndarray, generator: torch.Generator | None = None) -> EncodedRows:
        """Encode records ``[n, P]`` as numbers and levels of the flow.

        With a generator, discrete numbers are dequantized over their bins; without a generator,
        they are at the centers of the bins.
        """
        points, missing = self._points(values, generator)
        there = torch.where(missing, torch.nan, self.coordinates.to_flow(points))
        return EncodedRows(there, self._levels(values))

    def located(self, values: np.ndarray, shift: Tensor | float = 0.0) -> Tensor:
        """Return the numbers of records ``[n, P]`` in coordinates of the flow ``[n, D]``.

        A number at an atom is where that atom would be, between its neighbors; a missing number is
        in the middle.

        Args:
            values: Records ``[n, P]``.
            shift: Distance from the centers of bins in units of their width, ``[n, D]``.
        """
        steps, atoms = self.coordinates.steps, torch.from_numpy(self.at_atoms(values))
        points = torch.from_numpy(values[:, self.numbers].astype(np.float64))
        points = points + steps * torch.where(atoms, -0.5, torch.as_tensor(shift))
        points = torch.where(points.isnan(), self.middle, points)
        outside = self._outside(points)
        return self.coordinates.to_flow(torch.where(outside, self._at(-FAR), points))

    def decoded(self, rows: EncodedRows) -> np.ndarray:
        """Decode rows of the flow to records ``[n, P]``, with discrete numbers on their grid."""
        values = np.full((len(rows), len(self.columns)), np.nan)
        for place, number in zip(self.categories, rows.levels.T, strict=True):
            of_levels = np.array([*self.values[place], np.nan])
            values[:, place] = of_levels[number.numpy()]  # -1 selects the last one
        if self.numbers:
            missing = rows.numbers.isnan()
            points = self.coordinates.to_data(rows.numbers.nan_to_num(0.0))
            points = torch.where(missing, torch.nan, self.coordinates.plausible(points))
            atoms = values[:, self.numbers]
            values[:, self.numbers] = np.where(np.isnan(atoms), points.numpy(), atoms)
            for place in self.numbers:
                values[:, place] = on_grid(values[:, place], self.columns[place].grid)
        return values

    def decoded_numbers(self, place: int, there: Tensor, within: bool) -> np.ndarray:
        """Decode numbers of the flow ``[...]`` to values ``[...]`` of one numeric column.

        With ``within``, discrete numbers stay within the range of the training data. Otherwise,
        they are not below 0 if the training data had no negative values.
        """
        rows = torch.zeros(there.numel(), self.dim, dtype=torch.float64)
        rows[:, self.cell(place)] = there.flatten()
        points = self.coordinates.to_data(rows)
        if within:
            points = self.coordinates.plausible(points)
        else:
            low = torch.where(self.coordinates.least >= 0, 0.0, -inf)
            low = torch.where(self.coordinates.steps > 0, low, -inf)
            points = torch.maximum(self.coordinates.rounded(points), low)
        made = np.asarray(points[:, self.cell(place)].view(there.shape))
        return on_grid(made, self.columns[place].grid)

    def within_range(self, place: int, values: np.ndarray) -> np.ndarray:
        """Return values ``[n]`` of a column, with discrete numbers clipped to their range.

        The range is that of the training values without atoms (single values with positive
        probability); values equal to an atom are not changed.
        """
        if place not in self.numbers:
            return values
        at, held, atoms = self.numbers.index(place), self.coordinates, self.atoms_at(place)
        ends = (float(held.least[at]), float(held.most[at]))
        clipped = values.clip(*ends) if held.steps[at] > 0 else values
        return np.where(level_of(values, atoms) >= 0, values, clipped) if atoms else clipped

    def reachable(self, place: int, values: np.ndarray, within: bool) -> np.ndarray:
        """Return whether ``decoded_numbers`` can return each value ``[n]`` of a column."""
        if place not in self.numbers:
            return np.ones(len(values), dtype=bool)
        if within:
            return np.asarray(self.within_range(place, values) == values)
        at = self.cell(place)
        positive = bool((self.coordinates.least[at] >= 0) & (self.coordinates.steps[at] > 0))
        return (values >= 0) | (not positive)

    def log_slopes(self, values: np.ndarray) -> Tensor:
        """Return the log derivatives ``[n, D]`` of the maps of numbers; 0 for missing numbers.

        A map takes a value x, in the column's units, to the coordinate u; the result is
        ``log du/dx``.
        """
        points, missing = self._points(values)
        points.requires_grad_(True)
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(self.coordinates.to_flow(points).sum(), points)
        return torch.where(missing, 0.0, slopes.log())

    def impossible(self, values: np.ndarray) -> np.ndarray:
        """Return which cells ``[n, P]`` are outside the domain of the maps, such as 0 for a log.

        The flow encodes such a cell as a number far out in the domain; its density is 0.
        """
        flags = np.zeros(values.shape, dtype=bool)
        if self.numbers:
            flags[:, self.numbers] = self._outside(self._numbers(values)).numpy()
        return flags

    def beyond(self, values: np.ndarray, reach: Tensor) -> np.ndarray:
        """Return which cells ``[n, P]`` have a coordinate of magnitude above a limit.

        Args:
            values: Records ``[n, P]``.
            reach: Limit ``[D]`` of each number.
        """
        flags = np.zeros(values.shape, dtype=bool)
        if self.numbers:
            flags[:, self.numbers] = (self.encoded(values).numbers.abs() > reach).numpy()
        return flags

    def no_levels(self, values: np.ndarray) -> np.ndarray:
        """Return which cells ``[n, P]`` have a value that is not a category of their column.

        An example is a year that does not occur in the training set.
        """
        flags = np.zeros(values.shape, dtype=bool)
        for place in set(self.categories) - set(self.numbers):
            column = values[:, place]
            flags[:, place] = ~np.isnan(column) & (level_of(column, self.values[place]) < 0)
        return flags

    def at_atoms(self, values: np.ndarray) -> np.ndarray:
        """Return which numbers ``[n, D]`` of records ``[n, P]`` are at an atom."""
        flags = np.zeros((len(values), self.dim), dtype=bool)
        for at in self.atoms:
            place = self.numbers[at]
            flags[:, at] = level_of(values[:, place], self.atoms_at(place)) >= 0
        return flags

    def _outside(self, points: Tensor) -> Tensor:
        outside = torch.zeros_like(points, dtype=torch.bool)
        for map_ in self.coordinates.maps:
            if isinstance(map_, Logarithm):
                outside = outside | ((map_.has_low > 0) & (points <= map_.low))
        return outside

    def _points(
        self, values: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return points ``[n, D]`` for the coordinates, and which are missing; see ``encoded``."""
        numbers = self._numbers(values)
        missing = numbers.isnan()
        points = torch.where(missing, self.middle, numbers)
        if generator is not None:
            points = dither(points, self.coordinates.steps, generator)
        return torch.where(self._outside(points), self._at(-FAR), points), missing

    def _at(self, place: float) -> Tensor:
        """Return the point whose coordinates all have the same value ``[1, D]``."""
        return self.coordinates.to_data(torch.full((1, self.dim), place, dtype=torch.float64))

    def _numbers(self, values: np.ndarray) -> Tensor:
        """Return numbers ``[n, D]``; NaN where they are missing or at an atom."""
        if not self.numbers:
            return torch.full((len(values), 1), torch.nan, dtype=torch.float64)
        numbers = values[:, self.numbers].astype(np.float64)
        return torch.from_numpy(np.where(self.at_atoms(values), np.nan, numbers))

    def _levels(self, values: np.ndarray) -> Tensor:
        """Return indices of levels ``[n, C]``; -1 for unknown values."""
        levels = np.full((len(values), len(self.categories)), -1, dtype=np.int64)
        for index, place in enumerate(self.categories):
            column, atoms = values[:, place], self.atoms_at(place)
            level = level_of(column, atoms or self.values[place])
            if atoms:
                level = np.where((level < 0) & ~np.isnan(column), len(atoms), level)
            levels[:, index] = level
        return torch.from_numpy(levels)


@dataclass(frozen=True, eq=False)
class CodedRows:
    """Rows of records, with their codes in the flow, which are computed once.

    Attributes:
        space: Map between records and the flow.
        values: Records ``[n, P]``.
    """

    space: RecordSpace
    values: np.ndarray

    @cached_property
    def codes(self) -> EncodedRows:
        """Encoded rows, with discrete numbers at the centers of their bins."""
        return self.space.encoded(self.values)

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Lower and upper ends ``[n, D]`` of the bins of numbers in coordinates of the flow."""
        low = self.space.located(self.values, -0.5)
        discrete = self.space.coordinates.steps > 0
        return low, self.space.located(self.values, 0.5) if bool(discrete.any()) else low

    def at(self, places: np.ndarray) -> "CodedRows":
        """Select rows by their indices; what is computed stays computed."""
        some, which = CodedRows(self.space, self.values[places]), torch.from_numpy(places)
        vars(some)["codes"] = self.codes.at(which)
        vars(some)["ends"] = tuple(each[which] for each in self.ends)
        return some


def is_number(values: Sequence[float]) -> bool:
    """Return whether a column with these levels is numeric, apart from its levels."""
    return not values or isnan(values[-1])


def level_of(values: np.ndarray, known: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the index of each value ``[n]`` among known values; -1 for other values."""
    of_each = np.array(known)
    order = of_each.argsort()
    middles = (of_each[order][1:] + of_each[order][:-1]) / 2
    nearest = order[np.searchsorted(middles, values)]
    right = np.isclose(values, of_each[nearest], rtol=SAME, atol=0.0)
    return np.where(right, nearest, -1)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Coordinates chosen for records, and the mixture from which the flow starts.

    Attributes:
        space: Coordinates of records.
        marginals: Name of the marginal maps of the numbers.
        mixture: Mixture in these coordinates.
        nats: Mean log density of held-out rows in nats per row, by name of the marginal maps.
    """

    space: RecordSpace
    marginals: str
    mixture: Mixture
    nats: dict[str, float]


def choose_space(records: DataTable, seed: int) -> Chosen:
    """Choose the coordinates with the largest log density of held-out rows.

    Raises:
        DataError: A column has fewer than two distinct values in the training rows.
    """
    train, held_out = (records.at(rows).values for rows in (~records.held_out, records.held_out))
    values = [few_values(column, train[:, at]) for at, column in enumerate(records.columns)]
    for column, numbers in zip(records.columns, train.T, strict=True):
        if len(np.unique(numbers[~np.isnan(numbers)])) < 2:
            raise DataError(
                f"column '{column.name}' has fewer than two values in the training rows: "
                f"leave it out with {script('dataset_tool')} --exclude={column.name}"
            )
    for at, column in enumerate(records.columns):
        atoms = () if values[at] else atoms_of(column, train[:, at])
        values[at] = values[at] or ((*atoms, nan) if atoms else ())
    numbers = [at for at, levels in enumerate(values) if is_number(levels)]
    generator = seeded_generator("cpu", seed, Stream.DEQUANTIZATION)
    of_numbers = [values[at][:-1] for at in numbers]
    points, columns = _complete(records, train, numbers, of_numbers, generator)

    def tried(space: RecordSpace, marginals: str, counts: Sequence[int]) -> Chosen:
        """Fit a mixture in these coordinates; return it with its log density of held-out rows."""
        generator = seeded_generator("cpu", seed, Stream.DEQUANTIZATION)
        rows, others = space.encoded(train, generator), space.encoded(held_out, generator)
        mixture, nats = fit_mixture(rows, others, space.level_counts, seed, counts)
        slopes = float(space.log_slopes(held_out).sum(dim=1).mean()) if len(held_out) else 0.0
        if space.impossible(held_out).any():
            slopes = -inf
        return Chosen(space, marginals, mixture, {marginals: nats + slopes})

    tries = {}
    for marginals in MARGINALS if numbers else ("none",):
        if marginals == LOG and not bool(over_decades(points).any()):
            continue
        coordinates = fit_coordinates(points, columns, marginals, "none")
        space = RecordSpace(records.columns, values, coordinates)
        tries[marginals] = tried(space, marginals, FIRST)
    scores = {name: each.nats[name] for name, each in tries.items()}
    best = max(scores, key=scores.__getitem__)
    chosen = tried(tries[best].space, best, COMPONENTS)
    return replace(chosen, nats=scores | chosen.nats)


def _complete(
    records: DataTable,
    train: np.ndarray,
    numbers: Sequence[int],
    atoms: Sequence[Sequence[float]],
    generator: torch.Generator,
) -> tuple[Tensor, Schema]:
    """Return numbers of training rows without gaps, and the known properties of their columns.

    Missing numbers and atoms are replaced by draws from the other values of their column.
    """
    if not numbers:
        points = torch.randn(len(train), 1, generator=generator, dtype=torch.float64)
        return points, Schema.plain(["none"])
    points = torch.from_numpy(train[:, numbers].copy())
    columns = []
    for at, column in enumerate(points.T):
        missing = column.isnan()
        if atoms[at]:
            missing |= torch.from_numpy(level_of(column.numpy(), atoms[at]) >= 0)
        present = column[~missing]
        marginal = Marginal.from_values(present.numpy())
        if atoms[at] and marginal.step:  # include atoms, so that they lie on the grid
            values = np.concatenate([present.numpy(), np.repeat(atoms[at], 2)])
            marginal = replace(marginal, step=Marginal.from_values(values).step)
        least, most = float(present.min()), float(present.max())
        gaps = tuple(atom for atom in atoms[at] if marginal.step and least < atom < most)
        name, bins = records.columns[numbers[at]].name, (marginal.step, marginal.offset)
        columns.append(replace(Column.of_numbers(name, *bins), gaps=gaps))
        drawn = torch.randint(len(present), (int(missing.sum()),), generator=generator)
        column[missing] = present[drawn]
    known = Schema(columns)
    return dither(points, known.steps, generator), known
