"""Tables: flows whose points are rows, with or without conditions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.row_hashes import row_numbers
from training.data.tables.formats import TableSource
from training.data.tables.raw_shape import RawShape
from training.data.tables.repeated_trials import as_sets, side_by_side
from training.data.tables.schema import Column, Dropped, Schema
from training.data.tables.table import DataSource, DataTable, Rows
from training.files.observations import read_columns, read_others, read_trials
from training.files.table import load_table, load_whole
from training.flow.coordinates.conditions import Surprise
from training.flow.coordinates.coordinates import Coordinates
from training.flow.likelihood import LOG_PROB_ERROR
from training.flow.pfode import ProbabilityFlow, Trajectory
from training.measure.held_out_ranks import density_ranks, latent_coverage
from training.names import MOST_ROWS, TABLE, script
from training.subjects.subject import Draw, Facts, Samples, Subject, required, variances_line
from training.trained.network import TrainedNetwork


@dataclass(frozen=True, kw_only=True, eq=False)
class TableFlow(Subject):
    """A flow of the rows of a table, with or without conditions.

    Attributes:
        network: Trained network.
        schema: Columns and conditions, and columns left out of the training because they are
            functions of other columns.
    """

    network: TrainedNetwork
    schema: Schema

    kind = TABLE

    @classmethod
    def of(
        cls, network: TrainedNetwork, expected: Mapping[str, Any], data_name: str | None = None
    ) -> "TableFlow":
        """Return the flow of a network file whose network has coordinates.

        Args:
            network: Trained network.
            expected: ``data_dim`` and ``dims_to_keep`` if the user gave them.
            data_name: Name for results; None for the name of the network's data set.

        Raises:
            UsageError: An option contradicts the file.
            DataError: The file's description of its columns is inconsistent.
        """
        about, dim = network.about, network.denoiser.basis.dim
        columns = about.get("columns")
        if not (isinstance(columns, list) and _are_texts(columns) and len(columns) == dim):
            raise DataError(f"{network.path} does not name its {dim} columns")
        conditions = about.get("condition_names", [])
        count = network.coordinates.condition_dim if network.coordinates else 0
        if not (_are_texts(conditions) and len(conditions) == count):
            raise DataError(f"{network.path} does not name its {count} conditions")
        known = {"data_dim": dim, "dims_to_keep": about["dims_to_keep"]}
        return cls(
            **network.as_subject(expected, data_name, "table", known),
            schema=_schema(network.path, columns, conditions, about.get("dropped")),
        )

    @property
    def names(self) -> list[str]:
        """Names of the columns of the network."""
        return self.schema.names

    @property
    def columns(self) -> list[str]:
        """Names of the columns in files."""
        return self.names

    @property
    def label_dim(self) -> int:
        """Number of conditions; 0 for none."""
        return self.schema.condition_dim

    @property
    def condition_names(self) -> Sequence[str]:
        """Names of the conditions."""
        return self.schema.condition_names

    @property
    def surprise(self) -> Surprise | None:
        """Out-of-distribution test of conditions; None without conditions, or with too many."""
        return self.coordinates.surprise

    @property
    def coordinates(self) -> Coordinates:
        """Coordinates of the columns and the conditions."""
        coordinates = self.network.coordinates
        assert coordinates is not None
        return coordinates

    def require_unconditional(self) -> "TableFlow":
        """Return this subject after checking that it has no conditions.

        Raises:
            UsageError: The flow has conditions.
        """
        if self.condition_names:
            raise UsageError(
                f"{self.network.name} is conditional on {', '.join(self.condition_names)}: draw "
                f"from it with {script('posterior')} sample --condition=FILE"
            )
        return self

    def table(self, path: DataSource) -> DataTable:
        """Read a data set with the columns of the network.

        If conditions are sets of trials, the result has one row per set.

        Raises:
            DataError: The file is missing, broken, or no table.
            UsageError: The file has no sets of trials, or sets of other trials.
        """
        return self._in_sets(load_table(path), path)

    def whole(self, path: DataSource) -> DataTable:
        """Read a data set like ``table``, including the rows kept for calibration."""
        return self._in_sets(load_whole(path), path)

    @property
    def raw(self) -> RawShape | None:
        """Shape of raw data as conditions; None for other conditions."""
        own = self.coordinates.raw
        return None if own is None else RawShape(**{**own, "shape": tuple(own["shape"])})

    @property
    def of_sets(self) -> bool:
        """Whether the conditions are sets of trials."""
        return self.coordinates.trials > 0

    def _in_sets(self, table: DataTable, path: DataSource) -> DataTable:
        return as_sets(table, len(self.condition_names), str(path)) if self.of_sets else table

    def testable(self, path: DataSource | None) -> int:
        """Return the number of held-out rows, or of all rows if none is held out."""
        return len(testable_rows(self.table(required(path))))

    def counted(self, number: int | None, otherwise: int, path: DataSource | None) -> int | None:
        """Return the number that the user gave; None for all held-out rows."""
        return number

    def samples(self, path: DataSource | None, count: int | None, seed: int) -> Samples:
        """Return rows with dequantized discrete columns."""
        points, places = self.rows(required(path), count, seed)
        return Samples(self.dequantized(points, seed), arrays={"row_index": places})

    def truths(self, path: DataSource | None, count: int, seed: int) -> Tensor:
        """Return dequantized rows ``[count, D]`` that the network was not trained on."""
        return self.samples(path, count, seed).points

    def unseen(self, path: DataSource | None, count: int, seed: int) -> Rows:
        """Return dequantized rows that neither trained the network nor selected it.

        These are the rows that the data set keeps for calibration, or all rows of a new data set.

        Raises:
            DataError: The data set has held-out rows but keeps none for calibration, or trained the
                network.
        """
        path = required(path)
        table = self.whole(path)
        if table.kept is None and table.held_out.any():
            raise DataError(
                f"{path}: its held-out rows were used to select the network, so they are "
                "no test set: give new rows, made with --held-out=0, or train on a table "
                f"of numbers made with {script('dataset_tool')} --kept=0.1"
            )
        table = table if table.kept is None else table.at(table.kept)
        conditions = self._conditions_of(path, table) if self.condition_names else None
        rows = Rows(self._columns_of(path, table), conditions)
        numbers = row_numbers(rows.cells(self.label_dim))
        self.require_new(path, numbers, alike=bool((self.coordinates.steps > 0).all()))
        chosen = torch.randperm(len(rows), generator=seeded_generator("cpu", seed, Stream.DATA))
        rows = rows.at(chosen[:count].sort().values)
        return Rows(self.dequantized(rows.points, seed), rows.conditions)

    def fresh(self, path: DataSource | None, count: int, seed: int) -> Draw:
        """Return a function that draws dequantized rows of a data set.

        Raises:
            UsageError: The data set is missing.
        """
        if path is None:
            raise UsageError("Missing option '--data_root': fresh samples are rows of a table")
        rows, _ = self.rows(path, None, seed)
        return lambda generator: self.spread(rows, generator)

    def points(self, path: TableSource, seen: Tensor | None = None) -> Tensor:
        """Read rows ``[M, D]`` of a table.

        A warning reports rows that contradict dropped columns: columns that were left out of the
        training because they are functions of other columns.
        """
        names, others = self.observed_names(seen), [*self.schema.order, *self.condition_names]
        points = read_columns(path, names, self.names, others)
        self.warn_of_dropped(path, names, [*self.names, *others])
        return points

    def warn_of_dropped(self, path: TableSource, seen: Sequence[str], known: Sequence[str]) -> None:
        """Warn if dropped columns of a file contradict its other columns.

        Dropped columns were left out of the training because they are functions of other columns.

        Args:
            path: File.
            seen: Observed columns.
            known: All names that the file may have.
        """
        if not self.schema.dropped.names:
            return
        own = read_others(path, [*seen, *self.schema.dropped.names], known)
        if own:
            missing = torch.full_like(next(iter(own.values())), torch.nan)
            points = torch.stack([own.get(name, missing) for name in self.names], dim=1)
            self.warn_of_others(self.contradicted(points, own), str(path))

    def labels(self, given: TableSource | None) -> Tensor | None:
        """Read the conditions ``[M, C]`` of observations, or of one set of trials ``[M, n C]``.

        Returns:
            Conditions, or None for a network without conditions.

        Raises:
            UsageError: The table is missing, or is given for a network without conditions.
            DataError: The table is broken, has other columns, or too many trials.
        """
        if not self.condition_names:
            return super().labels(given)
        if given is None:
            given_with = ", ".join(self.condition_names)
            raise UsageError(f"the network is conditional on {given_with}: give --condition")
        if self.raw is not None:
            may = self.condition_names if self.raw.varies else ()
            return self.raw.require(read_columns(given, self.condition_names, may=may), str(given))
        if not self.of_sets:
            return read_columns(given, self.condition_names)
        trials = read_trials(given, self.condition_names, ())
        rows = side_by_side(trials.data, torch.arange(len(trials)).repeat_interleave(trials.counts))
        self.straight(rows.to(self.coordinates.steps.device))  # raises an error for too many trials
        return rows

    def rows(self, path: DataSource, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
        """Return random rows ``[n, D]`` of a data set, and their indices ``[n]``.

        Columns are in the order of the network.

        Held-out rows are used if there are any.

        Args:
            path: Data set.
            count: Number of random rows; None for all, up to ``MOST_ROWS``.
            seed: Random seed.

        Raises:
            DataError: The file is broken, or has other columns or too few rows.
        """
        table = self.table(path)
        points = self._columns_of(path, table)
        places = drawn_rows(path, table, count, seed)
        return points[places], places

    def simulations(self, path: DataSource, count: int, seed: int) -> tuple[Rows, Tensor]:
        """Return all rows of a data set with conditions, and the indices of test rows.

        Returns:
            All rows; and indices of ``count`` held-out rows, or of all rows if none is held out,
            drawn at random.

        Raises:
            DataError: The file is broken, or has other columns or conditions, or too few rows.
        """
        table = self.table(path)
        rows = Rows(self._columns_of(path, table), self._conditions_of(path, table))
        return rows, drawn_rows(path, table, count, seed)

    def dequantized(self, points: Tensor, seed: int) -> Tensor:
        """Return rows ``[n, D]`` with discrete columns dequantized over their bins, on the CPU."""
        return self.spread(points, seeded_generator("cpu", seed, Stream.DEQUANTIZATION))

    def spread(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Return rows ``[n, D]`` with discrete columns dequantized by a generator on the CPU."""
        steps = self.coordinates.steps
        return self.coordinates.dequantized(points.to(steps.device), generator).cpu()

    def straight(self, conditions: Tensor) -> Tensor:
        """Return conditions ``[M, C]`` in coordinates with meaningful distances."""
        return self.coordinates.straight(conditions)

    def _conditions_of(self, path: DataSource, table: DataTable) -> Tensor:
        """Return the conditions ``[N, C]`` in the network's order.

        Raises:
            DataError: A condition or its values are missing.
        """
        own, wanted = table.condition_names, ", ".join(self.condition_names)
        given = table.rows.conditions
        if given is None:
            raise DataError(
                f"{path} has no conditions: make it with {script('dataset_tool')} "
                f"--conditions={wanted}"
            )
        if self.raw is not None:
            return self.raw.widened(given, table.raw, str(path))
        missing = [name for name in self.condition_names if name not in own]
        if missing:
            raise DataError(
                f"{path} has no condition '{missing[0]}': the network has the conditions {wanted}"
            )
        trials = given.reshape(len(table), -1, len(own))
        conditions = trials[..., [own.index(name) for name in self.condition_names]].flatten(1)
        return conditions

    def _columns_of(self, path: DataSource, table: DataTable) -> Tensor:
        names = table.names
        missing = [name for name in self.names if name not in names]
        if missing:
            raise DataError(
                f"{path} has no column '{missing[0]}', which the network "
                f"{self.network.path.name} needs"
            )
        points = table.points[:, [names.index(name) for name in self.names]]
        if self.schema.dropped.names:
            whole = table.restored(table.points)
            beside = dict(zip(table.order, whole.T, strict=True))
            self.warn_of_others(self.contradicted(points, beside), str(path))
        return points

    def contradicted(self, points: Tensor, beside: Mapping[str, Tensor]) -> Iterable[str]:
        """Return a sentence for each dropped column whose values contradict the other columns."""
        return self.schema.dropped.contradicted(points, beside)

    def as_source(self, points: Tensor, drawn: bool = False) -> tuple[list[str], Tensor]:
        """Convert points to rows of the source, including columns left out of the training.

        Discrete columns are rounded to their grid.

        Args:
            points: Points ``[n, D]``.
            drawn: Whether discrete columns are also clipped to the range of the data, as for draws.
        """
        coordinates = self.coordinates
        points = coordinates.plausible(points) if drawn else coordinates.rounded(points)
        return list(self.schema.order), self.schema.restored(points.cpu())

    def melt_facts(self, flow: ProbabilityFlow, melt: Trajectory) -> Facts:
        """Return latent variances divided by their closed form, and the coverage of the latents."""
        coverage = latent_coverage(flow.latent_law(melt.times[-1]).whiten(melt.end))
        ratio = self.kept_variances(flow, melt)
        return {"kept_variance_ratio": ratio, "latent_coverage": coverage}

    def density_facts(self, melted: Tensor, generated: Tensor) -> Facts:
        """Return ranks of the log densities of rows among the log densities of generated rows."""
        return {"density_ranks": density_ranks(melted, generated)}

    def return_facts(self, flow: ProbabilityFlow, back: Trajectory, start: Tensor) -> Facts:
        """Return roundtrip errors in coordinates of unit variance, and the largest by column."""
        first = back.times[-1]
        before = flow.to_data(start, first)
        largest = (flow.to_data(back.end, first) - before).abs().amax(dim=0)
        by_column = dict(zip(self.names, largest.tolist(), strict=True))
        return {**super().return_facts(flow, back, start), "largest_error": by_column}

    def lines(self, kind: str, facts: Mapping[str, Any]) -> list[str]:
        """Return variances, tests of latents and densities, or roundtrip errors as text."""
        lines = []
        if kind == "melt":
            lines.append(variances_line(facts, self.dims_to_keep))
            p_value = facts["latent_coverage"]["ks_p_value"]
            lines.append(f"Radii of the rows' latents against chi-squared: p = {p_value:.3g}")
        if kind == "melt" and "likelihood" in facts:
            density = facts["likelihood"]["log_prob"]
            error = density["standard_error"]
            room = "" if error is None else f" +- {error:.3f}"
            single = "traces are exact"
            if LOG_PROB_ERROR in facts["likelihood"]:
                off = facts["likelihood"][LOG_PROB_ERROR]["rms"]
                single = f"errors of single rows are {off:.2g} ({LOG_PROB_ERROR})"
            lines.append(
                f"Mean log density of the rows: {density['mean']:.3f}{room} nats; {single}"
            )
        if kind == "roundtrip":
            lines.append(
                f"Round trip: root mean square error {facts['rms_error']:.2g}, largest "
                f"{facts['max_abs_error']:.2g}, in standard deviations"
            )
        if "density_ranks" in facts:
            ranks = facts["density_ranks"]
            lines.append(
                "Ranks of the rows' log densities among those of samples: p = "
                f"{ranks['ks_p_value']:.3g} for uniform ranks, mean "
                f"{ranks['mean_rank']:.3f}"
            )
        return lines


