"""Section of simulated tables: rows of data against samples, for selectable columns."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from training.files.arrays import evenly
from training.files.rows import SavedTable
from training.files.trajectory import SavedTrajectory
from training.names import CELL_ERROR
from training.pictures.content import Choice, NumberTable, Result, judged
from training.pictures.tables.columns import LARGE_DISTANCE, chance, color_of, distances
from training.pictures.theme import joined
from training.pictures.trajectories.clouds import name_and_details
from training.report import charts
from training.report.content import Key, Section, Views
from training.report.flows import section_of_run

READING = "Samples of a good flow lie where data lie, in every pair of columns; choose two."
MOST_COLUMNS, MOST_ROWS = 60, 2000
WORST = 12
"""Largest number of columns whose distances are listed."""


def section_of(paths: Mapping[str, Path], choice: Choice) -> Section:
    """Return the report section about the simulations of a table in one run.

    Args:
        paths: Files by kind: ``melt`` (inflation), ``roundtrip``, ``gen`` (generation).
        choice: Number of points that are shown.

    Raises:
        DataError: A file is broken.
    """
    tables = {kind: SavedTable.load(path, choice.samples) for kind, path in paths.items()}
    saved = {kind: _with_densities(table) for kind, table in tables.items()}
    of = joined(*name_and_details(next(iter(saved.values()))), by=", ")
    results: list[Result] = []
    parts: list[object] = [_views(tables, choice)]
    if {"melt", "gen"} <= tables.keys():
        fitting, columns = _fit(tables["melt"], tables["gen"], of)
        parts.append(columns)
        results.append(fitting)
    page = "docs/tutorials/table.md"
    made = section_of_run(saved, "rows in the flow", READING, page, parts, results)
    densities = density_results(tables["melt"], of) if "melt" in tables else []
    return replace(made, results=[*made.results, *densities])


def _with_densities(table: SavedTable) -> SavedTrajectory:
    """Return a table's trajectory with densities; those that are not finite become the lowest."""
    known = table.densities
    if table.log_prob is None or not len(known):
        return table.trajectory
    log_prob = np.where(np.isnan(table.log_prob), known.min(), table.log_prob)
    return replace(table.trajectory, log_prob=log_prob)


def density_results(table: SavedTable, of: str) -> list[Result]:
    """Return the standard error of the log density of a row, if densities are not exact."""
    if table.errors is None or np.isnan(table.errors).all():
        return []
    size = float(np.sqrt(np.nanmean(np.square(table.errors))))
    words = f"{size:.2g} nats, root mean square over rows; at most {np.nanmax(table.errors):.2g}"
    target = f"at most {CELL_ERROR:g} nats"
    return [Result(of, "error of the log density of a row", words, target, size <= CELL_ERROR)]


def _views(tables: Mapping[str, SavedTable], choice: Choice) -> Views:
    """Return a chart of two columns against each other, for data and samples."""
    # Data are drawn over samples, which are often more numerous.
    shown = [tables[kind] for kind in ("gen", "melt") if kind in tables] or list(tables.values())
    names = list(shown[0].names)[:MOST_COLUMNS]
    clouds = []
    for table in shown:
        rows = table.rows[evenly(len(table.rows), min(MOST_ROWS, choice.points))]
        key = Key(f"{table.label}, {len(rows):,} rows", color_of(table.label), "dot")
        clouds.append((key, rows[None], 0.5))
    note = "" if len(shown[0].names) == len(names) else f"The first {len(names)} columns."
    words = ("Rows", "Two columns of your choice, of data and samples.")
    return charts.views(clouds, names, None, *words, note)


def _fit(melt: SavedTable, gen: SavedTable, of: str) -> tuple[Result, NumberTable]:
    """Return how far the columns of samples are from those of data.

    Raises:
        DataError: The two files have different columns.
    """
    data, samples = melt.rows, gen.rows
    if data.shape[1] != samples.shape[1]:
        raise DataError(
            f"{gen.path} and {melt.path} have different columns: use one network for both"
        )
    gaps = distances(data, samples)
    bound = chance(len(data), len(samples), len(gaps))
    order = np.argsort(-gaps, kind="stable")
    worst = int(order[0])
    fits = judged(bool(gaps[worst] <= bound), bound, LARGE_DISTANCE)
    few = ": too few rows to test" if fits is None else ""
    result = Result(
        of,
        "columns of samples against data",
        f"largest Kolmogorov-Smirnov distance {gaps[worst]:.3f}, of {melt.names[worst]}" + few,
        f"at most {bound:.3f}, by chance with 95 % probability",
        fits,
    )
    rows = []
    for k in order[:WORST]:
        middles = [f"{np.median(each[:, k]):.4g}".replace("-", "−") for each in (data, samples)]
        rows.append([melt.names[k], f"{gaps[k]:.3f}", *middles])
    head = ["column", "distance", "median of data", "median of samples"]
    note = f"Distances above {bound:.3f} are unlikely by chance." + (
        f" The {WORST} largest of {len(order)} columns." if len(order) > WORST else ""
    )
    return result, NumberTable("Fit of the columns", head, rows, note)
