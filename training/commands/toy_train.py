"""Trains a denoiser on a toy: what ``toy_train.py`` runs."""

from functools import partial
from pathlib import Path

import torch

from dnnlib.errors import agree
from dnnlib.logs import logger
from torch_utils.determinism import algorithms
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training import recipes
from training.commands.training import (
    law_to_learn,
    place_of,
    record_of,
    settled,
    training_config,
)
from training.data.batches import ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.learning.building import Choices, describe_training, resolved_options
from training.learning.calibrating import CalibrationPlan
from training.learning.cost import tell_dry_run
from training.learning.limits import require_batch
from training.learning.loop import Progress
from training.learning.melting import NETWORK_ROWS, LawPlan, points_to_melt
from training.learning.refitting import law_file, refit_latent_law
from training.learning.resuming import Resumed
from training.learning.run import run_training
from training.learning.targets import MOST_NEAR
from training.learning.toys import calibration_points, melted_points
from training.learning.trainer import Trainer
from training.names import MOST_AVERAGED, OTHERS, TOY
from training.options.toy_train import OF_RECIPE, ToyTrainSettings
from training.recipes import AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, PLANE, TrainingRecipe
from training.subjects import NetworkFile, ToyFlow


def run(settings: ToyTrainSettings, progress: Progress | None = None) -> Path | None:
    """Trains, or learns a law of latents again. Returns the network file; None of a dry run."""
    if settings.law.refit_latent_law:
        return refit(settings)
    settings, resume = settled(settings, "data_name")
    run = settings.run
    assert settings.toy.data_name is not None
    toy = Toy(settings.toy.data_name, settings.toy.augment_to)
    how, calibration = settings.calibration, None
    if how.wanted(settings.flow.precond):
        points = partial(calibration_points, toy, run.seed)
        calibration = CalibrationPlan(points, run.seed, how.calibration_fit)
    basis = EigenBasis.from_moments(*toy.moments())
    model, loss = choices_of(settings, toy.dim).build(basis)
    model.about |= {"kind": TOY, "data_name": toy.name, "augment_to": settings.toy.augment_to}
    others = others_of(settings, toy.dim)
    recipe = recipe_of(settings, toy.dim, others)
    antithetic = settings.toy.antithetic
    config = training_config(recipe, settings.training, run, antithetic)
    melted, count = partial(melted_points, toy, run.seed), points_to_melt(config.total)
    plan = LawPlan(melted, None, count, run.seed, NETWORK_ROWS)
    law = law_to_learn(settings.law, settings.flow.precond, plan)
    logger.info(basis.describe())
    logger.info(describe_training(model, loss, config))
    options = settings.recorded(
        others=others,
        **{name: getattr(recipe, name) for name in OF_RECIPE},
        calibrate=calibration is not None,
        **resolved_options(model, loss),
    )
    record = {"options": options, **provenance("started")}
    if run.dry_run:
        tell_dry_run(record, model, loss, config, run.card_memory)
        return None
    with algorithms(run.deterministic), process_group(run.device_name, run.threads) as device:
        require_batch(config.batch, toy.dim, device, near=min(others, MOST_NEAR))
        options["threads"] = torch.get_num_threads()
        model.denoiser.to(device)
        return run_training(
            Trainer(model, loss, config),
            ToyBatches(toy, config.batch, config.seed, device, others, antithetic),
            place_of(run, *settings.name_parts(loss.schedule.name)),
            record_of(record, resume, recipe.duration),
            Resumed.find(resume) if resume else None,
            calibration,
            law,
            progress=progress,
        )


def others_of(settings: ToyTrainSettings, dim: int) -> int:
    """Points to average targets over, of a toy of so many dimensions."""
    if settings.toy.others is not None:
        return settings.toy.others
    return OTHERS if dim <= MOST_AVERAGED else 0


def recipe_of(settings: ToyTrainSettings, dim: int, others: int) -> TrainingRecipe:
    """How to train in so many dimensions, with so many points to average targets over."""
    averaged = AVERAGED_PLANE if dim <= PLANE else AVERAGED_SPACE
    averaged = averaged if settings.network.arch == "mlp" else AVERAGED_TOY
    return (averaged if others else recipes.TOY).but(settings.recorded())


def choices_of(settings: ToyTrainSettings, dim: int) -> Choices:
    """The model to build for a toy of so many dimensions.

    Raises:
        UsageError: Options contradict the toy or each other.
    """
    flow, network = settings.flow, settings.network
    agree("data_dim", flow.data_dim, dim, f"the toy '{settings.toy.data_name}'")
    return Choices(
        precond=flow.precond,
        inflation=flow.arguments(flow.precond, dim),
        network=network.arch,
        network_arguments={},
        space=network.space,
        noise_cond=network.noise_cond,
        t_min=flow.tmin,
        t_max=flow.tmax,
        seed=settings.run.seed,
    )


def refit(settings: ToyTrainSettings) -> Path:
    """Learns the law of latents of a network that was trained before."""
    assert settings.law.network is not None
    file = NetworkFile.open(settings.law.network)
    subject = ToyFlow.of(file, {"data_name": settings.toy.data_name})
    path = law_file(file.path, settings.run.outdir)
    with process_group(settings.run.device_name) as device:
        plan = subject.law_plan(None, settings.run.seed, device)
        refit_latent_law(file.model, plan, path, device)
    return path
