"""Residuals of a denoiser at many times, and how those at later times correlate with the first.

extracttoys and extract write the residuals of a network; calctoys and calc correlate them.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.files import require_folder
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import save_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.batches import normalize_pixels
from training.data.toys import TOY_NAMES
from training.files.residuals import (
    QUANTITIES,
    Extraction,
    find_first,
    require_same,
    saved_shapes,
    time_file,
    time_writer,
    told_of,
    toy_file,
    toy_writer,
)
from training.flow.denoisers import PRECISIONS, MixtureDenoiser
from training.flow.solvers import DEFAULT, SOLVERS
from training.measure.correlations import Autocorrelations, correlate
from training.measure.residuals import NOISES, ResidualProbe
from training.model.model import Model
from training.settings.integration import call_options, solver_options, time_options
from training.settings.options import (
    calibration_option,
    device_option,
    option_group,
    overwrite_option,
)
from training.settings.script import group, run_script
from training.settings.types import COUNT, FILE, POSITIVE, SEED, choice
from training.simulation.extraction import (
    describe,
    extractor,
    prepare,
    result_bytes,
    run_extraction,
    toy_times,
)
from training.simulation.images import ImageFlow
from training.simulation.integration import MAX_STEPS, even_grid
from training.simulation.residual_correlations import (
    check_shape,
    row_pairs,
    summarize,
    summary_files,
    toy_correlations,
)
from training.simulation.toys import network_toy

TOY_BLOCK = 512
"""Points of one toy network call: then a result is the same for any batch and number of ranks."""

TIMES = click.IntRange(min=2, max=MAX_STEPS)
save_dir_option = click.option(
    "--save_dir", type=FILE, required=True, help="Folder of the results."
)
network_option = click.option(
    "--network", required=True, help="Network file: a path or an https URL."
)
dims_option = click.option(
    "--dims_to_keep", type=COUNT, help="Dimensions kept  [default: the network's]"
)
noise_options = option_group(
    click.option(
        "--noise",
        type=choice(NOISES),
        default="independent",
        help="Fresh noise at each time, as published, or the points of the flow's own paths.",
    ),
    solver_options(SOLVERS, DEFAULT),
    calibration_option,
    click.option("--seed", type=SEED, default=0, help="Of the samples and the noise."),
    device_option,
    overwrite_option,
)


def checked_options(*names: str) -> Callable[[Any], Any]:
    """Options that say what is in a file of residuals already, and must not contradict it."""
    types: dict[str, Any] = {"data_name": str, "n_time_pts": TIMES}
    return option_group(
        *(
            click.option(f"--{name}", type=types.get(name, COUNT), help="[default: the file's]")
            for name in names
        ),
        device_option,
        overwrite_option,
    )


@group(help=__doc__)
def main() -> None:
    pass


@main.command()
@save_dir_option
@network_option
@click.option("--data_name", type=choice(TOY_NAMES), help="The toy  [default: the network's]")
@click.option("--data_dim", type=COUNT, help="Dimensions of the toy  [default: the network's]")
@dims_option
@click.option("--n_time_pts", type=TIMES, default=701, help="Number of times.")
@click.option("--h", type=POSITIVE, help="Time between them  [default: as far as tmax]")
@click.option("--n_samples", type=COUNT, default=10_000, help="Samples, the same at every time.")
@click.option("--bs", type=COUNT, default=4 * TOY_BLOCK, help="Samples at a time, over all ranks.")
@click.option(
    "--exact/--no_exact", default=True, help="Compare with the toy's exact denoiser as well."
)
@noise_options
def extracttoys(**options: Any) -> None:
    """Write outputs and residuals of a toy's network.

    \b
    Files: {toy}_{schedule}_toy_net_outputs_residuals.npz and .json
    """
    path = local_file(options["network"])
    model = Model.load(path, calibrated=options["calibration"])
    toy = network_toy(path, model, options)
    times = toy_times(path, model, options)
    names = QUANTITIES if options["exact"] else QUANTITIES[:2]
    count = options["n_samples"]
    extraction = describe(model, times, options)
    result = toy_file(options["save_dir"], extraction.stem)
    size = result_bytes(names, len(times) * count, toy.dim)
    parameters = result.with_suffix(".json")
    announcement = prepare([result, parameters], options, size)
    points = toy.sample(count, seeded_generator("cpu", options["seed"], Stream.DATA))
    with process_group(options["device_name"]) as device:
        model.denoiser.to(device)
        exact = None
        if options["exact"]:
            basis, schedule = model.denoiser.basis, model.denoiser.schedule
            exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule).to(device)
        probe = ResidualProbe(model.flow.in_blocks(TOY_BLOCK), times.to(device), exact)
        writer = toy_writer(result, names, count, toy.dim, extraction)
        run_extraction(
            extractor(probe, lambda rows: (points[rows.start : rows.stop], {}), options),
            writer,
            announcement,
            parameters,
            extraction.origin,
            options,
        )


@main.command()
@save_dir_option
@click.option("--data_root", type=FILE, required=True, help="Data set: a zip or folder.")
@network_option
@click.option("--data_name", help="How the results are called  [default: the network's data set]")
@click.option("--data_dim", type=COUNT, help="Numbers of an image  [default: the network's]")
@dims_option
@click.option("--n_time_pts", type=TIMES, default=256, help="Number of times.")
@click.option("--n_samples", type=COUNT, default=50_000, help="Images, the same at every time.")
@click.option("--bs", type=COUNT, default=1000, help="Images at a time, over all ranks.")
@time_options("ifs", "vp_ode")
@call_options(PRECISIONS)
@noise_options
def extract(**options: Any) -> None:
    """Write outputs and residuals of a network of images, one file a time.

    \b
    Files: {data}_{schedule}_net_outputs_residuals_time{t}.npz of each time
           {data}_{schedule}_net_outputs_residuals.json
    """
    settled = {"img_size": None, "img_ch": None, "end_vars": 1.0, **options}
    image_flow = ImageFlow.open(settled)
    options = {name: settled[name] for name in options}
    schedule, count = image_flow.model.denoiser.schedule, options["n_samples"]
    times = even_grid(schedule, options, options["end_time"])(options["n_time_pts"] - 1)
    names, dim = QUANTITIES[:2], options["data_dim"]
    extraction = describe(image_flow.model, times, options)
    folder = options["save_dir"]
    paths = [time_file(folder, extraction.stem, index) for index in range(len(times))]
    parameters = folder / f"{extraction.stem}_net_outputs_residuals.json"
    size = result_bytes(names, count, dim)
    dataset = image_flow.dataset(options["data_root"], count, options["seed"])
    announcement = prepare([*paths, parameters], options, len(times) * size)

    def read(rows: range) -> tuple[Tensor, dict[str, Tensor]]:
        if not rows:
            return torch.empty(0, dim), {}
        pixels, labels = dataset.read(rows)
        conditions = {"labels": labels} if image_flow.label_dim else {}
        return normalize_pixels(pixels).flatten(1), conditions

    with process_group(options["device_name"]) as device:
        flow = image_flow.on(device, options["batch_gpu"])
        probe = ResidualProbe(flow, times.to(device))
        writer = time_writer(paths, names, count, dim, extraction)
        job = extractor(probe, read, options)
        run_extraction(job, writer, announcement, parameters, extraction.origin, options)


@main.command()
@save_dir_option
@click.option("--res_root", type=FILE, required=True, help="The file that extracttoys wrote.")
@checked_options("data_name", "data_dim", "dims_to_keep", "n_time_pts", "n_samples")
def calctoys(**options: Any) -> None:
    """Correlate the residuals of a toy's network with those of the first time.

    \b
    Files: {toy}_{schedule}_toy_autocorrelations.npz
           {toy}_{schedule}_toy_autocorrelations_summary.npz and .json
    """
    source = options["res_root"]
    extraction = Extraction.read(source)
    shapes = saved_shapes(source, axes=3)
    steps, count, dim = check_shape(options, source, extraction, shapes["net_outputs"])
    about = told_of(extraction, source.with_suffix(".json"))
    stem = f"{extraction.stem}_toy_autocorrelations"
    result = options["save_dir"] / f"{stem}.npz"
    size = result_bytes(shapes, steps * dim, dim)
    announcement = prepare([result, *summary_files(result)], options, size)
    with process_group(options["device_name"]) as device:
        began = start_correlating(announcement, options, device)
        share = range(steps)[distributed.shard(steps)]
        table = Autocorrelations(shapes, len(share), dim)
        arrays = {"times": extraction.times}
        for name in shapes:
            matrices = torch.zeros(len(share), dim, dim, device=device)
            for index, found in toy_correlations(source, name, share, device):
                table.put(name, index - share.start, found)
                matrices[index - share.start] = found.matrix
            arrays[f"{name}_acs"] = distributed.gather_rows(matrices, steps).cpu().numpy()
        whole = table.gathered(steps, device)
        if distributed.is_main():
            save_arrays(result, arrays)
            made = {"extraction": about, "options": options, "seconds": perf_counter() - began}
            summarize(whole, extraction, count, summary_files(result), made)


@main.command()
@save_dir_option
@click.option("--res_root", type=FILE, required=True, help="The folder that extract wrote to.")
@checked_options("data_name", "dims_to_keep", "n_time_pts", "n_samples")
@click.option("--bs", type=COUNT, default=500, help="Samples read at a time.")
def calc(**options: Any) -> None:
    """Correlate the residuals of a network of images with those of the first time.

    \b
    Files: {data}_{schedule}_autocorrelations_times0_{t}.npz of each time
           {data}_{schedule}_autocorrelations_summary.npz and .json
    """
    root = options["res_root"]
    first = find_first(root, options["data_name"], options["dims_to_keep"])
    extraction = Extraction.read(first)
    shapes = saved_shapes(first, axes=2)
    steps, (count, dim) = len(extraction.times), shapes["net_outputs"]
    check_shape(options, first, extraction, (steps, count, dim))
    require_same(root, extraction, shapes)
    about = told_of(extraction, root / f"{extraction.stem}_net_outputs_residuals.json")
    stem = f"{extraction.stem}_autocorrelations"
    paths = [options["save_dir"] / f"{stem}_times0_{index}.npz" for index in range(steps)]
    summaries = summary_files(options["save_dir"] / f"{stem}.npz")
    size = result_bytes(shapes, dim, dim)
    announcement = prepare([*paths, *summaries], options, steps * size)
    with process_group(options["device_name"]) as device:
        began = start_correlating(announcement, options, device)
        share = range(steps)[distributed.shard(steps)]
        table = Autocorrelations(shapes, len(share), dim)
        hidden = None if distributed.is_main() else True
        for index in tqdm(share, desc="correlations", unit="time", disable=hidden):
            later = time_file(root, extraction.stem, index)
            arrays = {"time": extraction.times[index]}
            for name in shapes:
                pairs = row_pairs(first, later, name, options["bs"], device)
                found = correlate(pairs, f"{later}: '{name}'")
                table.put(name, index - share.start, found)
                arrays[f"{name}_acs"] = found.matrix.float().cpu().numpy()
            save_arrays(paths[index], arrays)
        whole = table.gathered(steps, device)
        if distributed.is_main():
            made = {"extraction": about, "options": options, "seconds": perf_counter() - began}
            summarize(whole, extraction, count, summaries, made)


def start_correlating(announcement: str, options: dict[str, Any], device: torch.device) -> float:
    """Returns when that was."""
    began = perf_counter()
    options["device_name"] = str(device)
    distributed.barrier()  # no rank writes before all have looked
    require_folder(options["save_dir"])
    logger.info(announcement)
    return began


if __name__ == "__main__":
    run_script(main)
