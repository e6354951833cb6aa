"""What options of networks stand for: a network file, what it is of, and its law of latents."""

from training.options.declared import Declared
from training.options.shared import ImageNetworkOptions
from training.runs.latents import LatentChoice, latent_choice
from training.subjects import NetworkFile, Subject, open_subject


def opened(options: ImageNetworkOptions, settings: Declared) -> tuple[Subject, NetworkFile]:
    """A network of images or a table, and its file.

    Args:
        options: Of the network.
        settings: Of the command, which are to be for this kind of data.

    Raises:
        UsageError: What was said contradicts the file, or its rows are given with conditions.
        DataError: The file is missing or broken.
    """
    file = NetworkFile.open(
        options.network, options.end_vars, options.calibration, options.precision
    )
    settings.require_kind(file.kind, options.network)
    return of_data_set(file, options.expected(), options.data_name), file


def of_data_set(
    file: NetworkFile, expected: dict[str, object], data_name: str | None = None
) -> Subject:
    """What a network file is of: images, or rows that are given with no conditions.

    Raises:
        UsageError: What was said contradicts the file, or its rows are given with conditions.
        DataError: The file is of a toy, or broken.
    """
    file.require_data_set()
    return open_subject(file, expected, data_name).require_unconditional()


def latent_of(source: str, eps: str | None, otherwise: str) -> LatentChoice:
    """What generation starts from.

    Args:
        source: ``--gen_source``.
        eps: As typed.
        otherwise: What to do instead of saying ``empirical``.
    """
    if source == "empirical":
        return LatentChoice(empirical=True)
    return latent_choice(eps, otherwise)
