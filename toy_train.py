"""Trains a denoiser on a toy data set.

Data are drawn fresh for every step from the toy's own distribution, on its exact eigenbasis.
"""

import json
from typing import Any

import click
import torch

from dnnlib.logs import logger
from dnnlib.options import (
    NOT_NEGATIVE,
    POSITIVE,
    agree,
    choice,
    command,
    flow_options,
    given_options,
    require_options,
    resumed_options,
    run_script,
    training_options,
)
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.data.batches import ToyBatches
from training.data.toys import TOY_NAMES, Toy
from training.flow.denoisers import NOISE_CONDITIONINGS, SPACES, noise_condition
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import G_TYPES
from training.loop import Trainer, TrainingConfig, train
from training.loss import DenoisingLoss
from training.model import Model, Recipe, describe_basis, make_schedule, parameter_count
from training.networks import NETWORKS
from training.run_folder import RunFolder, read_options

# What a resumed run may change and still be the same run.
FREE_ON_RESUME = {"batch_gpu", "device_name", "dry_run", "dump", "resume", "snap", "tick"}
LR_RAMP = 200_000
EDM_T_MIN = 0.002


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
    type=click.IntRange(min=0),
    default=0,
    help="Dimensions to embed the toy in; 0 is off.",
)
@click.option("--arch", type=choice(NETWORKS), default="mlp", help="Network.")
@click.option("--space", type=choice(SPACES), default="ES", help="Coordinates of the network.")
@click.option(
    "--precond",
    type=choice(("ifs", "edm")),
    default="ifs",
    help="Inflationary flow, or the isotropic model of Karras et al. 2022.",
)
@click.option(
    "--noise_cond",
    type=choice(NOISE_CONDITIONINGS),
    default="log",
    help="How the network is told the time: by the log of the noise, or as 999 t.",
)
@training_options(duration=6, batch=2048, lr=4e-3, ema=0.5, tick=500, snap=10, dump=10)
def main(**options: Any) -> None:
    resume = options["resume"]
    if resume:
        saved = read_options(resume)
        options = resumed_options(options, given_options(), saved, FREE_ON_RESUME, str(resume))
    require_options(options, "outdir", "data_name")
    toy = Toy(options["data_name"], options["augment_to"])
    basis = EigenBasis.from_moments(*toy.moments())
    model, loss = untrained_model(toy, basis, options)
    config = training_config(options)
    run_options = {"options": options, **provenance()}
    logger.info(describe_basis(basis))
    logger.info(describe_training(model, loss, config))
    if options["dry_run"]:
        logger.info(json.dumps(run_options, indent=2, default=str))
        return
    with process_group(options["device_name"]) as device:
        model.denoiser.to(device)
        loss.schedule.to(device)
        trainer = Trainer(model, loss, config)
        if resume:
            folder, state = RunFolder.resume(resume)
            trainer.restore(state)
        else:
            name = run_name(model, options)
            folder = RunFolder.create(options["outdir"], name, run_options, options["nosubdir"])
        logger.info(f"Training in {folder.path}")
        train(trainer, ToyBatches(toy, config.batch, config.seed, device), folder)


def untrained_model(
    toy: Toy, basis: EigenBasis, options: dict[str, Any]
) -> tuple[Model, DenoisingLoss]:
    """The model and loss that the options describe."""
    agree("data_dim", options["data_dim"], toy.dim, f"the toy '{toy.name}'")
    isotropic = options["precond"] == "edm"
    if isotropic:
        for name in ("rho", "gamma0", "g_type", "inflation_gap", "g_rescaling"):
            agree(name, options[name], None, "precond=edm")
        agree("dims_to_keep", options["dims_to_keep"], toy.dim, "precond=edm")
        schedule_arguments = {"t_min": options["tmin"] or EDM_T_MIN}
    else:
        schedule_arguments = {
            "dims_to_keep": options["dims_to_keep"] or toy.dim,
            "g_type": options["g_type"] or "orig",
            "inflation_gap": options["inflation_gap"] or 1.02,
            "g_rescaling": options["g_rescaling"] or 1.0,
            "rho": options["rho"] or 1.0,
            "gamma0": options["gamma0"] or 5e-4,
        }
    schedule = make_schedule(options["precond"], schedule_arguments, basis)
    t_min = options["tmin"] or schedule.t_min
    t_max = options["tmax"] or schedule.default_t_max()
    loss = DenoisingLoss(schedule, t_min, t_max, "normal" if isotropic else "uniform")
    ends = torch.tensor([t_min, t_max], dtype=torch.float64)
    noise_range = noise_condition(schedule, ends, options["noise_cond"]).tolist()
    recipe = Recipe(
        schedule=options["precond"],
        schedule_arguments=schedule_arguments,
        network=options["arch"],
        network_arguments={"dim": toy.dim, "noise_range": noise_range},
        denoiser_arguments={"space": options["space"], "noise_cond": options["noise_cond"]},
    )
    torch.manual_seed(options["seed"])
    model = recipe.build(basis)
    model.about = {
        "data_name": toy.name,
        "augment_to": options["augment_to"],
        "data_dim": toy.dim,
        "dims_to_keep": schedule_arguments.get("dims_to_keep", toy.dim),
        "tmin": t_min,
        "tmax": t_max,
    }
    return model, loss


def training_config(options: dict[str, Any]) -> TrainingConfig:
    return TrainingConfig(
        total=round(options["duration"] * 1e6),
        batch=options["batch"],
        batch_gpu=options["batch_gpu"],
        lr=options["lr"],
        lr_ramp=LR_RAMP,
        lr_decay=True,
        ema_halflife=round(options["ema"] * 1e6),
        loss_scale=options["ls"],
        tick=options["tick"] * 1000,
        snapshot_ticks=options["snap"],
        state_ticks=options["dump"],
        seed=options["seed"],
    )


def run_name(model: Model, options: dict[str, Any]) -> str:
    parts = [model.about["data_name"], model.denoiser.schedule.name, options["arch"]]
    if options["augment_to"]:
        parts.append(f"in{options['augment_to']}D")
    if options["desc"]:
        parts.append(options["desc"])
    return "-".join(parts)


def describe_training(model: Model, loss: DenoisingLoss, config: TrainingConfig) -> str:
    return (
        f"Schedule {loss.schedule.name}, t from {loss.t_min:g} to {loss.t_max:.4g}; "
        f"{model.recipe.network} with {parameter_count(model.denoiser.network):,} parameters in "
        f"{model.denoiser.space}; {config.total / 1e6:g} M samples in batches of {config.batch}"
    )


if __name__ == "__main__":
    run_script(main)
