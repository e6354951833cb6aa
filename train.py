"""Trains a denoiser on images."""

import json
from pathlib import Path
from typing import Any

import click
import torch

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils.determinism import set_deterministic
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.data.augment import (
    LABEL_DIM,
    AugmentedBatches,
    GeometricAugmentation,
)
from training.data.batches import BatchSource
from training.data.images.batches import ImageBatches, ImageDataset
from training.flow.calibration import METHODS
from training.flow.denoisers import NOISE_CONDITIONINGS, PRECISIONS, SPACES
from training.flow.schedules import G_TYPES
from training.learning.building import Choices, describe_training
from training.learning.images import calibration_points, fit_basis, open_calibration_data
from training.learning.loss import T_SAMPLINGS
from training.learning.resuming import Resumed, place_to_resume, read_options
from training.learning.run import run_training
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model
from training.networks import IMAGE_NETWORKS
from training.settings.options import (
    flow_options,
    given_options,
    inflation_arguments,
    require_options,
)
from training.settings.script import command, run_script
from training.settings.training import (
    calibrates,
    calibration_plan,
    checked_options,
    resumed_options,
    training_config,
    training_options,
)
from training.settings.types import COUNT, FILE, NOT_NEGATIVE, POSITIVE, choice

# What a resumed run may change and still be the same run.
FREE_ON_RESUME = {
    "batch_gpu", "bench", "cache", "compile", "device_name", "dry_run", "dump", "keep", "resume",
    "snap", "tick", "workers",
}  # fmt: skip
T_MAX = 15.01  # as published for images
# A slope gives latents the right variances, but where the network is not good, worse samples.
CALIBRATION_FIT = "gain"


