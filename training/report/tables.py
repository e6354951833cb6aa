"""Simulations of tables: rows of data and samples, column against column."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d

from dnnlib.errors import DataError
from training.files.arrays import evenly
from training.files.rows import SavedTable
from training.names import CELL_ERROR
from training.pictures.look import joined
from training.pictures.tables.columns import chance, color_of, distances
from training.pictures.trajectories.clouds import name_and_details
from training.report import charts
from training.report.content import Chart, Choice, Key, NumberTable, Picker, Result, Section, Views
from training.report.flows import Shown, flows_of, latent_parts, latent_results
from training.report.runs import roundtrip_results

READING = (
    "Samples of a right flow lie where rows of data lie, in every pair of columns; choose two."
)
MOST_COLUMNS, MOST_ROWS = 60, 2000
WORST = 12
"""Columns of which distances are listed."""


def section_of(paths: Mapping[str, Path], choice: Choice) -> Section:
    """The section of a run's simulations of a table: files by kind, melt, roundtrip, gen. Raises
    DataError if one is broken."""
    tables = {kind: SavedTable.load(path) for kind, path in paths.items()}
    first = next(iter(tables.values()))
    name, details = name_and_details(first.trajectory)
    results = [*roundtrip_results(first.path, name, details)]
    parts: list[object] = [_views(tables, choice)]
    if {"melt", "gen"} <= tables.keys():
        fitting, columns = _fit(tables["melt"], tables["gen"], joined(name, details, by=", "))
        parts.append(columns)
        results.append(fitting)
    if first.trajectory.dim > 1:
        shown = {kind: _shown(table, choice) for kind, table in tables.items()}
        parts += flows_of(shown)
    if "melt" in tables:
        results += latent_results(tables["melt"].trajectory)
        results += density_results(tables["melt"], joined(name, details, by=", "))
        parts += latent_parts(tables["melt"].trajectory)
    title = joined(f"{name}: rows in the flow", details, by=", ")
    return Section(title, READING, "docs/tables.md", str(first.path.parent), parts, results)


def _shown(table: SavedTable, choice: Choice) -> Shown:
    """Its points, with densities: those that are not finite count as the lowest."""
    shown = Shown.load(table.path, choice, of_table=True)
    known = table.densities
    if table.log_prob is None or not len(known):
        return shown
    log_prob = np.where(np.isnan(table.log_prob), known.min(), table.log_prob)
    return replace(shown, saved=replace(shown.saved, log_prob=log_prob))


def density_results(table: SavedTable, of: str) -> list[Result]:
    """What log densities of single rows are off by, where they are no exact ones."""
    if table.errors is None or np.isnan(table.errors).all():
        return []
    size = float(np.sqrt(np.nanmean(np.square(table.errors))))
    words = f"{size:.2g} nats, root mean square of the rows; {np.nanmax(table.errors):.2g} at most"
    target = f"at most {CELL_ERROR:g} nats"
    return [Result(of, "error of a row's log density", words, target, size <= CELL_ERROR)]


def _views(tables: Mapping[str, SavedTable], choice: Choice) -> Views:
    """Two columns against each other, of data and of samples."""
    # Data are drawn over samples, of which there are often more.
    kinds = [kind for kind in ("gen", "melt") if kind in tables] or list(tables)
    names = list(tables[kinds[0]].names)[:MOST_COLUMNS]
    plot = charts.plot("", "", height=380, x_range=DataRange1d(), y_range=DataRange1d())
    sets, keys = [], []
    second = min(1, len(names) - 1)
    for kind in kinds:
        table = tables[kind]
        rows = table.rows[evenly(len(table.rows), min(MOST_ROWS, choice.points))]
        columns = {f"0-{k}": charts.float32(rows[:, k]) for k in range(len(names))}
        shown = ColumnDataSource({"x": columns["0-0"], "y": columns[f"0-{second}"]})
        held = ColumnDataSource(columns)
        shown.name, held.name = shown.id, f"{shown.id}-columns"
        color = color_of(table.label)
        charts.scatter(plot, shown, "x", "y", color, alpha=0.5)
        sets.append(shown.id)
        charts.keep(plot, held)
        keys.append(Key(f"{table.label}, {len(rows):,} rows", color, "dot"))
    note = "" if len(tables[kinds[0]].names) == len(names) else f"The first {len(names)} columns."
    chart = Chart(plot, "Rows", "Two columns that can be chosen, of data and samples.", keys, note)
    across, up = Picker("across", names), Picker("up", names, second)
    return Views(chart, sets, None, across, up)


def _fit(melt: SavedTable, gen: SavedTable, of: str) -> tuple[Result, NumberTable]:
    """How far the columns of samples are from those of data."""
    data, samples = melt.rows, gen.rows
    if data.shape[1] != samples.shape[1]:
        raise DataError(f"{gen.path} has other columns than {melt.path}")
    gaps = distances(data, samples)
    bound = chance(len(data), len(samples), len(gaps))
    order = np.argsort(-gaps, kind="stable")
    worst = int(order[0])
    result = Result(
        of,
        "columns of samples against data",
        f"largest distance of Kolmogorov and Smirnov {gaps[worst]:.3f}, of {melt.names[worst]}",
        f"at most {bound:.3f}, by chance with 95 %",
        bool(gaps[worst] <= bound),
    )
    rows = [
        [melt.names[k], f"{gaps[k]:.3f}", *(brief_number(each) for each in _middles(melt, gen, k))]
        for k in order[:WORST]
    ]
    head = ["column", "distance", "median of data", "median of samples"]
    note = f"Distances above {bound:.3f} are beyond chance." + (
        f" The {WORST} largest of {len(order)} columns." if len(order) > WORST else ""
    )
    return result, NumberTable("How the columns fit", head, rows, note)


def _middles(melt: SavedTable, gen: SavedTable, column: int) -> tuple[float, float]:
    return float(np.median(melt.rows[:, column])), float(np.median(gen.rows[:, column]))


def brief_number(value: float) -> str:
    """A number of either sign with four digits."""
    return f"{value:.4g}".replace("-", "−")