def testable_rows(table: DataTable) -> Tensor:
    """Return the indices of held-out rows, or of all rows if none is held out."""
    rows = table.held_out if table.held_out.any() else ~table.held_out
    return torch.from_numpy(rows.nonzero()[0])


def drawn_rows(path: DataSource, table: DataTable, count: int | None, seed: int) -> Tensor:
    """Return the indices of random rows among the held-out rows, or all rows if none is held out.

    Raises:
        DataError: There are fewer than ``count`` such rows.
    """
    places = testable_rows(table)
    if count is not None and count > len(places):
        kind = "held-out rows" if table.held_out.any() else "rows"
        raise DataError(f"{path} has {len(places)} {kind}, but {count} were requested")
    count = min(len(places), MOST_ROWS) if count is None else count
    chosen = torch.randperm(len(places), generator=seeded_generator("cpu", seed, Stream.DATA))
    return places[chosen[:count].sort().values]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _schema(
    path: DataSource, names: Sequence[str], conditions: Sequence[str], dropped: object
) -> Schema:
    """Return the schema of a network's points, with the dropped columns that its file describes.

    Raises:
        DataError: The description is invalid.
    """
    schema = replace(Schema.plain(names), condition_columns=[*map(Column, conditions)])
    if dropped is None:
        return schema
    broken = DataError(f"{path} does not contain the formulas of its dropped columns")
    keys = ("names", "offsets", "slopes", "order")
    parts: list[Any] = [dropped.get(key) if isinstance(dropped, dict) else None for key in keys]
    if not all(isinstance(part, list) for part in parts):
        raise broken
    gone, offsets, slopes, order = parts
    sound = _are_texts(gone) and _are_texts(order) and sorted(order) == sorted([*names, *gone])
    numbers = [*offsets, *(slope for row in slopes if isinstance(row, list) for slope in row)]
    sound = sound and all(isinstance(number, float | int) for number in numbers)
    shapes = [len(offsets), len(slopes), *(len(row) for row in slopes if isinstance(row, list))]
    if not sound or shapes != [len(gone), len(gone), *[len(names)] * len(gone)]:
        raise broken
    table = torch.tensor(slopes, dtype=torch.float64).reshape(len(gone), len(names))
    left_out = Dropped(gone, torch.tensor(offsets, dtype=torch.float64), table)
    return replace(schema, order=order, dropped=left_out)
