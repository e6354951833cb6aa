"""A run: in a folder of its own, or going on in that of a state."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dnnlib.logs import logger
from training.data.batches import BatchSource
from training.learning.calibrating import CalibrationPlan, calibrate
from training.learning.loop import train
from training.learning.resuming import Resumed
from training.learning.run_folder import RunFolder
from training.learning.trainer import Trainer


def run_training(
    trainer: Trainer,
    source: BatchSource,
    place: tuple[Path, str, bool],
    record: Mapping[str, Any],
    resumed: Resumed | None,
    calibration: CalibrationPlan | None = None,
) -> None:
    """Trains in a new folder, or goes on in the folder of a state.

    Args:
        trainer: At its start; takes up the state here.
        source: Where batches come from.
        place: ``outdir``, the run's name, and whether outdir itself is to be the folder.
        record: What ``training_options.json`` is to say.
        resumed: The state to go on from, or None.
        calibration: How to calibrate the trained model; None for not at all.
    """
    if resumed:
        trainer.restore(resumed.state, str(resumed.path))
        folder = RunFolder.reopen(resumed.path.parent, trainer.seen, trainer.config.keep_states)
        logger.info(f"Going on from {resumed.path}")
    else:
        folder = RunFolder.create(*place, record)
        logger.info(f"Training in {folder.path}")

    finish = partial(calibrate, plan=calibration) if calibration else None
    train(trainer, source, folder, finish)
