"""Training: the commands of ``train.py`` and ``toy_train.py``."""

from dnnlib.errors import UsageError
from training.cli.shared import of_data_set
from training.models import training
from training.settings.train import TrainSettings
from training.settings.training import ToyTrainSettings
from training.subjects import ToyFlow
from training.trained.network import TrainedNetwork


def run(settings: TrainSettings) -> None:
    """Train on images or a table, or refit the latent distribution of a network."""
    if settings.distribution.refit_latent_law:
        assert settings.distribution.network is not None
        if settings.data.data is None:
            raise UsageError("--refit_latent_law needs data to encode: give --data")
        network = TrainedNetwork.open(settings.distribution.network)
        training.refit(settings, network, of_data_set(network, {}), settings.data.data)
        return
    settings, resume = training.settled(settings, "data")
    data = settings.data.data
    assert data is not None
    training.train(settings, training.training_of(settings, data, data.stem), resume)


def run_on_toy(settings: ToyTrainSettings) -> None:
    """Train on a toy, or refit the latent distribution of a network."""
    if settings.distribution.refit_latent_law:
        assert settings.distribution.network is not None
        network = TrainedNetwork.open(settings.distribution.network)
        subject = ToyFlow.of(network, {"data_name": settings.toy.data_name})
        training.refit(settings, network, subject, None)
        return
    settings, resume = training.settled(settings, "data_name")
    training.train(settings, training.training_on_toy(settings), resume)
