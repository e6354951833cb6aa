"""Simulated tables: columns of data against samples, log densities, and roundtrip errors."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp

from dnnlib.errors import DataError
from training.files.arrays import evenly, stem_of
from training.files.rows import LARGEST, SavedTable, printable
from training.files.trajectory import SavedTrajectory
from training.names import CELL_ERROR
from training.pictures.columns import (
    ACROSS,
    MOST,
    chance,
    color_of,
    column_panel,
    distances,
    few_points,
    fit_result,
    informative_columns,
    limits,
    rank_correlations,
    scattered,
    shares,
    signed,
)
from training.pictures.content import (
    Choice,
    Cloud,
    Content,
    NumberTable,
    Part,
    Result,
    Views,
)
from training.pictures.figure import FEW, Band, Figure, Line, Mark, Panel, Points, Rule, Segments
from training.pictures.simulations import (
    content_of_run,
    joint,
    latent_law,
    latents,
    name_and_details,
    spectrum,
)
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE, joined

READING = "Samples of a good flow lie where data lie, in every pair of columns; choose two."
ALONE = {
    "melt": "data alone: with generated rows of the same run beside them, both are compared",
    "gen": "samples alone: with a melt of the same run beside them, both are compared",
}
"""Note for the user, by kind of the only simulation of a run."""
LEAST_DENSITIES = 2
"""Smallest number of densities to draw."""
MOST_COLUMNS, MOST_ROWS, WORST = 60, 2000, 12
"""Numbers of columns and rows of a chart that a reader explores, and of listed columns."""
MOST_PAIRED = 5
LEAST_BINS, MOST_BINS = 10, 40
FAR = 5e-3
"""Share of the lowest densities of each set that the histogram may leave out."""
REACH = 4.0
"""Distance below the lower quartile, in interquartile ranges, beyond which more may be left out."""
LEAST_ERROR = 1e-16
"""Smallest error that is drawn; a zero error is drawn there."""


def content_of(paths: Mapping[str, Path], choice: Choice | None) -> Content:
    """Return the content of the simulations of a table in one run.

    The inflation (melt) and the generation are compared. A roundtrip is drawn with its inflation.

    Args:
        paths: Files by kind: ``melt`` (inflation), ``roundtrip``, ``gen`` (generation).
        choice: Number of rows that are shown; None for all.

    Raises:
        DataError: A file is broken, or the files have different columns.
    """
    choose = None if choice is None else choice.samples
    tables = {kind: SavedTable.load(path, choose) for kind, path in paths.items()}
    if {"melt", "gen"} <= tables.keys():
        _require_equal_columns(tables["melt"], tables["gen"])
    shown = [tables[kind] for kind in ("melt", "gen") if kind in tables] or list(tables.values())
    saved = {kind: _with_densities(table) for kind, table in tables.items()}
    of = joined(*name_and_details(shown[0].trajectory), by=", ")
    stem = stem_of(shown[0].path)

    def parts(choice: Choice) -> list[Part]:
        return [_views(shown, choice), *([_fit_table(*shown)] if len(shown) == 2 else [])]

    def results() -> list[Result]:
        fit = [_fit(shown[0], shown[1], of)] if len(shown) == 2 else []
        return fit + (density_results(tables["melt"], of) if "melt" in tables else [])

    return content_of_run(
        saved,
        "rows in the flow",
        READING,
        "docs/tutorials/table.md",
        {f"{stem}_{name}": make for name, make in _figures(tables, shown).items()},
        parts,
        results,
        replaced={f"{stem}_pairs"},
        notes={f"{stem}_marginals": ALONE.get(shown[0].kind, "")} if len(shown) == 1 else {},
    )


def _figures(
    tables: Mapping[str, SavedTable], shown: Sequence[SavedTable]
) -> dict[str, Callable[[], Figure]]:
    """Return the figures of a run: of data and samples if there are any, else of returned rows."""
    draw: dict[str, Callable[[], Figure]] = {"marginals": partial(marginals, shown)}
    several = len(shown[0].names) > 1
    if several:
        draw["pairs"] = partial(pairs, shown)
    known = [table for table in shown if len(table.densities) >= LEAST_DENSITIES]
    if known:
        draw["log_prob"] = partial(densities, known)
    melt, back = tables.get("melt"), tables.get("roundtrip")
    if melt and back and melt.points.shape == back.points.shape:
        draw["roundtrip"] = partial(roundtrip, melt, back)
    if melt:
        draw["melt_latents"] = partial(latents, melt.trajectory)
        if several:
            draw["melt_joint"] = partial(joint, melt.trajectory)
            draw["spectrum"] = partial(spectrum, melt.trajectory)
    return draw


def _require_equal_columns(melt: SavedTable, gen: SavedTable) -> None:
    if tuple(melt.names) != tuple(gen.names):
        raise DataError(
            f"{gen.path} and {melt.path} have different columns: use one network for both, or draw "
            "them in separate calls, each with its own --dest"
        )


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


def _views(shown: Sequence[SavedTable], choice: Choice) -> Views:
    """Return a chart of two columns against each other, for data and samples."""
    names = [printable(name) for name in shown[0].names[:MOST_COLUMNS]]
    clouds = []
    for table in shown[::-1]:  # data are drawn over samples, which are often more numerous
        rows = table.rows[evenly(len(table.rows), min(MOST_ROWS, choice.points))]
        label = f"{table.label}, {len(rows):,} rows"
        clouds.append(Cloud(label, rows[None, :, : len(names)], color_of(table.label), 0.5))
    note = "" if len(shown[0].names) == len(names) else f"The first {len(names)} columns."
    return Views(
        "Rows", "Two columns of your choice, of data and samples.", clouds, names, note=note
    )


def _fit(melt: SavedTable, gen: SavedTable, of: str) -> Result:
    """Return how far the columns of samples are from those of data."""
    gaps = distances(melt.rows, gen.rows)
    bound, worst = chance(len(melt.rows), len(gen.rows), len(gaps)), int(gaps.argmax())
    return fit_result(of, float(gaps[worst]), bound, melt.names[worst])


def _fit_table(melt: SavedTable, gen: SavedTable) -> NumberTable:
    """Return the columns of samples that are farthest from those of data."""
    data, samples = melt.rows, gen.rows
    gaps = distances(data, samples)
    rows = []
    for k in np.argsort(-gaps, kind="stable")[:WORST]:
        middles = [f"{np.median(each[:, k]):.4g}".replace("-", "−") for each in (data, samples)]
        rows.append([melt.names[k], f"{gaps[k]:.3f}", *middles])
    head = ["column", "distance", "median of data", "median of samples"]
    bound = chance(len(data), len(samples), len(gaps))
    note = f"Distances above {bound:.3f} are unlikely by chance."
    note += f" The {WORST} largest of {len(gaps)} columns." * (len(gaps) > WORST)
    return NumberTable("Fit of the columns", head, rows, note)


def counted(tables: Sequence[SavedTable], counts: Sequence[int]) -> str:
    """Describe in words how many rows of each table are drawn, and how many are not finite."""
    parts = []
    for table, count in zip(tables, counts, strict=True):
        what = "rows of data" if table.kind == "melt" else table.label
        lost = table.trajectory.count - count
        left_out = f" ({lost:,} not finite, not drawn)" if lost else ""
        parts.append(f"{count:,} {what}{left_out}")
    return ", ".join(parts)


def _headline(tables: Sequence[SavedTable], what: str, *more: str) -> tuple[str, str]:
    name, details = name_and_details(tables[0].trajectory)
    of = "data and samples" if len(tables) == 2 else tables[0].label
    counts = counted(tables, [len(table.rows) for table in tables])
    law = latent_law(tables[-1].trajectory)
    return f"{what} of {name}: {of}", joined(details, counts, law, *more)


def marginals(tables: Sequence[SavedTable]) -> Figure:
    """Return histograms of at most 20 columns, a panel each, for data, samples, or both."""
    names, rows = tables[0].names, [table.rows for table in tables]
    order, dim, notes, sentence = np.arange(len(names)), len(names), [""] * len(names), ""
    if len(rows) == 2:
        far = distances(rows[0], rows[1])
        order = np.argsort(-far, kind="stable")
        notes = [f"KS distance {each:.3f}" for each in far]
        bound = chance(len(rows[0]), len(rows[1]), dim)
        sentence = joined(
            "worst first" if dim > 1 else "",
            f"columns not shown: KS at most {far[order[MOST]]:.2g}" if dim > MOST else "",
            f"by chance {'all are' if dim > 1 else 'it is'} below {bound:.2g} (95 %)",
        )
    worst = f"The {MOST} worst-fitting of" if len(rows) == 2 else f"{MOST} of"
    panels = []
    for column in order[:MOST]:
        sets = {t.label: each[:, column] for t, each in zip(tables, rows, strict=True)}
        panels.append(column_panel(sets, printable(names[column]), notes[column]))
    across = min(len(panels), ACROSS)
    return Figure(
        *_headline(tables, f"{worst} {dim} columns" if dim > MOST else "Columns"),
        panels,
        across,
        (max(9.6 / across, 1.9) if across > 2 else 3.2, 1.15),
        sentence=sentence,
    )


def pairs(tables: Sequence[SavedTable]) -> Figure:
    """Return two to five columns in pairs, in a matrix of panels, for data, samples, or both.

    Data are below the diagonal, and samples above it; a single set fills both halves.
    """
    rows, names = [table.rows for table in tables], [printable(each) for each in tables[0].names]
    correlations = [rank_correlations(each) for each in rows]
    chosen, dim, two = informative_columns(correlations, MOST_PAIRED), len(names), len(tables) == 2
    ends = {column: limits(*(each[:, column] for each in rows)) for column in chosen.tolist()}
    panels = []
    for down, across in ((d, a) for d in chosen.tolist() for a in chosen.tolist()):
        if down == across:
            sets = {t.label: each[:, down] for t, each in zip(tables, rows, strict=True)}
            panel = column_panel(sets, strips=False)
        else:
            which = int(across > down) if two else 0
            cloud = scattered(rows[which][:, [across, down]], color_of(tables[which].label))
            note = f"ρ {signed(correlations[which][across, down])}"
            panel = Panel([cloud], note=note, x_limits=ends[across], y_limits=ends[down])
        last, first = down == chosen[-1], across == chosen[0]
        panels.append(
            replace(
                panel,
                x=names[across] if last else "",
                y=names[down] if first else "",
                x_ticks=None if last else {},
                y_ticks=None if first and down != across else {},
            )
        )
    telling = "whose correlations differ most" if two else "with the strongest correlations"
    some = f"{len(chosen)} of {dim} columns, {telling}" * (len(chosen) < dim)
    halves = "data below the diagonal, samples above it" * two
    title, subtitle = _headline(tables, "Pairs of columns", some, "ρ: rank correlation", halves)
    size = min(9.5 / len(chosen), 2.9)
    return Figure(title, subtitle, panels, len(chosen), (size, size))


def densities(tables: Sequence[SavedTable]) -> Figure:
    """Return histograms of log densities of data, samples, or both.

    If both are given, a second panel shows the ranks of the data's densities among those of the
    samples.
    """
    sets = {table.label: table.densities for table in tables}
    name, details = name_and_details(tables[0].trajectory)
    counts = counted(tables, [len(each) for each in sets.values()])
    panels = [_densities(sets), *([_ranks(*sets.values())] if len(tables) == 2 else [])]
    return Figure(
        f"Log density of {name}" + ("" if len(tables) == 2 else f": {tables[0].label}"),
        joined(details, counts, latent_law(tables[-1].trajectory), _least(tables[0])),
        panels,
        len(panels),
        (3.5, 3.3),
    )


def uniformity(data: np.ndarray, samples: np.ndarray) -> float:
    """Return the p-value of a test that data ``[n]`` have uniform ranks among samples ``[m]``."""
    return float(ks_2samp(data, samples).pvalue)


def _densities(sets: Mapping[str, np.ndarray]) -> Panel:
    values = list(sets.values())
    first, third = np.quantile(np.concatenate(values), [0.25, 0.75])
    low = min(float(np.quantile(each, FAR)) for each in values)
    low = max(low, float(first - REACH * (third - first)))
    high = max(float(each.max()) for each in values)
    room = 0.04 * (high - low) or max(0.05 * abs(high), 0.5)
    low, high = low - room, high + room
    bins = int(np.clip(3 * min(map(len, values)) ** (1 / 3), LEAST_BINS, MOST_BINS))
    edges = np.linspace(low, high, bins + 1)
    marks, means, left_out = list[Mark](), [], []
    for place, (label, each) in enumerate(sets.items(), start=1):
        if len(each) < FEW:
            marks.append(few_points(label, each, 0.02 * place))
        else:
            marks.append(shares(label, edges, np.histogram(each, edges)[0] / len(each)))
        marks.append(Rule(float(each.mean()), True, color_of(label), width=1.2, dashed=True))
        error = each.std(ddof=1) / math.sqrt(len(each))
        means.append(f"{label} {each.mean():.4g} ± {error:.2g}")
        lower = int((each < low).sum())
        if lower:
            left_out.append(f"{lower} of {label} lower")
    note = ", ".join(means).replace("-", "−")
    few = max(map(len, values)) < FEW
    return Panel(
        marks,
        "mean (dashed) ± standard error:",
        "\n".join([note, *left_out]),
        "log density in nats",
        "" if few else "fraction of rows",
        (low, high),
        y_limits=(0, 0.06) if few else None,
        y_ticks={} if few else None,
    )


def _ranks(data: np.ndarray, samples: np.ndarray) -> Panel:
    """Return the share of the data below each density against that of the samples."""
    ends = np.sort(np.concatenate([data, samples]))
    below = [
        np.concatenate([[0], np.searchsorted(np.sort(each), ends, side="right") / len(each)])
        for each in (samples, data)
    ]
    p, band = uniformity(data, samples), chance(len(data), len(samples))
    ramp = np.array([0.0, 1.0])
    return Panel(
        [
            Band(ramp, ramp - band, ramp + band),
            Line(ramp, ramp, MUTED, width=0.8),
            Line(below[0], below[1], INK),
        ],
        f"ranks of data among samples: KS p {'< 0.0001' if p < 1e-4 else f'= {p:.2g}'}",
        "band: contains uniform ranks in 95 % of cases",
        "fraction of samples with a lower density",
        "fraction of the data",
        (0, 1),
        (0, 1),
        equal=True,
    )


def _least(table: SavedTable) -> str:
    """Describe which row of data is the least likely."""
    if table.row_index is None or table.log_prob is None or table.kind != "melt":
        return ""
    index = int(np.nanargmin(table.log_prob))
    value = f"{table.log_prob[index]:.4g}".replace("-", "−")
    return f"least likely: row {table.row_index[index]:.0f} of the data, {value}"


def roundtrip(melt: SavedTable, back: SavedTable) -> Figure:
    """Return the roundtrip errors, data to latents and back, of at most 20 columns.

    Errors are in standard deviations of the columns.
    """
    error, largest = column_errors(melt, back)
    order, dim = np.argsort(-largest, kind="stable")[:MOST], len(melt.names)
    name, details = name_and_details(melt.trajectory)
    which = f"the {MOST} of {dim} columns with the largest errors" * (dim > MOST)
    y = np.arange(len(order), dtype=float)[::-1]
    root, most = (np.maximum(values[order], LEAST_ERROR) for values in (error, largest))
    panel = Panel(
        [
            Segments(root, most, y, y, FAINT, width=2.0),
            Points(root, y, BLUE, "root mean square", 5),
            Points(most, y, ORANGE, "largest", 4.5, "D"),
        ],
        x="error in standard deviations of the column",
        x_limits=(float(root.min()) / 3, float(most.max()) * 3),
        y_limits=(-0.7, len(order) - 0.3),
        x_log=True,
        y_ticks={at: printable(melt.names[k]) for at, k in zip(y.tolist(), order, strict=True)},
    )
    return Figure(
        f"Rows of {name}, inflated and generated back",
        joined(details, f"{melt.trajectory.count:,} rows", which),
        [panel],
        size=(5.0, 0.21 * len(order) + 0.3),
    )


def column_errors(melt: SavedTable, back: SavedTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the root-mean-square and the largest roundtrip error of each column, ``[D]``.

    Errors are in standard deviations of the column, or in its own units if it is constant. Rows
    that are not finite are left out.
    """
    error = np.abs(back.points - melt.points)
    error = error[~np.isnan(error).any(axis=1)]
    std = _root_mean_square(melt.rows - melt.rows.mean(axis=0))
    with np.errstate(over="ignore"):
        error = np.minimum(error / np.where(std > 0, std, 1), LARGEST)
    return _root_mean_square(error), error.max(axis=0)


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    """Return the root mean square of columns ``[n, D]``, safe against overflow and underflow."""
    largest = np.abs(values).max(axis=0)
    parts = values / np.where(largest > 0, largest, 1)
    return np.asarray(largest * np.sqrt(np.square(parts).mean(axis=0)))
