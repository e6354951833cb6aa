"""A run: step after step, reports, snapshots, and an end in good order; in a folder of its own, or
going on in that of a state."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from training.data.batches import BatchSource
from training.learning.budget import TimeBudget
from training.learning.calibrating import CalibrationPlan, calibrate
from training.learning.courses import find_courses
from training.learning.held_out import Score, Watch
from training.learning.melting import LawPlan, calls_to_learn, learn_latent_law
from training.learning.report import Parts, Reporter
from training.learning.run_folder import Place, Resumed, RunFolder
from training.learning.stopping import StoppedBySignal, StopRequest
from training.learning.trainer import Trainer
from training.model.model import Model

STILL = 0.97
"""Part of a training after which it may have been too short, if it has been best there."""
FAR_HELD_OUT = (
    "Warning: the loss on what was held out is {:.3g}, where that of a Gaussian law of such data "
    "is about 1: what was held out varies where what was trained on hardly does; give more data, "
    "or data in fewer dimensions"
)
Progress = Callable[[float], object]
"""Called with the part of a training that is done, from 0 to 1."""


@dataclass(frozen=True)
class Ending:
    """What a trained model gets, once it is saved.

    Attributes:
        calibration: How to calibrate it; None for not at all.
        law: How to learn the law of its latents then; None for not at all.
        closing: What is measured of it at last, or None.
    """

    calibration: CalibrationPlan | None = None
    law: LawPlan | None = None
    closing: Callable[[Model], None] | None = None

    def calls(self, model: Model) -> float:
        """Network calls of a point that it takes."""
        of_law = calls_to_learn(model, self.law) if self.law else 0.0
        return of_law + (self.calibration.calls if self.calibration else 0.0)

    def __bool__(self) -> bool:
        return any((self.calibration, self.law, self.closing))

    def __call__(self, model: Model) -> None:
        if self.calibration:
            calibrate(model, self.calibration)
        if self.law:
            learn_latent_law(model, self.law)
            find_courses(model, self.law)
        if self.closing:
            self.closing(model)


NOTHING = Ending()


def train(
    trainer: Trainer,
    source: BatchSource,
    folder: RunFolder,
    ending: Ending = NOTHING,
    watch: Watch | None = None,
    progress: Progress | None = None,
    budget: TimeBudget | None = None,
) -> Path:
    """Trains to the end of the configuration, or to a signal, and saves where it stops.

    Args:
        trainer: What is trained.
        source: Where batches come from.
        folder: Where to save.
        ending: Of the averaged model when the training is done and saved; the network is then
            saved once more. What goes wrong in it, Ctrl-C included, costs nothing of the training,
            and a run that is resumed at its end does it again.
        watch: Looks at what is held out of the training: reports it, may end the training early,
            and may choose the weights that it ends with.
        progress: Called with the part of the training that is done, a few times a second.
        budget: The time that was planned, if any: warns if the training will exceed it.

    Returns:
        The last network file.

    Raises:
        TrainingError: After a run of steps with non-finite losses or gradients.
        StoppedBySignal: SIGINT or SIGTERM came; network and state were saved.
    """
    config = trainer.config
    follows = ending.calls(trainer.averaged)
    reporter = Reporter(folder, trainer.device, trainer.seen, config.total, follows)
    parts = Parts(progress, config.total, follows)
    batches = source.batches(trainer.step)
    try:
        with reporter:
            if watch and watch.looks_first and not trainer.step:
                watch.look(trainer.averaged, 0)
            with StopRequest() as stop:
                while trainer.step < config.total_steps and not (watch and watch.exhausted):
                    with reporter.waiting_for_data():
                        batch = next(batches)
                    trainer.train_step(batch, reporter.means)
                    reporter.advance(config.batch)
                    if budget:
                        budget.check(trainer.step, config.total_steps, time.monotonic())
                    signal = stop.agreed(trainer.device)
                    done = trainer.step >= config.total_steps
                    ends = signal is not None or done
                    reported = _report_and_save(trainer, folder, reporter, watch, ends)
                    parts.tell(trainer.seen, reported)
                    if signal is not None and not done:
                        raise StoppedBySignal(signal, folder.state_path(trainer.seen))
            parts.tell(config.total, due=True)  # also where it ended early
            _end(trainer, folder, ending, watch)
            parts.end()
            return folder.network_path(trainer.seen)
    finally:
        del batches  # a traceback that is kept would keep the processes that read alive


def _end(trainer: Trainer, folder: RunFolder, ending: Ending, watch: Watch | None) -> None:
    """Saves the best weights, if they are chosen, and what they get."""
    best = watch.put_best(trainer.averaged) if watch else None
    if watch and best:
        logger.info(_choice(watch, best, trainer))
        folder.save_network(trainer.averaged, trainer.seen)
    if watch and watch.is_far:
        logger.warning(FAR_HELD_OUT.format(watch.best[""].score.loss))
    if ending:
        ending(trainer.averaged)
        folder.save_network(trainer.averaged, trainer.seen)


def _report_and_save(
    trainer: Trainer, folder: RunFolder, reporter: Reporter, watch: Watch | None, ends: bool
) -> bool:
    """What is due after a step: a report at each tick, files at some of them and at the end.
    Returns whether there was a report."""
    config = trainer.config
    tick = trainer.seen // config.tick
    if not ends and tick == (trainer.seen - config.batch) // config.tick:
        return False
    score = watch.look(trainer.averaged, trainer.seen) if watch else None
    reporter.tick(trainer.seen, config.learning_rate(trainer.seen), trainer.skipped, score)
    ends = ends or (watch is not None and watch.exhausted)
    if ends or _due(tick, config.snapshot_ticks):
        folder.save_network(trainer.averaged, trainer.seen)
    if ends or _due(tick, config.state_ticks):
        state = {**trainer.state(), **(watch.state() if watch else {})}
        folder.save_state(state, trainer.seen, config.keep_states)
    return True


def _choice(watch: Watch, best: Score, trainer: Trainer) -> str:
    early = trainer.step < trainer.config.total_steps
    nats = "" if best.nats is None else f", {best.nats:.3f} nats"
    after = " and ".join(
        f"{part.seen / 1000:g}" + f" ({name})" * bool(name) for name, part in watch.best.items()
    )
    gains = not early and watch.seen >= STILL * trainer.config.total
    more = ". It still gained at the end: a longer training (--duration, --minutes) may do better"
    return (
        (f"No better score in {watch.patience} reports: stopping; the" if early else "The")
        + f" network has the weights of {after} thousand samples, which did best on what was held "
        f"out: loss {best.loss:.5f}{nats}{more * gains}"
    )


def _due(tick: int, every: int | None) -> bool:
    return every is not None and tick % every == 0


def run_training(
    trainer: Trainer,
    source: BatchSource,
    place: Place,
    record: Mapping[str, Any],
    resumed: Resumed | None,
    ending: Ending = NOTHING,
    watch: Watch | None = None,
    progress: Progress | None = None,
    budget: TimeBudget | None = None,
) -> Path:
    """Trains in a new folder, or goes on in the folder of a state; else as ``train``.

    Args:
        trainer: At its start; takes up the state here.
        place: Where a new run is to be.
        record: What ``training_options.json`` is to say from now on; of a run that is resumed, it
            differs from what it said by the length of the training alone.
        resumed: The state to go on from, or None.
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
    return train(trainer, source, folder, ending, watch, progress, budget)


def _go_on(trainer: Trainer, state: Path, record: Mapping[str, Any]) -> RunFolder:
    """Opens the folder of a state that a trainer has taken up. Raises UsageError if the training is
    to be shorter than it has been already."""
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
