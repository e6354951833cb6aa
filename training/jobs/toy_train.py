"""Trains a denoiser on a toy: what ``toy_train.py`` runs."""

from functools import partial

import torch

from dnnlib.logs import logger
from torch_utils.determinism import algorithms
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.data.batches import ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.learning.building import describe_training, resolved_options
from training.learning.calibrating import CalibrationPlan
from training.learning.cost import tell_dry_run
from training.learning.limits import require_batch
from training.learning.melting import MOST, NETWORK_ROWS, LawPlan, points_to_melt
from training.learning.refitting import law_file, refit_latent_law
from training.learning.resuming import Resumed
from training.learning.run import run_training
from training.learning.targets import MOST_NEAR
from training.learning.toys import calibration_points, melted_points
from training.learning.trainer import Trainer
from training.settings.toy_train import OF_RECIPE, ToyTrainSettings
from training.settings.training import record_of, settled, training_config
from training.simulation.networks import NetworkChoice
from training.simulation.toys import ToyFlow


def run(settings: ToyTrainSettings) -> None:
    if settings.law.refit_latent_law:
        refit(settings)
        return
    settings, resume = settled(settings, "data_name")
    run = settings.run
    assert settings.toy.data_name is not None
    toy = Toy(settings.toy.data_name, settings.toy.augment_to)
    how, calibration = settings.calibration, None
    if how.wanted(settings.flow.precond):
        points = partial(calibration_points, toy, run.seed)
        calibration = CalibrationPlan(points, run.seed, how.calibration_fit)
    basis = EigenBasis.from_moments(*toy.moments())
    model, loss = settings.choices(toy.dim).build(basis)
    model.about |= {"data_name": toy.name, "augment_to": settings.toy.augment_to}
    others = settings.others(toy.dim)
    recipe = settings.recipe(toy.dim, others)
    antithetic = settings.toy.antithetic
    config = training_config(recipe, settings.training, run, antithetic)
    melted, count = partial(melted_points, toy, run.seed), points_to_melt(config.total)
    law = settings.law.law_plan(
        settings.flow.precond, LawPlan(melted, None, count, run.seed, NETWORK_ROWS)
    )
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
        return
    with algorithms(run.deterministic), process_group(run.device_name, run.threads) as device:
        require_batch(config.batch, toy.dim, device, near=min(others, MOST_NEAR))
        options["threads"] = torch.get_num_threads()
        model.denoiser.to(device)
        run_training(
            Trainer(model, loss, config),
            ToyBatches(toy, config.batch, config.seed, device, others, antithetic),
            run.place(*settings.name_parts(loss.schedule.name)),
            record_of(record, resume, recipe.duration),
            Resumed.find(resume) if resume else None,
            calibration,
            law,
        )


def refit(settings: ToyTrainSettings) -> None:
    """Learns the law of latents of a network that was trained before."""
    assert settings.law.network is not None
    said = {"data_name": settings.toy.data_name}
    subject = ToyFlow.trained(NetworkChoice(settings.law.network, said))
    assert subject.file is not None
    path = law_file(subject.file.path, settings.run.outdir)
    seed = settings.run.seed
    plan = LawPlan(partial(melted_points, subject.toy, seed), None, MOST, seed, NETWORK_ROWS)
    with process_group(settings.run.device_name) as device:
        refit_latent_law(subject.file.model, plan, path, device)
