"""Trains a denoiser on a toy: what ``toy_train.py`` runs."""

from pathlib import Path

from training.commands.training import refit, settled, train, wanted
from training.data.toys import Toy
from training.learning.run import Progress
from training.options.training import ToyTrainSettings
from training.subjects import NetworkFile, ToyFlow, ToyTraining


def run(settings: ToyTrainSettings, progress: Progress | None = None) -> Path | None:
    """Trains, or learns a law of latents again. Returns the network file; None of a dry run."""
    if settings.law.refit_latent_law:
        assert settings.law.network is not None
        file = NetworkFile.open(settings.law.network)
        return refit(settings, file, ToyFlow.of(file, {"data_name": settings.toy.data_name}), None)
    settings, resume = settled(settings, "data_name")
    return train(settings, training_on_toy(settings), resume, progress)


def training_on_toy(settings: ToyTrainSettings) -> ToyTraining:
    """What options say of a training on a toy. Raises UsageError if they contradict it."""
    assert settings.toy.data_name is not None
    toy = Toy(settings.toy.data_name, settings.toy.augment_to)
    return ToyTraining(
        wanted=wanted(settings, settings.network.arch, toy.dim),
        toy=toy,
        others=settings.toy.others,
        antithetic=settings.toy.antithetic,
    )
