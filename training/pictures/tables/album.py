"""Which pictures are drawn of tables: columns, pairs, latents, densities, errors of roundtrips."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from training.files.names import stem_of
from training.files.rows import SavedTable
from training.pictures.style.picture import Picture, figures
from training.pictures.tables.densities import FEW, draw_densities
from training.pictures.tables.marginals import draw_marginals
from training.pictures.tables.pairs import draw_pairs
from training.pictures.tables.roundtrips import draw_roundtrip
from training.pictures.trajectories.latents import draw_joint, draw_latents
from training.pictures.trajectories.spectra import draw_spectrum

ALONE = {
    "melt": "data alone: with a generation of the same run beside it, they are compared",
    "gen": "samples alone: with a melt of the same run beside them, they are compared",
}
"""What to know of a run with one of them."""


@dataclass(frozen=True)
class TableRun:
    """What was simulated of one table with one network: any of the three, at least one.

    Attributes:
        melt: Of rows of data.
        back: The roundtrip of the melt.
        gen: Generated rows.
    """

    melt: SavedTable | None = None
    back: SavedTable | None = None
    gen: SavedTable | None = None

    @property
    def shown(self) -> list[SavedTable]:
        """Rows of data and samples, or the returned rows where there is nothing else."""
        compared = [table for table in (self.melt, self.gen) if table]
        return compared or [table for table in (self.back,) if table]

    @property
    def stem(self) -> str:
        """What the names of its files have in common."""
        return stem_of(self.shown[0].path)


def pictures_of_tables(
    paths: Iterable[Path], folder: Path | None, animation: str | None
) -> list[Picture]:
    """All pictures of simulations of tables.

    A melt and a generation of one run are compared; a roundtrip is drawn with its melt.

    Args:
        paths: Their files.
        folder: Where the pictures go; None for beside their files.
        animation: Rows of tables have none.

    Raises:
        DataError: A file is broken.
    """
    tables = [SavedTable.load(path) for path in paths]
    return [picture for run in runs_of(tables) for picture in _pictures_of(run, folder)]


def _pictures_of(run: TableRun, folder: Path | None) -> list[Picture]:
    shown = run.shown
    draw: dict[str, Callable[[], Figure]] = {"marginals": partial(draw_marginals, shown)}
    several = len(shown[0].names) > 1
    if several:
        draw["pairs"] = partial(draw_pairs, shown)
    known = [table for table in shown if len(table.densities) >= FEW]
    if known:
        draw["log_prob"] = partial(draw_densities, known)
    if run.melt and run.back and run.melt.points.shape == run.back.points.shape:
        draw["roundtrip"] = partial(draw_roundtrip, run.melt, run.back)
    if run.melt:
        latents = run.melt.trajectory
        draw["melt_latents"] = partial(draw_latents, latents)
        if several:
            draw["melt_joint"] = partial(draw_joint, latents)
            draw["spectrum"] = partial(draw_spectrum, latents)
    first, *others = figures((folder or shown[0].path.parent) / run.stem, draw)
    return [replace(first, note=ALONE.get(shown[0].kind, "") if len(shown) == 1 else ""), *others]


def runs_of(tables: Iterable[SavedTable]) -> list[TableRun]:
    """Simulations sorted into runs: those in one folder, by one name, of the same columns."""
    by_run: dict[tuple[object, ...], dict[str, SavedTable]] = {}
    for table in tables:
        run = (table.path.parent, stem_of(table.path), *table.names)
        while table.kind in by_run.get(run, {}):  # two of one name: each has pictures of its own
            run = (*run, "again")
        by_run.setdefault(run, {})[table.kind] = table
    return [
        TableRun(kinds.get("melt"), kinds.get("roundtrip"), kinds.get("gen"))
        for kinds in by_run.values()
    ]
