"""A training run: steps, reports, snapshots and an orderly end.

A run starts in a new directory, or continues in the directory of a training state.
"""

import _thread
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.distributed as dist
from tqdm.contrib.logging import logging_redirect_tqdm

from dnnlib.errors import InflationError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.stats import RunningMeans, append_jsonl
from training.data.batches import BatchSource
from training.learning.cost import evaluation_seconds, slowest
from training.learning.finishing import (
    CalibrationPlan,
    LatentPlan,
    calibrate,
    calls_to_choose,
    calls_to_learn,
    find_integrations,
    learn_latents,
)
from training.learning.held_out import Score, Validation
from training.learning.run_folder import Place, Resumed, RunFolder, RunInMemory
from training.learning.trainer import Trainer
from training.trained.network import TrainedNetwork

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CLOSE, EARLY = 0.05, 0.1
"""Change of the number of steps, as a fraction, below which a training keeps its length; and the
fraction of the time before the first correction.
"""
CHECKS = 100
"""Number of checks of the time in a training of the planned length."""


@dataclass
class TimeBudget:
    """Time of a training, whose number of steps is corrected while it runs.

    Attributes:
        seconds: Seconds of all steps and reports.
        end: Time by the monotonic clock at which the fits after the training must be over; None for
            fits of any length.
    """

    seconds: float
    end: float | None = None
    _first: tuple[int, float] | None = field(default=None, init=False)

    def steps(self, done: int, total: int, elapsed: float) -> int:
        """Return the total number of steps that fit into the time.

        The planned number is returned if it nearly fits. In its second half a training only becomes
        shorter, since the learning rate would rise again.

        Args:
            done: Number of steps done.
            total: Planned number of all steps.
            elapsed: Seconds since the start of the training.
        """
        if self._first is None:  # the first steps are slower than those that follow
            self._first = done, elapsed
        before, spent = self._first
        if elapsed < EARLY * self.seconds or done == before:
            return total
        fitting = done + (self.seconds - elapsed) * (done - before) / (elapsed - spent)
        if abs(fitting - total) <= CLOSE * total or (fitting > total and 2 * done > total):
            return total
        return max(done + 1, round(fitting))


SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_WISH = 2.0
"""Seconds within which signals count as one request: a terminal's Ctrl-C reaches each rank directly
and again through torchrun.
"""
ASKING = 1.0
"""Approximate seconds between checks among ranks whether one has received a signal."""
GRACE = 5.0
"""Seconds that a process has to exit by itself when it is to stop at once."""
NO_SIGNAL = b"\0"
"""Byte that ends the listening thread."""


