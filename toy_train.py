"""Trains a denoiser on a toy data set.

Data are drawn fresh for every step from the toy's own distribution, on its exact eigenbasis.
"""

import json
from typing import Any

import click

from dnnlib.errors import agree
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.determinism import set_deterministic
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch, ToyBatches
from training.data.toys import TOY_NAMES, Toy
from training.flow.calibration import METHODS
from training.flow.denoisers import NOISE_CONDITIONINGS, SPACES
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import G_TYPES
from training.learning.building import TOY_PRECONDITIONINGS, Choices, describe_training
from training.learning.resuming import Resumed, place_to_resume, read_options
from training.learning.run import run_training
from training.learning.trainer import Trainer
from training.model.model import Model
from training.networks import TOY_NETWORKS
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
from training.settings.types import NOT_NEGATIVE, POSITIVE, choice

# What a resumed run may change and still be the same run.
FREE_ON_RESUME = {"batch_gpu", "device_name", "dry_run", "dump", "keep", "resume", "snap", "tick"}
LR_RAMP = 200_000
# Networks of toys are good, so that slopes cost their samples nothing.
CALIBRATION_FIT = "path"
# Each costs 101 network calls, together about as much as training on 340,000; the error of a slope
# is about one over their square root.
CALIBRATION_POINTS = 10_000


@command(help=__doc__)
@click.option("--data_name", type=choice(TOY_NAMES), help="The toy.  [required]")
@flow_options(G_TYPES)
@click.option("--g_rescaling", type=POSITIVE, help="Factor on every exponent g  [default: 1]")
@click.option("--tmin", type=NOT_NEGATIVE, help="First time  [default: 0; edm: 0.002]")
@click.option(
    "--tmax",
    type=POSITIVE,
    help="Last time  [default: when a tenth of the top dimension's variance is data; edm: 80]",
)
@click.option(
    "--augment_to",
    type=click.IntRange(min=0, max=2**31 - 1),
    default=0,
    help="Dimensions to embed the toy in; 0 is off.",
)
@click.option("--arch", type=choice(TOY_NETWORKS), default="mlp", help="Network.")
@click.option("--space", type=choice(SPACES), default="ES", help="Coordinates of the network.")
@click.option(
    "--precond",
    type=choice(TOY_PRECONDITIONINGS),
    default="ifs",
    help="Inflationary flow; or the isotropic model of Karras et al. 2022, which takes all "
    "dimensions of the data to vary alike (edm), or each as it does (edm_es).",
)
@click.option(
    "--noise_cond",
    type=choice(NOISE_CONDITIONINGS),
    default="log",
    help="How the network is told the time: by the log of the noise, or as 999 t.",
)
@training_options(
    METHODS, CALIBRATION_FIT, duration=6, batch=2048, lr=4e-3, ema=0.5, tick=500, snap=10, dump=10
)
def main(**options: Any) -> None:
    resume = place_to_resume(options["resume"], options["outdir"], options["nosubdir"])
    if resume:
        saved = read_options(resume)
        options = checked_options(
            resumed_options(options, given_options(), saved, FREE_ON_RESUME, str(resume))
        )
    require_options(options, "outdir", "data_name")
    options["calibrate"] = calibrates(options)
    toy = Toy(options["data_name"], options["augment_to"])
    basis = EigenBasis.from_moments(*toy.moments())
    model, loss = choices(toy, options).build(basis)
    model.about |= {"data_name": toy.name, "augment_to": options["augment_to"]}
    config = training_config(options, lr_ramp=LR_RAMP, lr_decay=True)
    logger.info(basis.describe())
    logger.info(describe_training(model, loss, config))
    record = {"options": options, **provenance()}
    if options["dry_run"]:
        logger.info(json.dumps(record, indent=2, default=str))
        return
    with process_group(options["device_name"]) as device:
        set_deterministic(options["deterministic"])
        model.denoiser.to(device)
        source = ToyBatches(toy, config.batch, config.seed, device)
        place = (options["outdir"], run_name(model, options), options["nosubdir"])
        calibration = calibration_plan(
            options, CALIBRATION_FIT, lambda: calibration_points(toy, config.seed), config.seed
        )
        resumed = Resumed.find(resume) if resume else None
        run_training(
            Trainer(model, loss, config),
            source,
            place,
            record,
            resumed,
            calibration,
        )


def calibration_points(toy: Toy, seed: int) -> Batch:
    """This rank's share of fresh draws, as many on any number of ranks."""
    points = toy.sample(
        CALIBRATION_POINTS, seeded_generator("cpu", seed, Stream.CALIBRATION_POINTS, 0)
    )
    return Batch(points[distributed.shard(CALIBRATION_POINTS)])


def choices(toy: Toy, options: dict[str, Any]) -> Choices:
    agree("data_dim", options["data_dim"], toy.dim, f"the toy '{toy.name}'")
    return Choices(
        precond=options["precond"],
        inflation=inflation_arguments(options, toy.dim),
        network=options["arch"],
        network_arguments={},
        space=options["space"],
        noise_cond=options["noise_cond"],
        t_min=options["tmin"],
        t_max=options["tmax"],
        seed=options["seed"],
    )


def run_name(model: Model, options: dict[str, Any]) -> str:
    parts = [model.about["data_name"], model.denoiser.schedule.name, options["arch"]]
    if options["augment_to"]:
        parts.append(f"in{options['augment_to']}D")
    if options["desc"]:
        parts.append(options["desc"])
    return "-".join(parts)


if __name__ == "__main__":
    run_script(main)
