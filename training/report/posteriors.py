"""Section of posteriors: draws over prior draws, and a summary of each coordinate."""

from pathlib import Path
from typing import Any

from dnnlib.numbers import beside
from training.files.arrays import evenly, number, parameter
from training.files.posterior_draws import SavedPosteriors, load_netcdf
from training.pictures.content import Choice, Images, NumberTable, Result, Sheet, affordable
from training.pictures.images.grids import gray_levels
from training.pictures.posteriors.tables import (
    informative_columns,
    observed_cells,
    spread_cells,
    truth_cells,
)
from training.pictures.posteriors.words import MOST_SHOWN, name_and_details, part_of, value_words
from training.pictures.theme import BLUE, MUTED, brief, joined
from training.report import charts
from training.report.content import Key, Picker, Section, Views

READING = "Gray points are prior draws, blue points posterior draws."
MOST_POINTS = 1500
MOST_COLUMNS = 12
MOST_DRAWS = 32
"""Largest number of draws of a posterior of images."""


def section_of(path: Path, choice: Choice) -> Section:
    """Return the report section about a file of posterior draws.

    Raises:
        DataError: The file is broken.
    """
    saved = load_netcdf(path, MOST_SHOWN)
    name, details = name_and_details(saved)
    numbers = path.with_suffix(".json")
    of = joined(name, details)
    parts: list[object] = [_images(saved)] if saved.image_shape is not None else []
    if saved.image_shape is None and len(saved.names) > 1:
        parts.append(_views(saved, min(MOST_POINTS, choice.points)))
    parts += [*_summary(saved, parameter(numbers, "posteriors"))]
    title = f"Posterior of {name}"
    results = _results(of, numbers)
    return Section(title, READING, "docs/howto/likelihoods.md", str(path.parent), parts, results)


def _results(of: str, numbers: Path) -> list[Result]:
    """Return the convergence of the chains, judged by the sampler's own rule.

    Args:
        of: Name of the data, and how the draws were made.
        numbers: JSON file next to the draws.
    """
    count, converged = parameter(numbers, "observations"), parameter(numbers, "converged")
    if not (isinstance(count, int) and isinstance(converged, int)):
        return []
    words = [f"{converged} of {count}"]
    largest = parameter(numbers, "r_hat", "largest")
    if isinstance(largest, float):
        words.append(f"R-hat at most {largest:.3f}")
    smallest = parameter(numbers, "ess_bulk", "smallest")
    if isinstance(smallest, float):
        words.append(f"effective sample size at least {smallest:,.0f}")
    target = "all, by the criteria of the sampler"
    return [Result(of, "posteriors converged", ", ".join(words), target, converged == count)]


def _views(saved: SavedPosteriors, most: int) -> Views:
    """Return a chart of two coordinates against each other, prior and one posterior."""
    chosen = informative_columns(saved, MOST_COLUMNS)
    names = [saved.names[column] for column in chosen]
    groups = saved.points.shape[2]
    drawn = saved.points.transpose(2, 0, 1, 3).reshape(groups, -1, len(saved.names))
    kinds = [("posterior draws", drawn, BLUE, 0.5)]
    if saved.prior is not None:  # the same for all observations
        kinds.insert(0, ("prior draws", saved.prior[None], MUTED, 0.4))
    clouds = []
    for label, values, color, alpha in kinds:
        rows = values[:, evenly(values.shape[1], most)][:, :, chosen]
        clouds.append((Key(f"{label}, {rows.shape[1]:,}", color, "dot"), rows, alpha))
    seen = [""] * groups
    if saved.observed is not None:
        seen = [f": {value_words(values)}" for values in saved.observed[:groups]]
    picker = Picker("observation", [f"{k + 1}{words}" for k, words in enumerate(seen)])
    words = ("Draws", "Posterior draws over prior draws.", part_of(saved, groups))
    return charts.views(clouds, names, picker, *words)


