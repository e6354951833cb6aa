"""Kinds of data: toys, tables and images. Code that depends on the kind of data is here.

Each kind has a ``Training``, which trains a network on such data, and a ``Subject``, a flow with
the meaning of its points.
"""

from dnnlib.errors import DataError, UsageError
from training.names import RECORDS, TOY, script
from training.subjects.image_training import ImageTraining
from training.subjects.images import ImageFlow
from training.subjects.record_priors import RecordPrior
from training.subjects.record_training import RecordTraining
from training.subjects.records import RecordFlow
from training.subjects.subject import Subject
from training.subjects.table_training import TableTraining
from training.subjects.tables import TableFlow
from training.subjects.toys import ToyFlow, ToyTraining
from training.subjects.training import Training
from training.trained.network import TrainedNetwork

__all__ = [
    "ImageFlow",
    "ImageTraining",
    "RecordFlow",
    "RecordPrior",
    "RecordTraining",
    "Subject",
    "TableFlow",
    "TableTraining",
    "ToyFlow",
    "ToyTraining",
    "TrainedNetwork",
    "Training",
    "open_prior",
    "open_subject",
    "require_data_set",
]

KINDS: dict[str, type[Subject]] = {kind.kind: kind for kind in (ToyFlow, TableFlow, ImageFlow)}
"""Subclasses of ``Subject`` by the kind that network files state."""


def open_subject(
    network: TrainedNetwork, expected: dict[str, object] | None = None, data_name: str | None = None
) -> Subject:
    """Return the subject (the flow and the meaning of its points) of an open network file.

    Args:
        network: Trained network.
        expected: Options that the user gave, by name, to check against the file; None for a value
            that was left out.
        data_name: Name for results; None for the name of the network's data.

    Raises:
        UsageError: An option contradicts the file.
        DataError: The file's description of its data is inconsistent.
    """
    if network.data_kind == RECORDS:
        raise UsageError(
            f"{network.path} answers conditional queries of a table: use it with "
            f"{script('ask')} or {script('posterior')}"
        )
    return KINDS[network.data_kind].of(network, expected or {}, data_name)


def open_prior(network: TrainedNetwork) -> Subject:
    """Return the subject of a network file that serves as a prior.

    For a network of records, the points of the subject are the numeric columns.

    Raises:
        UsageError: The records have no numeric columns, or the network was trained for one query.
        DataError: The file's description of its data is inconsistent.
    """
    return RecordPrior.of(network, {}) if network.data_kind == RECORDS else open_subject(network)


def require_data_set(network: TrainedNetwork) -> None:
    """Check that a network is not for a toy, whose points are in no data set.

    Raises:
        DataError: The network is for a toy.
    """
    if network.data_kind == TOY:
        raise DataError(
            f"{network.path} was trained on the toy '{network.about.get('data_name')}', "
            f"not on images or a table: use it with {script('toy_pfODE_int')}"
        )
