"""Errors of roundtrips: what ``calc_roundtrip_mse.py`` runs."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance, save_json
from training.data.images.dataset import ImageDataset
from training.files.roundtrip import ROWS_FORMAT, roundtrip_paths, save_errors, save_worst
from training.measure.roundtrip import RoundtripErrors
from training.options.calc_roundtrip_mse import PUBLISHED_SAMPLES, Settings
from training.runs.images import ImageFlow
from training.runs.networks import NetworkFile
from training.runs.roundtrips import (
    Roundtrips,
    RowReturns,
    measure_roundtrips,
    measure_row_returns,
)
from training.runs.subjects import Subject, subject_of
from training.runs.tables import TableFlow


def run(settings: Settings) -> None:
    began = time.perf_counter()
    choice = settings.network.chosen()
    file = NetworkFile.open(choice)
    if file.is_table:
        settings.require_table()
    subject = subject_of(file, choice, settings.network.data_name)
    times_choice = settings.chosen_times(file.t_max, file.name)
    times_choice.even(subject.model.denoiser.schedule)
    solver = settings.solver.chosen()
    paths: Sequence[Path] = roundtrip_paths(settings.save_dir, subject.stem, settings.seed)
    if isinstance(subject, TableFlow):
        paths = paths[:1]
    require_new(list(paths), settings.run.overwrite)
    data = subject_data(settings, subject)
    with process_group(settings.run.device_name) as device:
        require_folder(settings.save_dir)
        flow = subject.on(device, settings.network.batch_gpu)
        times = subject.times(flow, solver, times_choice)
        found: Roundtrips | RowReturns
        if isinstance(data, ImageDataset):
            classes = data.has_labels
            found = measure_roundtrips(
                flow, times, solver, data, classes, settings.bs, settings.keep_worst
            )
        else:
            found = measure_row_returns(flow, times, solver, data, settings.bs)
        if not distributed.is_main():
            return
        options = settings.recorded(
            **subject.known,
            total_samples=len(data),
            end_time=times_choice.end,
            n_iters=len(times) - 1,
            device_name=str(device),
        )
        about = {
            "denoiser_calls": found.calls,
            "seconds": time.perf_counter() - began,
            "options": options,
            **provenance(),
        }
        save(paths, subject, found, about)


def subject_data(settings: Settings, subject: Subject) -> ImageDataset | Tensor:
    """The images to melt, or the rows ``[N, D]``, discrete columns dithered."""
    if isinstance(subject, ImageFlow):
        count = settings.total_samples or PUBLISHED_SAMPLES
        return subject.dataset(settings.data_root, count, settings.seed)
    rows = subject.rows(settings.data_root, settings.total_samples, settings.seed)
    return subject.dithered(rows[0], settings.seed)


def save(
    paths: Sequence[Path],
    subject: Subject,
    found: Roundtrips | RowReturns,
    about: dict[str, Any],
) -> None:
    """Writes the results, and tells the most important numbers."""
    if isinstance(found, Roundtrips):
        assert isinstance(subject, ImageFlow)
        save_worst(paths[1], found.errors, found.worst, subject.image_shape)
        count = len(found.errors.mse)
        shape = list(subject.image_shape)
        about = {"images": count, "image_shape": shape, "worst": paths[1].name, **about}
        save_errors(paths[0], found.errors, about)
        tell = partial(report, found.errors, count)
    else:
        assert isinstance(subject, TableFlow)
        errors = found.summary(subject.columns)
        count = len(found.errors)
        save_json(paths[0], {"format": ROWS_FORMAT, "rows": count, **errors, **about})
        tell = partial(report_rows, errors, count)
    for path in paths:
        logger.info(f"Wrote {path}")
    tell()


def report_rows(errors: Mapping[str, Any], count: int) -> None:
    logger.info(
        f"Roundtrip of {count} rows: root mean square error {errors['rms_error']:.2g}, largest "
        f"{errors['max_abs_error']:.2g}, in the flow's coordinates of unit variance"
    )


def report(errors: RoundtripErrors, count: int) -> None:
    found = errors.summary()
    logger.info(
        f"Roundtrip of {count} images: mean squared error {found['mse']:.6g} squared gray levels "
        f"after rounding to 8 bits, {found['mse_float']:.6g} before; largest error "
        f"{found['max_abs_error']:.4g} gray levels; {found['exact_pixels']:.4%} of the pixels exact"
    )
