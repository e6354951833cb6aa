"""What people have, a toy, a table or images: all that depends on the kind of data is asked here.

Each kind of data has a ``Training``, what is to be trained on it, and a ``Subject``, what the flow
of a trained network is of.
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
from training.subjects.training import Training, Wanted
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
    "Wanted",
    "open_prior",
    "open_subject",
]

KINDS: dict[str, type[Subject]] = {kind.kind: kind for kind in (ToyFlow, TableFlow, ImageFlow)}
"""By what network files call them."""


def open_subject(
    file: NetworkFile, expected: dict[str, object] | None = None, data_name: str | None = None
) -> Subject:
    """What an open network file is of; results are named by ``data_name``, or the network's data.
    Raises UsageError if what was said of it, by the names of options, None for what was left out,
    contradicts the file, DataError if what the file says of its data makes no sense."""
    if file.kind == RECORDS:
        raise UsageError(
            f"{file.path} answers questions about rows: give it to {script('ask')}, or to "
            f"{script('posterior')}"
        )
    return KINDS[file.kind].of(file, expected or {}, data_name)


def open_prior(file: NetworkFile) -> Subject:
    """What the prior of a posterior is of: also the numbers of records; raises likewise."""
    return RecordPrior.of(file, {}) if file.kind == RECORDS else open_subject(file)
