"""Intervals of queried numbers: those of the flow, or conformally calibrated ones."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.records.records import CATEGORY, Records
from training.measure.conformal import asked, fewest
from training.subjects.held_cells import FARTHEST
from training.subjects.records import RecordFlow

MOST_HELD_OUT = 2000
"""Largest number of held-out cells of a column for calibrating its intervals."""


@dataclass(frozen=True)
class Interval:
    """Central prediction intervals with a nominal coverage.

    Without calibration, the flow's own quantiles are used. With conformal calibration, the
    intervals have the nominal coverage for any flow. The calibration set consists of the cells that
    the training held out (``CalibrationScores``), or of held-out rows with the same query. The
    score of a cell is ``RecordFlow.contents``.

    Attributes:
        share: Nominal coverage of the intervals.
        held_out: Records whose held-out rows calibrate the intervals. True for calibration by the
            scores in the network file; False for no calibration.
        seed: Random seed of the cells that are masked in these rows.
    """

    share: float
    held_out: Records | bool = True
    seed: int = 0

    @property
    def said(self) -> str:
        """Nominal coverage of the intervals, in words."""
        return f"{100 * self.share:.6g}%"

    def answers_of(self, flow: RecordFlow) -> RecordFlow:
        """Return the flow for these intervals; its range is wider if rows calibrate them.

        Raises:
            DataError: The calibration rows have other columns, or may have trained the network.
        """
        if isinstance(self.held_out, bool):
            return flow
        require_of_training(flow, self.held_out)
        return replace(flow, within=False)

    def levels(self, flow: RecordFlow, known: np.ndarray, place: int) -> np.ndarray:
        """Return levels ``[n, 3]`` of the lower end, the median, and the upper end of a column.

        Args:
            flow: Flow of records.
            known: Cells ``[n, P]`` known in the queries. Held-out rows are masked with the same
                patterns, in the same proportions.
            place: Index of the column.

        Raises:
            DataError: Too few cells of the column are held out.
        """
        level, held_out = np.full(len(known), self.share), self.held_out
        if flow.empty.columns[place].type == CATEGORY:
            pass
        elif isinstance(held_out, Records):
            level[:] = self._held(flow, held_out, known, place)
        elif held_out and flow.held is not None:
            level = flow.held.content(place, self.share, known)
            if 0 < flow.held.counts[place] < (needed := fewest(self.share)):
                logger.warning(
                    f"Warning: only {flow.held.counts[place]} validation cells of "
                    f"'{flow.empty.names[place]}' "
                    f"exist: calibrated intervals of {self.said} need at least {needed}, "
                    "so these may cover less"
                )
        return np.stack([(1 - level) / 2, np.full(len(known), 0.5), (1 + level) / 2], axis=1)

    def _held(self, flow: RecordFlow, held_out: Records, known: np.ndarray, place: int) -> float:
        values = held_out.at(held_out.held_out).values
        values = values[~np.isnan(values[:, place])][:MOST_HELD_OUT]
        name, needed = flow.empty.names[place], fewest(self.share)
        if len(values) < needed:
            raise DataError(
                f"{len(values)} cells of '{name}' are held out: calibrated intervals of "
                f"{self.said} need at least {needed}"
            )
        generator = seeded_generator("cpu", self.seed, Stream.HELD_OUT)
        which = torch.randint(len(known), (len(values),), generator=generator).numpy()
        scores = torch.from_numpy(flow.contents(values, known[which], place))
        level = float(asked(scores, self.share))
        if level > FARTHEST:
            logger.warning(
                f"Warning: validation cells of '{name}' lie beyond the widest intervals "
                f"of the flow: intervals end there, and may cover less than {self.said}"
            )
            level = FARTHEST
        logger.info(
            f"Intervals of '{name}': {100 * level:.1f} % intervals of the flow cover "
            f"{self.said}, on {len(values)} validation cells"
        )
        return level


def require_of_training(flow: RecordFlow, records: Records) -> None:
    """Check that records can calibrate a network, and warn of rows that the training data contain.

    Raises:
        DataError: The records have other columns, or may have trained the network.
        UsageError: ``records`` is not a ``Records`` object.
    """
    given: object = records
    if not isinstance(given, Records):
        raise UsageError(
            f"got {type(given).__name__} for a typed table: give the rows of Records.open"
        )
    require_same_columns(flow, records)
    if not (records.held_out.all() or flow.was_trained_on(records)):
        raise DataError(
            "this is not the data set of the training, so its held-out rows may have "
            "been trained on: give the training data set, or a table of new rows"
        )
    if records.held_out.all() and (again := flow.repeated(records)):
        logger.warning(
            f"Warning: at least {again} of these {len(records)} rows are in the data set "
            "of the training, most of which was trained on: predictions for new rows may "
            "be worse"
        )


def require_same_columns(flow: RecordFlow, records: Records) -> None:
    """Check that records have the columns of a network.

    Raises:
        DataError: The columns differ.
    """
    if list(records.columns) != list(flow.empty.columns):
        raise DataError(
            "the data set has other columns, types or categories than the network, which "
            f"has {', '.join(flow.empty.names)}"
        )
