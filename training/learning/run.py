"""A training run: steps, reports, snapshots and an orderly end.

A run starts in a new directory, or continues in the directory of a training state.
"""

import signal
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
from training.learning.held_out import Score, Validation
from training.learning.integrations import find_integrations
from training.learning.latents import LatentPlan, calls_to_learn, learn_latents
from training.learning.report import Parts, Reporter
from training.learning.run_folder import Place, Resumed, RunFolder, RunInMemory
from training.learning.stopping import StoppedBySignal, StopRequest
from training.learning.trainer import Trainer
from training.model.trained_network import TrainedNetwork

STILL = 0.97
"""Fraction of a training after which a best score suggests that the training was too short."""
FAR_HELD_OUT = (
    "Warning: the validation loss is {:.3g}, where a Gaussian with the covariance of the "
    "data has about 1: validation data vary where training data hardly do; give more "
    "data, or fewer dimensions"
)
Progress = Callable[[float], object]
"""Called with the completed fraction of a training, from 0 to 1."""


@dataclass(frozen=True)
class PostTraining:
    """Work on a trained model after it is saved.

    Attributes:
        calibration: Plan for the calibration of the model; None for no calibration.
        distribution: Plan for learning the latent distribution after the calibration; None for no
            learned distribution.
        closing: Final measurement of the model; None for none.
    """

    calibration: CalibrationPlan | None = None
    distribution: LatentPlan | None = None
    closing: Callable[[TrainedNetwork], None] | None = None

    def calls(self, model: TrainedNetwork) -> float:
        """Return the number of network evaluations of the planned work, counted per point."""
        of_latents = calls_to_learn(model, self.distribution) if self.distribution else 0.0
        return of_latents + (self.calibration.calls if self.calibration else 0.0)

    def __bool__(self) -> bool:
        return any((self.calibration, self.distribution, self.closing))

    def __call__(self, model: TrainedNetwork) -> None:
        """Calibrate a trained model, learn its latents and integration schedules, and measure it.

        Steps without a plan are omitted.
        """
        if self.calibration:
            calibrate(model, self.calibration)
        if self.distribution:
            learn_latents(model, self.distribution)
            find_integrations(model, self.distribution)
        if self.closing:
            self.closing(model)


NOTHING = PostTraining()


