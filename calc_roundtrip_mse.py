"""Melts images of a data set, generates them back, and measures how well they come back."""

import time

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.files.roundtrip import roundtrip_paths, save_errors, save_worst
from training.measure.roundtrip import RoundtripErrors
from training.settings.calc_roundtrip_mse import Settings
from training.settings.declared import takes
from training.settings.script import command, run_script
from training.simulation.images import ImageFlow
from training.simulation.roundtrips import measure_roundtrips


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    began = time.perf_counter()
    network, folder = settings.network, settings.save_dir
    image_flow = ImageFlow.open(network.chosen(), network.data_name)
    choice = settings.chosen_times(image_flow.file.t_max, image_flow.file.name)
    choice.even(image_flow.model.denoiser.schedule)
    paths = roundtrip_paths(folder, image_flow.stem, settings.seed)
    require_new(list(paths), settings.run.overwrite)
    dataset = image_flow.dataset(settings.data_root, settings.total_samples, settings.seed)
    solver = settings.solver.chosen()
    with process_group(settings.run.device_name) as device:
        require_folder(folder)
        flow = image_flow.on(device, network.batch_gpu)
        times = image_flow.times(flow, solver, choice)
        with_labels = image_flow.label_dim > 0
        found = measure_roundtrips(
            flow, times, solver, dataset, with_labels, settings.bs, settings.keep_worst
        )
        if not distributed.is_main():
            return
        options = settings.recorded(
            **image_flow.known,
            end_time=choice.end,
            n_iters=len(times) - 1,
            device_name=str(device),
        )
        save_worst(paths[1], found.errors, found.worst, image_flow.image_shape)
        about = {
            "images": len(dataset),
            "image_shape": list(image_flow.image_shape),
            "worst": paths[1].name,
            "denoiser_calls": found.calls,
            "seconds": time.perf_counter() - began,
            "options": options,
            **provenance(),
        }
        save_errors(paths[0], found.errors, about)
        for path in paths:
            logger.info(f"Wrote {path}")
        report(found.errors, len(dataset))


def report(errors: RoundtripErrors, count: int) -> None:
    found = errors.summary()
    logger.info(
        f"Roundtrip of {count} images: mean squared error {found['mse']:.6g} squared gray levels "
        f"after rounding to 8 bits, {found['mse_float']:.6g} before; largest error "
        f"{found['max_abs_error']:.4g} gray levels; {found['exact_pixels']:.4%} of the pixels exact"
    )


if __name__ == "__main__":
    run_script(main)