class Multipliers(click.ParamType[list[int]]):
    """Comma-separated positive integers, such as 2,2,2."""

    name = "2,2,2"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            numbers = [int(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) < 1:
            self.fail(f"'{value}' is not a list of positive integers such as 2,2,2", param, ctx)
        return numbers


@command(help=__doc__)
@click.option("--data", type=FILE, help="Zip or folder made by dataset_tool.py.  [required]")
@click.option("--cond", is_flag=True, help="Condition on the labels of the data set.")
@click.option("--arch", type=choice(IMAGE_NETWORKS), default="ddpmpp", help="Network.")
@click.option(
    "--precond",
    type=choice(("ifs", "edm", "vp", "ve")),
    default="ifs",
    help="Inflationary flow, or an isotropic model of Karras et al. 2022, table 1.",
)
@flow_options(G_TYPES)
@click.option("--g_rescaling", type=POSITIVE, help="Factor on every exponent g  [default: 1]")
@click.option("--tmin", type=NOT_NEGATIVE, help="First time  [default: the schedule's]")
@click.option(
    "--tmax", type=POSITIVE, help="Last time  [default: 15.01; isotropic: the schedule's]"
)
@click.option(
    "--t_sampling",
    type=choice(T_SAMPLINGS),
    help="Law of the times in training  [default: uniform; edm: normal; ve: log_uniform]",
)
@click.option("--space", type=choice(SPACES), default="IS", help="Coordinates of the network.")
@click.option(
    "--noise_cond",
    type=choice(NOISE_CONDITIONINGS),
    help="How the network is told the time: by the log of the noise, or as 999 t  "
    "[default: log; vp: ddpm]",
)
@click.option("--batch_pca", type=COUNT, help="Images the basis is fitted to  [default: all]")
@click.option("--cbase", type=COUNT, help="Channels of the finest level  [default: the network's]")
@click.option(
    "--cres", type=Multipliers(), help="Factor of each level's channels  [default: the network's]"
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    help="Fraction of activations dropped  [default: 0.13; adm: 0.1]",
)
@click.option(
    "--augment",
    type=click.FloatRange(0, 1),
    default=0.12,
    help="Probability of each augmentation; 0 is off.",
)
@click.option("--xflip", is_flag=True, help="Add the mirror image of each image to the data.")
@click.option(
    "--precision",
    type=choice(PRECISIONS),
    default="fp32",
    help="What the network computes in.",
)
@click.option("--compile", is_flag=True, help="Compile the network with torch.compile.")
@click.option("--bench/--no-bench", default=True, help="Let cuDNN look for its fastest kernels.")
@click.option("--cache", is_flag=True, help="Keep the data set in memory.")
@click.option("--workers", type=click.IntRange(min=0), default=1, help="Processes that read data.")
@click.option(
    "--lr_ramp",
    type=NOT_NEGATIVE,
    help="Million samples in which the learning rate rises  [default: 5% of duration, at most 10]",
)
@click.option("--lr_decay", is_flag=True, help="Let the rate fall to 0 along a cosine.")
@click.option(
    "--output_gain/--no-output_gain",
    default=None,
    help="Train, with the network, a factor of its output for each dimension and time  "
    "[default: with precond=ifs]",
)
@click.option(
    "--calibration_data",
    type=FILE,
    help="Images to calibrate on, best such that were held out of training  [default: --data]",
)
@click.option("--transfer", help="Network file, path or https URL, whose weights to start from.")
@training_options(
    METHODS, CALIBRATION_FIT, duration=200, batch=512, lr=1e-3, ema=0.5, tick=50, snap=50, dump=500
)
def main(**options: Any) -> None:
    resume = place_to_resume(options["resume"], options["outdir"], options["nosubdir"])
    if resume:
        # Runs of before there were gains have none.
        saved = {"output_gain": False, **read_options(resume)}
        options = checked_options(
            resumed_options(options, given_options(), saved, FREE_ON_RESUME, str(resume))
        )
    require_options(options, "outdir", "data")
    options["calibrate"] = calibrates(options)
    if options["output_gain"] is None:
        options["output_gain"] = options["precond"] == "ifs"
    dataset = ImageDataset(
        Path(options["data"]),
        use_labels=options["cond"],
        xflip=options["xflip"],
        cache=options["cache"] and not options["dry_run"],
    )
    agree("data_dim", options["data_dim"], dataset.dim, f"the data set {dataset.name}")
    calibration_data = open_calibration_data(dataset, options)
    record = {"options": options, **provenance()}
    with process_group(options["device_name"]) as device:
        torch.backends.cudnn.benchmark = options["bench"]
        set_deterministic(options["deterministic"])
        resumed = Resumed.find(resume) if resume else None
        if resumed and resumed.basis.dim != dataset.dim:
            raise DataError(
                f"{resumed.path} is of data with {resumed.basis.dim} dimensions, but "
                f"{dataset.path} has {dataset.dim}: give the data set that the run began with"
            )
        augmentation = GeometricAugmentation(options["augment"]) if options["augment"] else None
        basis, variance = (
            (resumed.basis, resumed.data_variance)
            if resumed
            else fit_basis(dataset, options, augmentation, device)
        )
        model, loss = choices(dataset, options).build(basis, variance)
        model.about |= {
            "data_name": dataset.name,
            "image_shape": list(dataset.image_shape),
            "label_dim": dataset.label_dim,
        }
        config = image_training_config(options)
        logger.info(f"{len(dataset)} images of {dataset.image_shape} in {dataset.path}")
        logger.info(basis.describe())
        logger.info(describe_training(model, loss, config))
        if options["dry_run"]:
            logger.info(json.dumps(record, indent=2, default=str))
            return
        if options["transfer"] and not resumed:
            transfer(options["transfer"], model)
        model.denoiser.to(device)
        model.denoiser.precision = options["precision"]
        trainer = Trainer(model, loss, config)
        if options["compile"]:
            model.denoiser.network.compile()
        source: BatchSource = ImageBatches(
            dataset, config.batch, config.seed, device, options["workers"]
        )
        if augmentation:
            source = AugmentedBatches(
                source, augmentation, dataset.image_shape, config.batch, config.seed
            )
        place = (options["outdir"], run_name(model, options), options["nosubdir"])
        calibration = calibration_plan(
            options, CALIBRATION_FIT, lambda: calibration_points(calibration_data), config.seed
        )
        run_training(
            trainer,
            source,
            place,
            record,
            resumed,
            calibration,
        )


def image_training_config(options: dict[str, Any]) -> TrainingConfig:
    ramp = options["lr_ramp"]
    if ramp is None:
        ramp = min(10.0, 0.05 * options["duration"])
    return training_config(options, lr_ramp=round(ramp * 1e6), lr_decay=options["lr_decay"])


def choices(dataset: ImageDataset, options: dict[str, Any]) -> Choices:
    inflating = options["precond"] == "ifs"
    network_arguments = {
        "image_shape": list(dataset.image_shape),
        "label_dim": dataset.label_dim,
        "augment_dim": LABEL_DIM if options["augment"] else 0,
    }
    optional = {
        "model_channels": options["cbase"],
        "channel_mult": options["cres"],
        "dropout": options["dropout"],
    }
    return Choices(
        precond=options["precond"],
        inflation=inflation_arguments(options, dataset.dim),
        network=options["arch"],
        network_arguments=network_arguments | {k: v for k, v in optional.items() if v is not None},
        space=options["space"],
        noise_cond=options["noise_cond"] or ("ddpm" if options["precond"] == "vp" else "log"),
        t_min=options["tmin"],
        t_max=options["tmax"] or (T_MAX if inflating else None),
        t_sampling=options["t_sampling"],
        output_gain=options["output_gain"],
        seed=options["seed"],
    )


def transfer(location: str, model: Model) -> None:
    """Starts a model from the weights of another one's network that have its names and shapes.

    Its output gain stays behind: that belongs to the axes and times of the other one's data.
    """
    path = local_file(location)
    given = Model.load(path).denoiser.network.state_dict()
    own = model.denoiser.network.state_dict()
    fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise UsageError(f"{path} has no weights that fit this {model.recipe.network}")
    model.denoiser.network.load_state_dict({**own, **fitting})
    logger.info(f"Took {len(fitting)} of {len(own)} tensors from {path}")


def run_name(model: Model, options: dict[str, Any]) -> str:
    parts = [
        model.about["data_name"],
        model.denoiser.schedule.name,
        options["arch"],
        "cond" if options["cond"] else "uncond",
        f"batch{options['batch']}",
        options["precision"],
        options["desc"],
    ]
    return "-".join(part for part in parts if part)


if __name__ == "__main__":
    run_script(main)
