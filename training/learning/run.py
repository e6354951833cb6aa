"""A run: in a folder of its own, or going on in that of a state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from training.data.batches import BatchSource
from training.learning.calibrating import CalibrationPlan, calibrate
from training.learning.courses import find_courses
from training.learning.loop import Progress, train
from training.learning.melting import LawPlan, learn_latent_law
from training.learning.resuming import Resumed
from training.learning.run_folder import Place, RunFolder
from training.learning.selection import Watch
from training.learning.trainer import Trainer
from training.model.model import Model


def run_training(
    trainer: Trainer,
    source: BatchSource,
    place: Place,
    record: Mapping[str, Any],
    resumed: Resumed | None,
    calibration: CalibrationPlan | None = None,
    law: LawPlan | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Path:
    """Trains in a new folder, or goes on in the folder of a state.

    Args:
        trainer: At its start; takes up the state here.
        source: Where batches come from.
        place: Where a new run is to be.
        record: What ``training_options.json`` is to say from now on; of a run that is resumed, it
            differs from what it said by the length of the training alone.
        resumed: The state to go on from, or None.
        calibration: How to calibrate the trained model; None for not at all.
        law: How to learn the law of its latents then; None for not at all.
        watch: Looks at what is held out of the training.
        progress: Called after each report with the part of the training that is done.

    Returns:
        The last network file.
    """
    if resumed:
        trainer.restore(resumed.state, str(resumed.path))
        if watch:
            watch.restore(resumed.state, trainer.averaged, str(resumed.path))
        folder = _go_on(trainer, resumed.path, record)
    else:
        folder = RunFolder.create(place, record)
        steps = trainer.config.total_steps
        logger.info(f"Training in {folder.path}: {steps:,} steps")

    def finish(model: Model) -> None:
        if calibration:
            calibrate(model, calibration)
        if law:
            learn_latent_law(model, law)
            find_courses(model, law)

    end = finish if calibration or law else None
    return train(trainer, source, folder, end, watch, progress)


def _go_on(trainer: Trainer, state: Path, record: Mapping[str, Any]) -> RunFolder:
    """Opens the folder of a state that a trainer has taken up.

    Raises:
        UsageError: The training is to be shorter than it has been already.
    """
    config = trainer.config
    if config.total_steps < trainer.step:
        raise UsageError(
            f"--duration is {config.total / 1e6:g} million samples, but {state} has seen "
            f"{trainer.seen / 1e6:g}: give more"
        )
    folder = RunFolder.reopen(state.parent, trainer.seen, config.keep_states)
    stretches = folder.update_record(record)
    logger.info(f"Going on from {state}")
    if stretches:
        stretched = ", and the learning rate from here on that of the new length"
        logger.info(
            f"The training is now one of {config.total / 1e6:g} million samples"
            + stretched * config.lr_decay
        )
    return folder