def train(
    trainer: Trainer,
    source: BatchSource,
    folder: RunFolder | RunInMemory,
    ending: PostTraining = NOTHING,
    watch: Validation | None = None,
    progress: Progress | None = None,
    budget: TimeBudget | None = None,
) -> None:
    """Train for the configured number of samples, or until a signal, and save the result.

    Args:
        trainer: Trainer of the model.
        source: Source of batches.
        folder: Run directory.
        ending: Work on the averaged model after the training is saved; the network is then saved
            once more. If this work fails or is interrupted by Ctrl-C, the training is not lost, and
            a run that is resumed at its end repeats the work.
        watch: Validation on held-out data, which is reported, may end the training early, and may
            choose the final weights; None for no validation.
        progress: Called with the completed fraction of the training, a few times a second.
        budget: Planned time, if any; warns if the training will exceed it.

    Raises:
        TrainingError: Too many steps in a row had non-finite losses or gradients.
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
                    number = stop.agreed(trainer.device)
                    done = trainer.step >= config.total_steps
                    ends = number is not None or done
                    reported = _report_and_save(trainer, folder, reporter, watch, ends)
                    parts.tell(trainer.seen, reported)
                    if number is not None and not done:
                        raise StoppedBySignal(number, folder.state_path(trainer.seen))
            parts.tell(config.total, due=True)  # even if training ended early
            _end(trainer, folder, ending, watch)
            parts.end()
    finally:
        del batches  # a stored traceback would keep the reader processes alive


def _end(
    trainer: Trainer,
    folder: RunFolder | RunInMemory,
    ending: PostTraining,
    watch: Validation | None,
) -> None:
    """Save the best weights, if these are chosen, and do the final work on the model."""
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
    trainer: Trainer,
    folder: RunFolder | RunInMemory,
    reporter: Reporter,
    watch: Validation | None,
    ends: bool,
) -> bool:
    """Do what is due after a step: a report at each tick, and files at some ticks and at the end.

    Return whether there was a report.
    """
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


def _choice(watch: Validation, best: Score, trainer: Trainer) -> str:
    early = trainer.step < trainer.config.total_steps
    nats = "" if best.nats is None else f", {best.nats:.3f} nats"
    after = " and ".join(
        f"{part.seen / 1000:g}" + f" ({name})" * bool(name) for name, part in watch.best.items()
    )
    gains = not early and watch.seen >= STILL * trainer.config.total
    more = (
        ". The loss was still improving at the end: a longer training (--duration, "
        "--minutes) may be better"
    )
    return (
        f"No better validation score in {watch.patience} reports: stopping; the" if early else "The"
    ) + (
        f" network has the weights after {after} thousand samples, the best on the "
        f"validation set: loss {best.loss:.5f}{nats}{more * gains}"
    )


def _due(tick: int, every: int | None) -> bool:
    return every is not None and tick % every == 0


def run_training(
    trainer: Trainer,
    source: BatchSource,
    place: Place,
    record: Mapping[str, Any],
    resumed: Resumed | None,
    ending: PostTraining = NOTHING,
    watch: Validation | None = None,
    progress: Progress | None = None,
    budget: TimeBudget | None = None,
) -> Path:
    """Train a model in a new run directory, or continue an earlier run in its directory.

    Args:
        trainer: New trainer; for a resumed run, this function restores its state.
        source: Source of batches.
        place: Location of a new run directory.
        record: New content of ``training_options.json``; for a resumed run, only the length of the
            training differs from the old content.
        resumed: State to continue from, or None.
        ending: Work on the trained model, as in ``train``.
        watch: Validation on held-out data, as in ``train``.
        progress: Progress callback, as in ``train``.
        budget: Planned time, as in ``train``.
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
    train(trainer, source, folder, ending, watch, progress, budget)
    return folder.network_path(trainer.seen)


def train_in_memory(trainer: Trainer, source: BatchSource, **work: Any) -> TrainedNetwork:
    """Train a model without files, and return it on the device of the training.

    Ctrl-C ends the training early; the model then has the latest weights.

    Args:
        trainer: Trainer at its start.
        source: Source of batches.
        **work: Further arguments of ``train``.
    """
    run = RunInMemory()
    logger.info(f"Training: {trainer.config.total_steps:,} steps")
    try:
        train(trainer, source, run, **work)
    except (KeyboardInterrupt, StoppedBySignal) as error:
        if trainer.step == 0 or getattr(error, "number", signal.SIGINT) != signal.SIGINT:
            raise
        # After the last step, the saved copy is whole; the averaged model may be half calibrated.
        if run.model is None or run.model.about["seen"] != trainer.seen:
            run.save_network(trainer.averaged, trainer.seen)
        logger.warning(f"Warning: interrupted: the model was trained on {trainer.seen:,} samples")
    assert run.model is not None
    return run.model.frozen()


def _go_on(trainer: Trainer, state: Path, record: Mapping[str, Any]) -> RunFolder:
    """Open the run directory of a state that a trainer has restored.

    Raises:
        UsageError: The training is to be shorter than it has been already.
    """
    config = trainer.config
    if config.total_steps < trainer.step:
        raise UsageError(
            f"--duration is {config.total / 1e6:g} million samples, but {state} has "
            f"already trained on {trainer.seen / 1e6:g}: give a larger --duration"
        )
    folder = RunFolder.reopen(state.parent, trainer.seen, config.keep_states)
    stretches = folder.update_record(record)
    logger.info(f"Resuming from {state}")
    if stretches:
        stretched = ", and the learning rate follows the new duration from here on"
        logger.info(
            f"The duration is now {config.total / 1e6:g} million samples"
            + stretched * config.lr_decay
        )
    return folder
