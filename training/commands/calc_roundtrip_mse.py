"""Errors of roundtrips: what ``calc_roundtrip_mse.py`` runs."""

import time

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance
from training.commands.shared import by_student, image_times, opened, solver_of
from training.options.simulations import PUBLISHED_SAMPLES, RoundtripSettings
from training.runs.story import measure_returns


def run(settings: RoundtripSettings) -> None:
    began = time.perf_counter()
    subject, file = opened(settings.network, settings)
    choice = image_times(settings.times, file.t_max, file.name, settings.store_grid)
    choice.even(subject.flow.schedule)
    solver = solver_of(settings.solver)
    choice = by_student(choice, settings.times, solver, subject.flow)
    returns = subject.returns(settings.save_dir, settings.seed, settings.keep_worst)
    require_new(returns.paths, settings.run.overwrite)
    count = subject.counted(settings.total_samples, PUBLISHED_SAMPLES, settings.data_root)
    source = subject.source(settings.data_root, count, settings.seed)
    with distributed.process_group(settings.run.device_name) as device:
        require_folder(settings.save_dir)
        flow = subject.on(device, settings.network.batch_gpu)
        times = choice.of(subject, flow, solver)
        calls = measure_returns(flow, times, solver, source, returns, settings.bs)
        if not distributed.is_main():
            return
        options = settings.recorded(
            **subject.known,
            total_samples=len(source),
            end_time=choice.end,
            n_iters=len(times) - 1,
            device_name=str(device),
        )
        about = {
            "denoiser_calls": calls,
            "seconds": time.perf_counter() - began,
            "options": options,
            **provenance(),
        }
        returns.save(about)
        for path in returns.paths:
            logger.info(f"Wrote {path}")
        logger.info(returns.line())
