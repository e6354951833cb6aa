"""A law of latents for a network that was trained before, without one or on other data."""

from pathlib import Path

import torch

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from training.learning.melting import LawPlan, learn_latent_law
from training.model.model import Model


def law_file(network: Path, folder: Path | None) -> Path:
    """Where a network is written with its law.

    Args:
        network: The network file.
        folder: Where it goes; None for beside it.

    Raises:
        UsageError: It is there already.
    """
    path = (folder or network.parent) / f"{network.stem}-law.pkl"
    if path.exists():
        raise UsageError(f"{path} exists: move it, or give another --outdir")
    return path


def refit_latent_law(model: Model, plan: LawPlan, path: Path, device: torch.device) -> None:
    """Learns the law of a model's latents, and writes the model with it.

    Args:
        model: As its file has it.
        plan: How to learn the law.
        path: Where the model is written.
        device: Where to compute.

    Raises:
        UsageError: The model has no compressed latents.
    """
    if int(model.about["dims_to_keep"]) == model.denoiser.basis.dim:
        raise UsageError(
            f"the network compresses none of its {model.denoiser.basis.dim} dimensions, so its "
            "latents are normal as they are: there is no law to learn"
        )
    model.denoiser.to(device)
    learn_latent_law(model, plan)
    if distributed.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
        logger.info(f"Wrote {path}")
    distributed.barrier()
