"""Section of a training run: training loss, held-out results, and learning rate."""

from pathlib import Path

import numpy as np
from bokeh.plotting import figure

from training.files.stats import SavedTraining
from training.pictures.theme import BLUE, MUTED, ORANGE
from training.pictures.training import BASELINE, FAR
from training.report import charts
from training.report.content import Chart, Charts, Choice, Key, Result, Section

READING = (
    "The loss starts near 1, the loss of the best linear denoiser, and falls as the "
    "network learns; an increasing validation loss indicates overfitting."
)


def section_of(path: Path, choice: Choice) -> Section:
    """Return the report section about the statistics of a training run.

    Raises:
        DataError: The statistics are broken.
    """
    saved = SavedTraining.load(path)
    run = path.resolve().parent.name
    drawn = [_loss(saved)]
    if saved.nats is not None:
        drawn.append(_nats(saved, saved.nats))
    drawn.append(_rate(saved))
    results = []
    if saved.held_out is not None:
        best = float(np.nanmin(saved.held_out))
        results.append(
            Result(
                run,
                "held-out loss",
                f"smallest {best:.4f}",
                ("below 1, the loss of the best linear denoiser; the limit depends on the data"),
                None if best < BASELINE else False,
            )
        )
    page = "docs/tutorials/table.md" if saved.nats is not None else "docs/reference/files.md"
    return Section(f"Training of {run}", READING, page, str(path.parent), [Charts(drawn)], results)


def _loss(saved: SavedTraining) -> Chart:
    plot = charts.plot("million samples", "loss", y_range=_limits(saved))
    plot.line(saved.samples, charts.float32(saved.loss), color=BLUE, line_width=1.6)
    charts.level(plot, BASELINE)
    keys = [Key("training", BLUE), Key("best linear denoiser", MUTED, "dashed")]
    last = saved.loss[np.isfinite(saved.loss)][-1]
    alt = f"Loss over {saved.samples[-1]:.3g} million samples, {last:.4f} at the end."
    if saved.held_out is not None:
        _held_out(plot, saved, saved.held_out)
        keys.insert(1, Key("validation, averaged weights", ORANGE))
    return Chart(plot, "Loss", alt, keys)


def _limits(saved: SavedTraining) -> tuple[float, float]:
    """Return limits for the loss axis that cut off early losses far above the rest."""
    known = [saved.loss] if saved.held_out is None else [saved.loss, saved.held_out]
    low = min(BASELINE, *(float(np.nanmin(each)) for each in known))
    high = max(BASELINE, *(float(np.nanquantile(each, 0.99)) for each in known))
    room = 0.08 * max(high - low, 0.01)
    return low - room, high + room


def _nats(saved: SavedTraining, nats: np.ndarray) -> Chart:
    best = float(np.nanmax(nats))
    room = max(best - float(np.nanmedian(nats)), 0.01)
    low = max(float(np.nanmin(nats)), best - FAR * room)
    ends = (low - 0.2 * room, best + 0.4 * room)
    plot = charts.plot("million samples", "nats", y_range=ends)
    _held_out(plot, saved, nats)
    alt = f"Estimated mean log density of validation rows, at best {best:.4g} nats."
    return Chart(plot, "Validation log density", alt, [Key("held out", ORANGE)])


def _rate(saved: SavedTraining) -> Chart:
    plot = charts.plot("million samples", "learning rate")
    charts.few_digits(plot.yaxis)
    plot.line(saved.samples, charts.float32(saved.learning_rate), color=MUTED, line_width=1.6)
    alt = f"Learning rate, at most {np.nanmax(saved.learning_rate):.2g}."
    return Chart(plot, "Learning rate", alt)


def _held_out(plot: figure, saved: SavedTraining, values: np.ndarray) -> None:
    there = np.isfinite(values)
    plot.line(saved.samples[there], charts.float32(values[there]), color=ORANGE, line_width=1.6)
    best = saved.best
    if best is not None and there[best]:
        plot.scatter([saved.samples[best]], [values[best]], size=8, color=ORANGE)
