"""A network of a table, made ready to be integrated, and the simulations of its rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.table import Dropped, Rows, Table, restored
from training.files.table import load_table
from training.flow.coordinates.coordinates import Coordinates
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.measure.held_out_ranks import density_ranks, latent_coverage
from training.names import MOST_ROWS
from training.runs.images import plain_name
from training.runs.networks import NetworkFile, TrainedFlow
from training.runs.simulator import Simulation
from training.runs.story import Samples, Story
from training.runs.times import TimeChoice


@dataclass(frozen=True)
class TableFlow(TrainedFlow):
    """A network of a table, which is to be integrated.

    Attributes:
        columns: Names of the columns that it knows.
        dropped: Columns of the source that follow from these.
        conditions: Names of what points are given with.
    """

    columns: Sequence[str]
    dropped: Dropped
    conditions: Sequence[str] = ()

    @classmethod
    def of(
        cls, file: NetworkFile, said: Mapping[str, Any], data_name: str | None = None
    ) -> "TableFlow":
        """The flow of a network file.

        Args:
            file: Its network has coordinates.
            said: What was said of it: ``data_dim`` and ``dims_to_keep``.
            data_name: How results are to be named; None for the network's data set.

        Raises:
            UsageError: What was said contradicts the file.
            DataError: What the file says of its columns makes no sense.
        """
        about, dim = file.model.about, file.model.denoiser.basis.dim
        columns = about.get("columns")
        if not (isinstance(columns, list) and _are_texts(columns) and len(columns) == dim):
            raise DataError(f"{file.path} does not name its {dim} columns")
        conditions = about.get("condition_names", [])
        count = file.model.coordinates.condition_dim if file.model.coordinates else 0
        if not (_are_texts(conditions) and len(conditions) == count):
            raise DataError(f"{file.path} does not name its {count} conditions")
        name = plain_name(data_name or str(about.get("data_name", "table")))
        dropped = _dropped(file.path, about.get("dropped"), columns)
        found = cls(file, name, columns, dropped, conditions)
        file.agreed(said, found.known)
        return found

    @property
    def coordinates(self) -> Coordinates:
        assert self.model.coordinates is not None
        return self.model.coordinates

    @property
    def known(self) -> dict[str, Any]:
        """What the file knows, by the names of options."""
        return {
            "data_dim": len(self.columns),
            "dims_to_keep": self.dims_to_keep,
            "data_name": self.data_name,
        }

    def require_unconditional(self) -> "TableFlow":
        """Itself. Raises UsageError if its points are given with conditions."""
        if self.conditions:
            raise UsageError(
                f"{self.file.name} is conditional on {', '.join(self.conditions)}: draw from it by "
                "posterior.py sample --condition=FILE"
            )
        return self

    def on(self, device: torch.device, rows: int | None) -> ProbabilityFlow:
        """The flow on a device; its network is called with so many rows at a time, or with all."""
        flow = self.model.flow.to(device)
        return flow.in_blocks(rows) if rows else flow

    def times(self, flow: ProbabilityFlow, solver: Solver, choice: TimeChoice) -> Tensor:
        """Times of a simulation, increasing ``[steps + 1]``."""
        return choice.settle(flow, solver, self.file)

    def testable(self, path: Path) -> int:
        """How many rows of a data set ``rows`` may draw. Raises DataError if it is broken."""
        return len(_testable(load_table(path)))

    def rows(self, path: Path, count: int | None, seed: int) -> tuple[Tensor, Tensor]:
        """Rows of a data set, and their numbers: held-out ones, if there are some.

        Args:
            path: The data set.
            count: How many to draw at random; None for all, up to ``MOST_ROWS``.
            seed: Seed of the draw.

        Returns:
            Points ``[n, D]``, columns in the order of the network, and numbers ``[n]``.

        Raises:
            DataError: The file is broken, or has other columns, or too few rows.
        """
        table = load_table(path)
        points = self._columns_of(path, table)
        places = _drawn(path, table, count, seed)
        return points[places], places

    def simulations(self, path: Path, count: int, seed: int) -> "Simulations":
        """Rows of a data set with their conditions, of which some are drawn as ``rows`` does.

        Raises:
            DataError: The file is broken, has other columns or conditions, or too few rows.
        """
        table = load_table(path)
        points, conditions = self._columns_of(path, table), self._conditions_of(path, table)
        drawn = _drawn(path, table, count, seed)
        return Simulations(Rows(points, conditions), _testable(table), drawn)

    def halves(self, path: Path) -> tuple[Tensor, Tensor]:
        """Rows of a data set that are trained on, and those held out: ``[N, D]`` and ``[M, D]``.

        Raises:
            DataError: The file is broken, or has other columns.
        """
        table = load_table(path)
        points = self._columns_of(path, table)
        return points[~table.held_out], points[table.held_out]

    def dithered(self, points: Tensor, seed: int) -> Tensor:
        """Rows ``[n, D]`` with discrete columns spread evenly over their steps, on the CPU."""
        return self.spread(points, seeded_generator("cpu", seed, Stream.DEQUANTIZATION))

    def spread(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """The same by a generator on the CPU."""
        steps = self.coordinates.steps
        return self.coordinates.dithered(points.to(steps.device), generator).cpu()

    def _conditions_of(self, path: Path, table: Table) -> Tensor:
        """The conditions ``[N, C]`` that the network is given, in its order."""
        own, told = list(table.condition_names), ", ".join(self.conditions)
        if table.conditions is None:
            raise DataError(
                f"{path} has no conditions: make it by dataset_tool.py --conditions={told}"
            )
        missing = [name for name in self.conditions if name not in own]
        if missing:
            raise DataError(
                f"{path} has no condition '{missing[0]}': those of the network are {told}"
            )
        return table.conditions[:, [own.index(name) for name in self.conditions]]

    def _columns_of(self, path: Path, table: Table) -> Tensor:
        names = list(table.columns.names)
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise DataError(
                f"{path} has no column '{missing[0]}', which the network "
                f"{self.file.path.name} was trained on"
            )
        return table.points[:, [names.index(name) for name in self.columns]]

    def as_source(
        self, points: Tensor, rounded: bool = True, drawn: bool = False
    ) -> tuple[list[str], Tensor]:
        """Points ``[n, D]`` as the source had its rows: all columns by name, and ``[n, D + K]``.

        Args:
            points: The points.
            rounded: Whether discrete columns are put at the nearest of their steps.
            drawn: Whether the flow has drawn them, so that they may leave the range of the data,
                and are put back where they are rounded.
        """
        if rounded:
            coordinates = self.coordinates
            points = coordinates.plausible(points) if drawn else coordinates.rounded(points)
        return list(self.dropped.order), restored(points, self.columns, self.dropped)


@dataclass(frozen=True, eq=False)
class Simulations:
    """Rows of a data set, of which some are to be found again.

    Attributes:
        rows: All N of them.
        testable: The places of those that are held out, or of all if none is.
        drawn: The places of some of these.
    """

    rows: Rows
    testable: Tensor
    drawn: Tensor


def _testable(table: Table) -> Tensor:
    places = torch.arange(len(table))
    return places[table.held_out] if table.held_out.any() else places


def _drawn(path: Path, table: Table, count: int | None, seed: int) -> Tensor:
    """The places of so many testable rows, drawn at random."""
    places = _testable(table)
    if count is not None and count > len(places):
        kind = "held-out rows" if table.held_out.any() else "rows"
        raise DataError(f"{path} has {len(places)} {kind}, but {count} were asked for")
    count = min(len(places), MOST_ROWS) if count is None else count
    chosen = torch.randperm(len(places), generator=seeded_generator("cpu", seed, Stream.DATA))
    return places[chosen[:count].sort().values]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _dropped(path: Path, told: object, columns: Sequence[str]) -> Dropped:
    """The dropped columns of which a network file tells."""
    match told:
        case None:
            return Dropped.none(columns)
        case {
            "names": list(names),
            "offsets": list(offsets),
            "slopes": list(slopes),
            "order": list(order),
        }:
            pass
        case _:
            raise DataError(f"{path} does not say how its dropped columns follow from others")
    sound = _are_texts(names) and _are_texts(order) and sorted(order) == sorted([*columns, *names])
    numbers = [*offsets, *(slope for row in slopes if isinstance(row, list) for slope in row)]
    sound = sound and all(isinstance(number, float | int) for number in numbers)
    shapes = [len(offsets), len(slopes), *(len(row) for row in slopes if isinstance(row, list))]
    if not sound or shapes != [len(names), len(names), *[len(columns)] * len(names)]:
        raise DataError(f"{path} does not say how its dropped columns follow from others")
    table = torch.tensor(slopes, dtype=torch.float64).reshape(len(names), len(columns))
    return Dropped(names, torch.tensor(offsets, dtype=torch.float64), table, order)


@dataclass(frozen=True, kw_only=True)
class TableStory(Story):
    """Simulations of the rows of a table.

    Attributes:
        table_flow: The network.
        rows: The points to melt ``[N, D]`` and their numbers ``[N]``; None where none are.
    """

    table_flow: TableFlow
    rows: tuple[Tensor, Tensor] | None

    def samples(self) -> Samples:
        """The rows, discrete columns dithered."""
        assert self.rows is not None
        points, places = self.rows
        dithered = self.table_flow.dithered(points, self.seed)
        return Samples(dithered, arrays={"row_index": places})

    def names(self) -> Sequence[str]:
        return self.table_flow.columns

    def melt_facts(self, melt: Simulation) -> dict[str, Any]:
        """Variances over their closed form, and coverage."""
        law = self.flow.latent_law(melt.trajectory.times[-1])
        return {
            "kept_variance_ratio": self.kept_variances(melt),
            "latent_coverage": latent_coverage(law.whiten(melt.trajectory.end)),
        }

    def gen_facts(self, gen: Simulation, melt: Simulation | None) -> dict[str, Any]:
        """How log densities of the melted rows rank among those of the generated ones."""
        if melt is None or not gen.densities:
            return {}
        found, own = melt.densities["log_prob"], gen.densities["log_prob"]
        return {"density_ranks": density_ranks(found, own)}

    def roundtrip_facts(self, back: Simulation, start: Tensor) -> dict[str, Any]:
        """Errors in the flow's coordinates, of unit variance, and the largest in each column."""
        first = back.trajectory.times[-1]
        error = (back.trajectory.end - start) / self.flow.schedule.scale(first)
        before = self.flow.to_data(start, first)
        largest = (self.flow.to_data(back.trajectory.end, first) - before).abs().amax(dim=0)
        return {
            "rms_error": float(error.square().mean().sqrt()),
            "max_abs_error": float(error.abs().max()),
            "largest_error": dict(zip(self.names(), largest.tolist(), strict=True)),
        }
