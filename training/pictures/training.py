"""Training runs: training loss, held-out results, and learning rate."""

from functools import partial
from pathlib import Path

import numpy as np

from training.files.stats import SavedTraining
from training.pictures.content import Choice, Content, Result
from training.pictures.figure import Figure, Line, Mark, Panel, Points, Rule
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE, joined

FEW = 60  # largest number of reports that are marked each
FAR = 8.0  # distances of the median from the best, below which log densities are cut off
MANY = 200  # number of reports from which a running median is drawn over them
# The loss of a network with F = 0, since F's target has unit variance. What remains is then the
# best linear denoiser.
BASELINE = 1.0


def content_of(path: Path, choice: Choice | None) -> Content:
    """Return the content of the statistics of a training run.

    Raises:
        DataError: The statistics are broken.
    """
    saved, run = SavedTraining.load(path), path.resolve().parent.name
    return Content(
        f"Training of {run}",
        "The loss starts near 1, the loss of the best linear denoiser, and falls as the network "
        "learns; an increasing validation loss indicates overfitting.",
        "docs/tutorials/table.md" if saved.nats is not None else "docs/reference/files.md",
        {"training_curve": partial(curves, saved, run)},
        results=partial(_results, saved, run),
    )


def _results(saved: SavedTraining, run: str) -> list[Result]:
    if saved.held_out is None:
        return []
    best = float(np.nanmin(saved.held_out))
    target = "below 1, the loss of the best linear denoiser; the limit depends on the data"
    holds = None if best < BASELINE else False
    return [Result(run, "held-out loss", f"smallest {best:.4f}", target, holds)]


def curves(saved: SavedTraining, run: str) -> Figure:
    """Return losses, validation log densities if there are any, and learning rate by samples."""
    samples, best = saved.samples, saved.best
    last = saved.loss[np.isfinite(saved.loss)][-1]
    facts = [f"{samples[-1]:.3g} million samples, last loss {last:.4f}"]
    if best is not None:
        facts.append(f"best validation loss after {samples[best]:.3g} million")
    nats = [] if saved.nats is None else [_nats(saved, saved.nats)]
    rate = saved.learning_rate
    highest = float(np.nanmax(rate, initial=0.0)) or 1.0
    rate_panel = Panel(
        [Line(samples, rate, MUTED), *_marks(samples, rate, MUTED)],
        x="million samples",
        y="learning rate",
        x_limits=(0, 1.008 * samples[-1]),
        y_limits=(0, 1.15 * highest),
        y_ticks={0: "0", highest: f"{highest:.2g}"},
    )
    return Figure(
        f"Training of {run}",
        joined(*facts),
        [_loss(saved), *nats, rate_panel],
        size=(7.0, 2.6),
        heights=[2.6, *[1.4] * len(nats), 0.9],
        shared=True,
    )


def _loss(saved: SavedTraining) -> Panel:
    samples, loss = saved.samples, saved.loss
    marks: list[Mark] = [Rule(BASELINE, label="F = 0: the network adds nothing", dashed=True)]
    if len(samples) > MANY:
        smooth = running_median(loss, len(loss) // 60)
        marks.append(Line(samples, loss, BLUE, width=0.6, alpha=0.35))
        marks.append(Line(samples, smooth, BLUE, "training", width=1.8))
    else:
        marks += [Line(samples, loss, BLUE, "training", 1.6), *_marks(samples, loss, BLUE)]
    # The first reports of a run may be far above the rest, which would then be one flat line.
    ends = [BASELINE, *np.nanquantile(loss, [0.002, 0.99])]
    if saved.held_out is not None:
        marks += _held_out(saved, saved.held_out)
        ends += [*np.nanquantile(saved.held_out, [0, 0.99])]
    room = 0.08 * max(max(ends) - min(ends), 0.01)
    limits = (float(min(ends) - room), float(max(ends) + 1.6 * room))
    x_limits = (0.0, 1.008 * float(samples[-1]))
    return Panel(marks, x="million samples", y="loss", x_limits=x_limits, y_limits=limits)


def _nats(saved: SavedTraining, nats: np.ndarray) -> Panel:
    """Return mean log densities, cutting off early ones that are far below the rest."""
    highest = float(np.nanmax(nats))
    lowest = max(float(np.nanmin(nats)), highest - FAR * (highest - float(np.nanmedian(nats))))
    room = 0.1 * max(highest - lowest, 0.01)
    note = f"best {highest:.4g} nats: estimated mean log density of validation rows"
    return Panel(
        _held_out(saved, nats),
        note=note.replace("-", "−", 1) if highest < 0 else note,
        x="million samples",
        y="held-out nats",
        x_limits=(0, 1.008 * float(saved.samples[-1])),
        y_limits=(lowest - room, highest + 2 * room),
    )


def _held_out(saved: SavedTraining, values: np.ndarray) -> list[Mark]:
    """Return a curve of values ``[K]``, with a ring around that of the best report."""
    there = np.isfinite(values)
    samples, best = saved.samples, saved.best
    marks: list[Mark] = [
        Line(samples[there], values[there], ORANGE, "validation, averaged weights"),
        *_marks(samples[there], values[there], ORANGE),
    ]
    if best is None:
        return marks
    ring = Points(
        samples[[best]], values[[best]], INK, "best on the validation set", 9, hollow=True
    )
    return [Rule(float(samples[best]), vertical=True, color=FAINT), *marks, ring]


def _marks(samples: np.ndarray, values: np.ndarray, color: str) -> list[Mark]:
    return [Points(samples, values, color, size=3.5)] if len(samples) <= FEW else []


def running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the running median over ``reach`` neighbors on either side, which ignores NaN."""
    padded = np.pad(values.astype(float), reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    medians, there = np.full(len(values), np.nan), np.isfinite(values)
    medians[there] = np.nanmedian(windows[there], axis=1)
    return medians
