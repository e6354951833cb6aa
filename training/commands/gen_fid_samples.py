"""Samples images by seed: what ``gen_fid_samples.py`` runs."""

import hashlib
import time

import torch

from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance
from training.commands.shared import image_times, latent_of, network_of, sampled_along
from training.files.image_folder import ABSENT, WHOLE, ImageFolder
from training.flow.calls import BLOCK_ROWS
from training.options.samples import GenerationSettings
from training.runs.generation import SeedSampler, generate_images, parse_seeds
from training.subjects import ImageFlow


def run(settings: GenerationSettings) -> None:
    began = time.perf_counter()
    seeds = parse_seeds(settings.seeds)
    latent = latent_of(
        settings.gen_source, settings.eps, "say --gen_source=empirical --prev_melt=FILE"
    )
    network = settings.network
    file = network_of(network)
    image_flow = ImageFlow.of(file, network.expected(), network.data_name)
    image_flow.check_class(settings.class_)
    choice = image_times(settings.times, file.t_max, file.name, settings.store_grid)
    latent = latent.settled(image_flow.flow, choice.end, image_flow.dims_to_keep)
    choice.even(image_flow.flow.schedule)
    choice, solver, how = sampled_along(settings.times, settings.solver, choice, image_flow.flow)
    overwrite = settings.run.overwrite
    with distributed.process_group(settings.run.device_name) as device:
        rows = settings.network.batch_gpu or BLOCK_ROWS[device.type]
        sampler = SeedSampler(
            image_flow,
            solver,
            choice,
            device,
            rows,
            latent,
            settings.class_,
            settings.prev_melt,
        )
        resolved = {"end_time": choice.end, "batch_gpu": rows, **how}
        made_with = {
            "network_sha256": hashlib.sha256(file.path.read_bytes()).hexdigest(),
            "eps": latent.name,
            **settings.image_settings(**resolved),
            "device": device.type,  # for the last bits
        }
        if latent.empirical:
            made_with["latent_sha256"] = sampler.latent_law.digest()
        folder = ImageFolder(settings.save_dir, image_flow.shape, settings.subdirs, made_with)
        outdated = folder.outdated(seeds, overwrite)
        distributed.barrier()  # no rank writes before all have looked
        if distributed.is_main():
            folder.begin(outdated)
        distributed.barrier()
        states = folder.survey(seeds, device)
        chosen = torch.ones_like(states) if overwrite else states != WHOLE
        calls = generate_images(sampler, folder, seeds[chosen.bool()], settings.bs)
        made = int((states == ABSENT).sum())
        counts = {
            "made": made,
            "remade": int(chosen.sum()) - made,
            "skipped": len(seeds) - int(chosen.sum()),
        }
        if distributed.is_main():
            cost = {"network_calls": calls, "seconds": time.perf_counter() - began}
            options = settings.recorded(**image_flow.known, **resolved, device_name=str(device))
            folder.record({"options": options, **counts, **cost, **provenance()})
            logger.info(
                "Wrote {made} new images to {folder}; {remade} were made again, and {skipped} were "
                "there already".format(**counts, folder=settings.save_dir)
            )
