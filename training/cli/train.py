"""Training: the commands of ``train.py`` and ``toy_train.py``."""

from training.models import training
from training.settings.train import TrainSettings
from training.settings.training import ToyTrainSettings


def run(settings: TrainSettings) -> None:
    """Train on images or a table."""
    settings, resume = training.settled(settings, "data")
    data = settings.data.data
    assert data is not None
    training.train(settings, training.training_of(settings, data, data.stem), resume)


def run_on_toy(settings: ToyTrainSettings) -> None:
    """Train on a toy."""
    settings, resume = training.settled(settings, "data_name")
    training.train(settings, training.training_on_toy(settings), resume)
