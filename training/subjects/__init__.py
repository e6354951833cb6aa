"""Kinds of data: toys, tables and images. Code that depends on the kind of data is here.

Each kind has a ``Training``, which trains a network on such data, and a ``Subject``, a flow with
the meaning of its points.
"""

from dnnlib.errors import UsageError
from training.names import RECORDS, script
from training.subjects.image_training import ImageTraining
from training.subjects.images import ImageFlow
from training.subjects.networks import NetworkFile
from training.subjects.record_priors import RecordPrior
from training.subjects.record_training import RecordTraining
from training.subjects.records import RecordFlow
from training.subjects.subject import Subject
from training.subjects.table_training import TableTraining
from training.subjects.tables import TableFlow
from training.subjects.toys import ToyFlow, ToyTraining
from training.subjects.training import Training
from training.subjects.trial_training import TrialTraining

__all__ = [
    "ImageFlow",
    "ImageTraining",
    "NetworkFile",
    "RecordFlow",
    "RecordPrior",
    "RecordTraining",
    "Subject",
    "TableFlow",
    "TableTraining",
    "ToyFlow",
    "ToyTraining",
    "Training",
    "TrialTraining",
    "open_prior",
    "open_subject",
]

KINDS: dict[str, type[Subject]] = {kind.kind: kind for kind in (ToyFlow, TableFlow, ImageFlow)}
"""Subclasses of ``Subject`` by the kind that network files state."""


def open_subject(
    file: NetworkFile, expected: dict[str, object] | None = None, data_name: str | None = None
) -> Subject:
    """Return the subject (the flow and the meaning of its points) of an open network file.

    Args:
        file: Network file.
        expected: Options that the user gave, by name, to check against the file; None for a value
            that was left out.
        data_name: Name for results; None for the name of the network's data.

    Raises:
        UsageError: An option contradicts the file.
        DataError: The file's description of its data is inconsistent.
    """
    if file.kind == RECORDS:
        raise UsageError(
            f"{file.path} answers conditional queries of a table: use it with "
            f"{script('ask')} or {script('posterior')}"
        )
    return KINDS[file.kind].of(file, expected or {}, data_name)


def open_prior(file: NetworkFile) -> Subject:
    """Return the subject of a network file that serves as a prior.

    For a network of records, the points of the subject are the numeric columns.

    Raises:
        UsageError: The records have no numeric columns, or the network was trained for one query.
        DataError: The file's description of its data is inconsistent.
    """
    return RecordPrior.of(file, {}) if file.kind == RECORDS else open_subject(file)
