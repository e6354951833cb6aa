"""Melts images of a data set, generates them back, and measures how well they come back."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance, save_arrays, save_json
from training.data.images.batches import ImageDataset, normalize_pixels
from training.flow.denoisers import PRECISIONS
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import DEFAULT, DEFAULT_STEPS, SOLVERS, Solver
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors
from training.settings.integration import integration_options
from training.settings.options import device_option, overwrite_option
from training.settings.script import command, run_script
from training.settings.types import COUNT, FILE, SEED
from training.simulation.images import ImageFlow

ERROR_NAMES = ("mse", "mse_float", "max_abs_error", "exact")
"""Of the columns of ``RoundtripErrors``."""
BIN_EDGES = torch.logspace(-6, 3, 46, dtype=torch.float64)
"""Of the histogram of errors, in gray levels: five to a decade, the same for every run."""


@command(help=__doc__)
@click.option("--save_dir", type=FILE, required=True, help="Folder of the results.")
@click.option("--data_root", type=FILE, required=True, help="Data set: a zip or folder.")
@integration_options(SOLVERS, DEFAULT, PRECISIONS, DEFAULT_STEPS)
@click.option("--data_name", help="How the results are called  [default: the network's data set]")
@click.option("--bs", type=COUNT, default=1000, help="Images in flight, over all ranks.")
@click.option("--total_samples", type=COUNT, default=10_000, help="Images to measure.")
@click.option(
    "--keep_worst",
    type=click.IntRange(min=0),
    default=16,
    help="Images to keep of those that come back worst.",
)
@click.option("--seed", type=SEED, default=42, help="Of the choice of images.")
@device_option
@overwrite_option
def main(**options: Any) -> None:
    began = time.perf_counter()
    image_flow = ImageFlow.open(options)
    stem = f"{options['data_name']}_{image_flow.schedule_name}_roundtrip_mse_seed{options['seed']}"
    folder: Path = options["save_dir"]
    paths = folder / f"{stem}.json", folder / f"{stem}_worst.npz"
    require_new(list(paths), options["overwrite"])
    dataset = image_flow.dataset(options["data_root"], options["total_samples"], options["seed"])
    with process_group(options["device_name"]) as device:
        require_folder(folder)
        errors, worst, calls = measure(image_flow, dataset, options, device)
        if not distributed.is_main():
            return
        options["device_name"] = str(device)
        save_arrays(paths[1], {name: tensor.numpy() for name, tensor in worst.items()})
        found = errors.summary()
        result = {
            **found,
            "images": len(dataset),
            "image_shape": list(image_flow.image_shape),
            "rms_error_histogram": histogram(errors.mse_float.sqrt()),
            "worst": paths[1].name,
            "denoiser_calls": calls,
            "seconds": time.perf_counter() - began,
            "options": options,
            **provenance(),
        }
        save_json(paths[0], result)
        for path in paths:
            logger.info(f"Wrote {path}")
        report(found, len(dataset))


def measure(
    image_flow: ImageFlow, dataset: ImageDataset, options: dict[str, Any], device: torch.device
) -> tuple[RoundtripErrors, dict[str, Tensor], int]:
    """The errors of all images, arrays of them and of the worst, and denoiser calls of an image.

    They are on the CPU of every rank.

    Every rank reads each batch, of which it integrates its share, and holds no more than one.
    """
    flow = image_flow.on(device, options["batch_gpu"])
    times = image_flow.times(flow)
    options["n_iters"] = len(times) - 1
    count, size = len(dataset), options["bs"]
    starts = range(0, count, size)
    columns, worst, most_calls = [], WorstImages(options["keep_worst"]), 0
    hidden = None if distributed.is_main() else True
    total = 2 * (len(times) - 1) * len(starts)
    with tqdm(total=total, desc="roundtrip", unit="step", disable=hidden) as bar:
        for start in starts:
            batch = range(start, min(start + size, count))
            bar.set_postfix_str(f"images {batch.start} to {batch.stop - 1} of {count}")
            pixels, labels = dataset.read(batch)
            conditions = {"labels": labels} if image_flow.label_dim else {}
            latents, returned, calls = roundtrip(
                flow, times, image_flow.solver, pixels, conditions, bar.update
            )
            most_calls = max(most_calls, calls)
            errors = RoundtripErrors.of(pixels.flatten(1), returned)
            columns.append(errors.columns())
            levels = (returned + 1) * LEVELS_PER_UNIT
            worst.add(
                errors.mse_float,
                indices=torch.tensor(batch),
                originals=pixels,
                returned=levels.float().view(pixels.shape),
                latents=latents.float(),
                **conditions,
            )
    every = torch.cat(columns)
    arrays = {**worst.rows, "image_shape": torch.tensor(image_flow.image_shape)}
    for name, column in zip(ERROR_NAMES, every.unbind(dim=1), strict=True):
        arrays |= {name: column[arrays["indices"]], f"all_{name}": column}
    return RoundtripErrors.from_columns(every), arrays, most_calls


def roundtrip(
    flow: ProbabilityFlow,
    times: Tensor,
    solver: Solver,
    pixels: Tensor,
    conditions: dict[str, Tensor],
    on_step: Callable[[], Any],
) -> tuple[Tensor, Tensor, int]:
    """Of images ``[n, C, H, W]``, latents and returned data ``[n, D]``, in float64 on the CPU, and
    the denoiser calls of an image."""
    share = distributed.shard(len(pixels))
    data = normalize_pixels(pixels[share].to(flow.device)).flatten(1).double()
    if conditions:
        mine = {name: rows[share].to(flow.device) for name, rows in conditions.items()}
        flow = flow.given(**mine)
    melt = flow.melt(data, times, solver, on_step=on_step)
    back = flow.generate(melt.end, times, solver, on_step=on_step)
    returned = flow.to_data(back.end, back.times[-1])
    both = distributed.gather_rows(torch.stack([melt.end, returned]), len(pixels), dim=1).cpu()
    return both[0], both[1], melt.calls + back.calls


class WorstImages:
    """What is to be kept of the images with the largest errors: these first, equal ones as added.

    Attributes:
        rows: Tensors ``[k, ...]`` by name, k at most ``count``.
    """

    def __init__(self, count: int):
        self._count = count
        self._errors = torch.empty(0, dtype=torch.float64)
        self.rows: dict[str, Tensor] = {}

    def add(self, errors: Tensor, **rows: Tensor) -> None:
        """More images: their errors ``[n]``, and ``[n, ...]`` of what is to be kept of them."""
        kept = self.rows or {name: more[:0] for name, more in rows.items()}
        together = torch.cat([self._errors, errors])
        order = together.argsort(descending=True, stable=True)[: self._count]
        self._errors = together[order]
        self.rows = {name: torch.cat([kept[name], more])[order] for name, more in rows.items()}


def histogram(values: Tensor) -> dict[str, Any]:
    """Counts of values ``[N]`` between ``BIN_EDGES``, and of those outside.

    A value on an edge belongs to the bin above it; zeros are below all.
    """
    places = torch.bucketize(values, BIN_EDGES, right=True)
    below, *counts, above = places.bincount(minlength=len(BIN_EDGES) + 1).tolist()
    edges = BIN_EDGES.tolist()
    return {"unit": "gray levels", "edges": edges, "counts": counts, "below": below, "above": above}


def report(found: dict[str, Any], count: int) -> None:
    logger.info(
        f"Roundtrip of {count} images: mean squared error {found['mse']:.6g} squared gray levels "
        f"after rounding to 8 bits, {found['mse_float']:.6g} before; largest error "
        f"{found['max_abs_error']:.4g} gray levels; {found['exact_pixels']:.4%} of the pixels exact"
    )


if __name__ == "__main__":
    run_script(main)
