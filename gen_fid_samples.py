"""Samples images by seed, one PNG each, for fid.py to score.

An image depends on its seed, the network and the settings of the integration alone. A rerun makes
what is missing or broken.
"""

import hashlib
import time
from typing import Any

import click
import torch

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.files.image_folder import ABSENT, WHOLE, ImageFolder
from training.flow.calls import BLOCK_ROWS
from training.flow.denoisers import PRECISIONS
from training.flow.solvers import DEFAULT, DEFAULT_STEPS, SOLVERS
from training.settings.integration import integration_options
from training.settings.options import device_option, given_options, overwrite_option
from training.settings.script import command, run_script
from training.settings.types import COUNT, FILE, choice
from training.simulation.generation import SeedSampler, generate_images, parse_seeds
from training.simulation.images import ImageFlow
from training.simulation.latents import parse_eps


@command(help=__doc__)
@click.option("--save_dir", type=FILE, required=True, help="Folder of the images.")
@integration_options(SOLVERS, DEFAULT, PRECISIONS, DEFAULT_STEPS)
@click.option("--seeds", default="0-63", help="Which images: numbers and ranges, as 1,2,5-10.")
@click.option(
    "--bs",
    type=COUNT,
    default=64,
    help="Images in flight over all ranks, rounded up to whole network calls.",
)
@click.option("--subdirs", is_flag=True, help="Make a folder for each thousand seeds.")
@click.option(
    "--gen_source",
    type=choice(("diag", "empirical")),
    default="diag",
    help="Latents: Gaussian, with variances by --eps, or with those in which a melt ended.",
)
@click.option("--prev_melt", type=FILE, help="The melt of empirical, a file of pfODE_int.py.")
@click.option(
    "--eps",
    default="auto",
    help="Variances of diag: auto (the closed form), one number for all compressed dimensions, or "
    "as in the paper, where those of kept ones are 1 (paper:NUMBER, or paper without compression).",
)
@click.option(
    "--class",
    "class_",
    type=click.IntRange(min=0),
    help="Class of the images, for networks with classes  [default: drawn by each seed]",
)
@device_option
@overwrite_option
def main(**options: Any) -> None:
    began = time.perf_counter()
    seeds = parse_seeds(options["seeds"])
    eps = chosen_eps(options)
    image_flow = ImageFlow.open(options)
    image_flow.check_class(options["class_"])
    with process_group(options["device_name"]) as device:
        options["device_name"] = str(device)
        options["batch_gpu"] = options["batch_gpu"] or BLOCK_ROWS[device.type]
        sampler = SeedSampler(
            image_flow,
            device,
            options["batch_gpu"],
            eps,
            options["dims_to_keep"],
            options["class_"],
            options["prev_melt"],
        )
        settings = image_settings(image_flow, device, eps, options)
        if eps == "empirical":
            settings["latent_sha256"] = sampler.latent_law.digest()
        shape, subdirs = image_flow.image_shape, options["subdirs"]
        folder = ImageFolder(options["save_dir"], shape, subdirs, settings)
        outdated = folder.outdated(seeds, options["overwrite"])
        distributed.barrier()  # no rank writes before all have looked
        if distributed.is_main():
            folder.begin(outdated)
        distributed.barrier()
        states = folder.survey(seeds, device)
        chosen = torch.ones_like(states) if options["overwrite"] else states != WHOLE
        calls = generate_images(sampler, folder, seeds[chosen.bool()], options["bs"])
        made = int((states == ABSENT).sum())
        counts = {
            "made": made,
            "remade": int(chosen.sum()) - made,
            "skipped": len(seeds) - int(chosen.sum()),
        }
        if distributed.is_main():
            cost = {"network_calls": calls, "seconds": time.perf_counter() - began}
            named = {name.rstrip("_"): value for name, value in options.items()}
            folder.record({"options": named, **counts, **cost, **provenance()})
            logger.info(
                "Wrote {made} new images to {folder}; {remade} were made again, and {skipped} were "
                "there already".format(**counts, folder=options["save_dir"])
            )


def chosen_eps(options: dict[str, Any]) -> float | str:
    """``empirical`` for latents of a melt, else the option ``eps``."""
    if options["gen_source"] == "diag":
        if options["prev_melt"] is not None:
            raise UsageError("--prev_melt goes with --gen_source=empirical only")
        eps = parse_eps(options["eps"])
        if eps == "empirical":
            raise UsageError("--eps is 'empirical': say --gen_source=empirical --prev_melt=FILE")
        return eps
    if options["prev_melt"] is None:
        raise UsageError("--gen_source=empirical takes the variances of a melt: give --prev_melt")
    if "eps" in given_options():
        raise UsageError("--eps goes with --gen_source=diag only")
    return "empirical"


def image_settings(
    image_flow: ImageFlow, device: torch.device, eps: float | str, options: dict[str, Any]
) -> dict[str, Any]:
    """All that an image depends on beside its seed; the kind of device and the size of network
    calls are in it for the last bits."""
    names = (
        "calibration",
        "solver",
        "n_iters",
        "disc",
        "end_time",
        "end_vars",
        "precision",
        "batch_gpu",
    )
    from_first_time = options["disc"] == "vp_ode"
    adaptive = image_flow.solver.adaptive
    return {
        "network_sha256": hashlib.sha256(image_flow.path.read_bytes()).hexdigest(),
        "eps": eps,
        "class": options["class_"],
        **{name: options[name] for name in names},
        "vpode_disc_eps": options["vpode_disc_eps"] if from_first_time else None,
        "tol": options["tol"] if options["n_iters"] == "auto" else None,
        **{name: options[name] if adaptive else None for name in ("rtol", "atol")},
        "device": device.type,
    }


if __name__ == "__main__":
    run_script(main)