class StoppedBySignal(InflationError):
    """Exception of a run that a signal stopped, after the run saved its state.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int, state: Path):
        super().__init__(
            f"stopped by {signal.Signals(number).name}; continue with --resume={state}"
        )
        self.number, self.exit_code = number, 128 + number


class StopRequest:
    """Context that handles SIGINT and SIGTERM; a second signal ends the process at once.

    Python runs a signal handler only between two bytecode instructions, and a backward pass of
    minutes is one instruction. A thread therefore listens too: the thread logs the signal at once,
    and ends a process that does not exit in time.
    """

    def __init__(self) -> None:
        self._number = 0
        self._at_once = False
        self._left = threading.Event()
        self._previous: dict[int, Any] = {}
        self._asked_at = time.monotonic()
        self._pause = self._until_asked = 1

    def __enter__(self) -> "StopRequest":
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        # Closing this end alone would not end the thread: forked workers hold copies of it.
        self._mouth.send(NO_SIGNAL)
        self._thread.join()
        self._mouth.close()
        self._ear.close()

    def agreed(self, device: torch.device) -> int | None:
        """Return the signal that any rank has received, the same on all ranks; None if none has.

        All ranks must call this method after each step. Ranks communicate, and wait for their
        devices, about once a second, counted in steps of the slowest rank.
        """
        if not dist.is_initialized():
            return self._number or None
        self._until_asked -= 1
        if self._until_asked:
            return None
        now = time.monotonic()
        asked = torch.tensor([self._number, now - self._asked_at], dtype=torch.float64)
        asked = asked.to(device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        number, seconds = asked.tolist()
        paced = int(self._pause * ASKING / max(seconds, 1e-9))
        self._pause = self._until_asked = max(1, min(paced, 2 * self._pause))
        self._asked_at = now
        return int(number) or None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        if self._at_once:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)

    def _listen(self) -> None:
        """Read the numbers of signals, which arrive even while Python is not running."""
        since: float | None = None
        while (received := self._ear.recv(1)) != NO_SIGNAL:
            number, now = received[0], time.monotonic()
            if number not in SIGNALS:
                continue
            name = signal.Signals(number).name
            if since is None:
                since = now
                again = "press Ctrl-C" if number == signal.SIGINT else "send it"
                logger.info(f"{name}: stopping after this step; send {again} again to stop at once")
            elif now - since >= ONE_WISH:
                logger.info(f"{name} again: stopping at once")
                self._at_once = True
                _thread.interrupt_main(signal.Signals(number))
                if not self._left.wait(GRACE):
                    os._exit(128 + number)
                return


CALL = 0.4
"""Time of a network evaluation of a point, relative to that of a training sample: 0.38 was measured
for the U-Net on digits of 28 x 28 pixels.
"""
TIMED_POINTS = 64
"""Number of points of a timed network evaluation."""
TELL_EVERY = 0.25
"""Smallest interval between progress callbacks, in seconds."""


class Parts:
    """Progress callback for the completed fraction of a training.

    The function is called after the first step, and then a few times a second. A clock that starts
    at the first call thus excludes the setup.

    Args:
        progress: Function of the completed fraction, from 0 to 1; None to report nothing.
        total: Number of samples at the end.
        follows: Number of network evaluations after training, counted per point, which are
            converted to samples of equal duration.
    """

    def __init__(self, progress: Callable[[float], object] | None, total: int, follows: float):
        self._progress, self._follows = progress, follows
        self.change_total(total)
        self._last = -math.inf

    def change_total(self, total: int) -> None:
        """Change the number of samples at the end."""
        self._total = total + CALL * self._follows

    def tell(self, seen: int, due: bool = False) -> None:
        """Report the fraction after ``seen`` samples.

        Nothing is reported shortly after the last report, unless the report is ``due``.
        """
        now = time.monotonic()
        if self._progress and (due or now - self._last >= TELL_EVERY):
            self._last = now
            self._progress(min(1.0, seen / self._total))

    def end(self) -> None:
        """Report that the training and all work after it are done."""
        if self._progress:
            self._progress(1.0)


class Reporter:
    """Reporter of a run's statistics, which are collected between reports (ticks).

    Args:
        folder: Directory of ``stats.jsonl`` and TensorBoard events, or a run without files.
        device: Device to sum the statistics on.
        seen: Number of samples that earlier parts of the run trained on.
        total: Number of samples at the end.
    """

    def __init__(
        self, folder: RunFolder | RunInMemory, device: torch.device, seen: int, total: int
    ):
        self.means = RunningMeans(device)
        self._folder, self._device = folder, device
        self._bar = distributed.progress_bar(total=total, initial=seen, unit="img", unit_scale=True)
        self._writer: SummaryWriter | None = None
        self._began = False
        self._seen_at_tick = seen
        self._start = self._tick_start = time.monotonic()
        self._waited = 0.0
        self._process, self._peak_memory = psutil.Process(), 0
        self._stack = ExitStack()

    def __enter__(self) -> "Reporter":
        if distributed.is_main():
            if self._folder.path is not None and find_spec("tensorboard"):
                from torch.utils.tensorboard import SummaryWriter

                purge = self._seen_at_tick + 1
                self._writer = SummaryWriter(str(self._folder.path), purge_step=purge)
                self._stack.callback(self._writer.close)
            # On other ranks, redirection would reset the log level, and all ranks would log
            # everything.
            self._stack.enter_context(logging_redirect_tqdm(loggers=[logger]))
        self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Return a context whose duration counts as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def advance(self, samples: int) -> None:
        """Move the progress bar.

        Its clock starts after the first step, which is slower than later steps.
        """
        self._bar.update(samples)
        if not self._began:
            self._began, self._bar.initial = True, self._bar.n
            self._bar.unpause()

    def change_total(self, total: int) -> None:
        """Change the number of samples at the end."""
        self._bar.total = total

    def tick(self, seen: int, learning_rate: float, skipped: int, held_out: Score | None) -> None:
        """Write the statistics that were collected since the last report (tick).

        All ranks must call this method together.

        Args:
            seen: Number of samples so far.
            learning_rate: Learning rate of the next step.
            skipped: Number of steps without a finite gradient so far.
            held_out: Score on held-out data, if there is one.
        """
        now = time.monotonic()
        # psutil does not report a peak on every system, so use the largest value of all ticks.
        self._peak_memory = max(self._peak_memory, self._process.memory_info().rss)
        seconds, samples = now - self._tick_start, seen - self._seen_at_tick
        stats = {name: value["mean"] for name, value in self.means.collect().items()}
        stats |= {
            "Progress/learning_rate": learning_rate,
            "Progress/skipped_steps": float(skipped),
            "Timing/seconds": now - self._start,
            "Timing/seconds_per_kimg": seconds / max(samples, 1) * 1000,
            "Timing/waiting_for_data": self._waited / max(seconds, 1e-9),
            "Resources/peak_memory_gib": self._peak_memory / 2**30,
        }
        told = ""
        if held_out is not None:
            told = f"validation {held_out.loss:<8.5f} "
            stats["Loss/held_out"] = held_out.loss
            stats |= {f"Loss/held_out_{name}": loss for name, loss in held_out.parts.items()}
            if held_out.nats is not None:
                stats["Likelihood/held_out_nats"] = held_out.nats
                told += f"({held_out.nats:.3f} nats) "
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            stats["Resources/peak_gpu_memory_gib"] = peak / 2**30
        self._tick_start, self._seen_at_tick, self._waited = now, seen, 0.0
        if not distributed.is_main():
            return
        if self._writer is not None:
            for name, value in stats.items():
                self._writer.add_scalar(name, value, global_step=seen)
            self._writer.flush()
        if self._folder.path is not None:
            append_jsonl(self._folder.path / "stats.jsonl", {"seen": seen, **stats})
        logger.info(
            f"kimg {seen / 1000:<9.1f} loss {stats.get('Loss/loss', float('nan')):<8.5f} "
            f"{told}lr {learning_rate:<9.2e} sec {stats['Timing/seconds']:<8.1f} "
            f"sec/kimg {stats['Timing/seconds_per_kimg']:<9.4f} "
            f"mem {stats['Resources/peak_memory_gib']:.2f} GiB"
            + (f"  skipped {skipped}" if skipped else "")
        )


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
        limited: Whether the calibration and the learned distribution end at the time of a run.
    """

    calibration: CalibrationPlan | None = None
    distribution: LatentPlan | None = None
    closing: Callable[[TrainedNetwork], None] | None = None
    limited: bool = False

    def calls(self, model: TrainedNetwork) -> float:
        """Return the number of network evaluations of the planned work, counted per point."""
        plan = self.distribution
        of_latents = calls_to_learn(model, plan) + calls_to_choose(model, plan) if plan else 0.0
        return of_latents + (self.calibration.calls if self.calibration else 0.0)

    def __bool__(self) -> bool:
        return any((self.calibration, self.distribution, self.closing))

    def seconds(self, model: TrainedNetwork, step: float, batch: int) -> float:
        """Return the estimated seconds of the work.

        Args:
            model: The model, on its device.
            step: Seconds of a training step.
            batch: Number of samples of a step.
        """
        each = CALL * step / batch
        if self.limited and self.distribution:  # training may be in another precision
            few = self.distribution.points(TIMED_POINTS)
            each = slowest(evaluation_seconds(model, few), model.denoiser.basis.mean.device)
        return each * self.calls(model)

    def __call__(self, model: TrainedNetwork, until: float | None = None) -> None:
        """Calibrate a trained model, learn its latents and integration schedules, and measure it.

        Steps without a plan are omitted.

        Args:
            model: The trained model.
            until: Time by the monotonic clock at which limited work ends; None for no limit.
        """
        until = until if self.limited else None
        if self.calibration:
            calibrate(model, self.calibration, until)
        if self.distribution:
            learn_latents(model, self.distribution, until)
            find_integrations(model, self.distribution, until)
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
        budget: Time of the training, whose length is corrected; None for a fixed length.

    Raises:
        TrainingError: Too many steps in a row had non-finite losses or gradients.
        StoppedBySignal: SIGINT or SIGTERM came; network and state were saved.
    """
    follows = ending.calls(trainer.averaged)
    reporter = Reporter(folder, trainer.device, trainer.seen, trainer.recipe.samples)
    parts = Parts(progress, trainer.recipe.samples, follows)
    check_every, began = max(1, trainer.recipe.steps // CHECKS), time.monotonic()
    batches = source.batches(trainer.step)
    try:
        with reporter:
            if watch and watch.looks_first and not trainer.step:
                watch.look(trainer.averaged, 0)
            with StopRequest() as stop:
                while trainer.step < trainer.recipe.steps and not (watch and watch.exhausted):
                    with reporter.waiting_for_data():
                        batch = next(batches)
                    trainer.train_step(batch, reporter.means)
                    reporter.advance(trainer.recipe.batch)
                    if (
                        budget
                        and trainer.step % check_every == 0
                        and _correct(trainer, budget, began)
                    ):
                        folder.change_duration(trainer.recipe.duration)
                        reporter.change_total(trainer.recipe.samples)
                        parts.change_total(trainer.recipe.samples)
                    number = stop.agreed(trainer.device)
                    done = trainer.step >= trainer.recipe.steps
                    ends = number is not None or done
                    reported = _report_and_save(trainer, folder, reporter, watch, ends)
                    parts.tell(trainer.seen, reported)
                    if number is not None and not done:
                        raise StoppedBySignal(number, folder.state_path(trainer.seen))
            parts.tell(trainer.recipe.samples, due=True)  # even if training ended early
            _end(trainer, folder, ending, watch, budget.end if budget else None)
            parts.end()
    finally:
        del batches  # a stored traceback would keep the reader processes alive


def _correct(trainer: Trainer, budget: TimeBudget, began: float) -> bool:
    """Correct the length of a training to its time; return whether the length changed.

    Args:
        trainer: Trainer, whose recipe is changed.
        budget: Time of the training.
        began: Time of the start, by this rank's clock.
    """
    recipe = trainer.recipe
    elapsed = slowest(time.monotonic() - began, trainer.device)
    steps = budget.steps(trainer.step, recipe.steps, elapsed)
    if steps == recipe.steps:
        return False
    tick = max(1, round(recipe.tick_samples * steps / recipe.steps))
    logger.info(
        f"The training will have {steps:,} steps instead of {recipe.steps:,}, to end in time"
    )
    trainer.recipe = replace(recipe, duration=steps * recipe.batch / 1e6, tick=tick / 1000)
    return True


def _end(
    trainer: Trainer,
    folder: RunFolder | RunInMemory,
    ending: PostTraining,
    watch: Validation | None,
    until: float | None,
) -> None:
    """Save the best weights, if these are chosen, and do the final work on the model in time."""
    best = watch.put_best(trainer.averaged) if watch else None
    if watch and best:
        logger.info(_choice(watch, best, trainer))
        folder.save_network(trainer.averaged, trainer.seen, announced=False)
    if watch and watch.is_far:
        logger.warning(FAR_HELD_OUT.format(watch.best[""].score.loss))
    if ending:
        ending(trainer.averaged, until)
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
    recipe = trainer.recipe
    if not (ends or recipe.is_reported(trainer.seen)):
        return False
    tick = trainer.seen // recipe.tick_samples
    score = watch.look(trainer.averaged, trainer.seen) if watch else None
    reporter.tick(trainer.seen, recipe.learning_rate(trainer.seen), trainer.skipped, score)
    ends = ends or (watch is not None and watch.exhausted)
    if ends or tick % recipe.snap == 0:
        # The last network is written again with what is fitted after the training.
        folder.save_network(trainer.averaged, trainer.seen, announced=not ends)
    if ends or tick % recipe.dump == 0:
        state = {**trainer.state(), **(watch.state() if watch else {})}
        folder.save_state(state, trainer.seen)
    return True


def _choice(watch: Validation, best: Score, trainer: Trainer) -> str:
    early = trainer.step < trainer.recipe.steps
    nats = "" if best.nats is None else f", {best.nats:.3f} nats"
    after = " and ".join(
        f"{part.seen / 1000:g}" + f" ({name})" * bool(name) for name, part in watch.best.items()
    )
    gains = not early and watch.seen >= STILL * trainer.recipe.samples
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
        budget: Time of the training, as in ``train``.
    """
    if resumed:
        trainer.restore(resumed.state, str(resumed.path))
        if watch:
            watch.restore(resumed.state, trainer.averaged, str(resumed.path))
        folder = _go_on(trainer, resumed.path, record)
    else:
        folder = RunFolder.create(place, record)
        steps = trainer.recipe.steps
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
    logger.info(f"Training: {trainer.recipe.steps:,} steps")
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
    recipe = trainer.recipe
    if recipe.steps < trainer.step:
        raise UsageError(
            f"--duration is {recipe.duration:g} million samples, but {state} has "
            f"already trained on {trainer.seen / 1e6:g}: give a larger --duration"
        )
    folder = RunFolder.reopen(state.parent, trainer.seen)
    stretches = folder.update_record(record)
    logger.info(f"Resuming from {state}")
    if stretches:
        stretched = ", and the learning rate follows the new duration from here on"
        logger.info(
            f"The duration is now {recipe.duration:g} million samples" + stretched * recipe.lr_decay
        )
    return folder