def _summary(saved: SavedPosteriors, listed: Any) -> list[NumberTable]:
    """Return means, intervals and diagnostics of the first observations, as in their JSON file."""
    if saved.image_shape is not None or not isinstance(listed, list):
        return []
    chosen = informative_columns(saved, MOST_COLUMNS)
    rows = []
    for index, posterior in enumerate(listed[: saved.points.shape[2]]):
        quantiles = posterior.get("quantiles") if isinstance(posterior, dict) else None
        if not isinstance(quantiles, dict):
            return []
        for column in chosen:
            name = saved.names[column]
            spread = number(posterior.get("std"), name) or 0.0
            cells = [
                _cell(posterior.get("mean"), name, spread=spread),
                _cell(posterior.get("std"), name),
            ]
            ends = [_cell(quantiles.get(level), name, spread=spread) for level in ("0.05", "0.95")]
            diagnostics = [
                _cell(posterior.get("ess_bulk"), name, "{:,.0f}"),
                _cell(posterior.get("r_hat"), name),
            ]
            row = [str(index + 1), name, *cells, " to ".join(ends)]
            rows.append([*row, *_held_out(posterior, name, spread), *diagnostics])
    head = ["observation", "of", "mean", "std", "90 % interval"]
    head += ["as held out", "calibration cases as extreme"] * (len(rows[0]) > 7 if rows else 0)
    head += ["effective draws", "R-hat"]
    return (
        [NumberTable("Summary", head, rows, part_of(saved, saved.points.shape[2]))] if rows else []
    )


def _held_out(posterior: dict[str, Any], name: str, spread: float) -> list[str]:
    """Return the conformal 90 % interval and the observation's p-value.

    The result is empty if the network was not calibrated.
    """
    held = posterior.get("held_out")
    if not isinstance(held, dict):
        return []
    interval: Any = held.get("held_out")
    for key in ("0.9", name):
        interval = interval.get(key) if isinstance(interval, dict) else None
    ends = dict(enumerate(interval)) if isinstance(interval, list) else {}
    odd = _cell(held, "p_value", "{:.2%}")
    return [" to ".join(_cell(ends, end, spread=spread) for end in (0, 1)), odd]


def _cell(values: Any, name: str | int, form: str = "{:.4g}", spread: float | None = None) -> str:
    """Format a number in this form, or to the digits that its spread justifies."""
    value = number(values, name)
    if value is None:
        return "–"
    text = form.format(value) if spread is None else beside(value, spread)
    return text.replace("-", "−")


def _images(saved: SavedPosteriors) -> Images:
    """Return posteriors of images: observation, mean, standard deviation, and single draws."""
    shape, count = saved.image_shape, saved.points.shape[2]
    assert shape is not None
    draws = saved.points.reshape(-1, count, *shape)
    some = evenly(len(draws), MOST_DRAWS)
    count = affordable(count, shape, len(some) + 5)
    std = draws.std(axis=0).mean(axis=1)[:count]
    reach = max(float(std.max()), 1.0)
    seen = observed_cells(saved)
    sheets: list[Sheet] = []
    if saved.truth is not None:
        sheets.append(Sheet.of_cells(gray_levels(saved.truth[:count].reshape(-1, *shape)), "truth"))
    if seen is not None:
        sheets.append(Sheet.of_cells(seen[:count], "observed", "tinted: unobserved"))
    sheets.append(Sheet.of_cells(gray_levels(draws.mean(axis=0)[:count]), "mean"))
    spread = spread_cells(std, reach)
    sheets.append(Sheet.of_cells(spread, "std", f"0 to {brief(reach)} gray levels"))
    if saved.truth is not None:
        among = truth_cells(draws[:, :count], saved.truth[:count].reshape(-1, *shape))
        sheets.append(
            Sheet.of_cells(among, "true value among draws", "blue: below them, orange: above")
        )
    drawn = [
        Sheet.of_cells(gray_levels(draws[place, :count]), f"draw {number + 1} of {len(some)}")
        for number, place in enumerate(some)
    ]
    return Images(
        "Observations and their posteriors",
        [f"observation {number + 1}" for number in range(count)],
        sheets,
        0,
        (shape[1], shape[2]),
        part_of(saved, count),
        draws=drawn,
    )
