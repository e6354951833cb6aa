"""What a network is of, images or a table, decided once for all scripts that take both."""

from training.runs.images import ImageFlow
from training.runs.networks import NetworkChoice, NetworkFile
from training.runs.tables import TableFlow

Subject = ImageFlow | TableFlow


def subject_of(file: NetworkFile, choice: NetworkChoice, data_name: str | None) -> Subject:
    """The flow of an open network file.

    Args:
        file: The network and its file.
        choice: What was said of it.
        data_name: How results are to be named; None for the network's data set.

    Raises:
        UsageError: What was said contradicts the file, or its rows are given with conditions.
        DataError: The file is not of images or a table, or is broken.
    """
    if file.is_table:
        return TableFlow.of(file, choice.said, data_name).require_unconditional()
    return ImageFlow.of(file, choice.said, data_name)
