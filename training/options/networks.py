"""Options of the scripts that use a trained network: which, what it is, and how to use it."""

from dataclasses import dataclass
from typing import Any

from dnnlib.errors import UsageError
from training.names import IMAGES, PRECISIONS
from training.options.declared import Declared, option
from training.options.types import COUNT, NETWORK, POSITIVE, choice

KNOWN = "the network's"
"""What is the default of all that a network file knows."""


def network(required: bool = True) -> Any:
    """The option ``--network``."""
    return option(type=NETWORK, required=required, help="Network file: a path or an https URL.")


def calibration() -> Any:
    """The option ``--calibration``."""
    return option(
        "--calibration/--no-calibration",
        default=True,
        help="Use the calibration in the network file, if it has one.",
    )


def end_vars() -> Any:
    """The option ``--end_vars``."""
    return option(type=POSITIVE, default=1.0, help="A0, the std of kept latents.")


def store_grid() -> Any:
    """The option ``--store_grid``."""
    return option(is_flag=True, help="Keep the times of --disc=adapted in the network file.")


def check_storage(store: bool, disc: str, network: str | None) -> None:
    """Raises UsageError unless times can be kept in a network file, if they are to be.

    Args:
        store: Whether they are.
        disc: What times these are.
        network: The network; None if there is none.
    """
    if store and (disc != "adapted" or network is None):
        raise UsageError("--store_grid goes with a network and --disc=adapted")
    if store and network is not None and "://" in network:
        raise UsageError("--store_grid writes into the network file: give a path, not a URL")


@dataclass(frozen=True, kw_only=True)
class CallOptions(Declared):
    """How a network of images is called."""

    section = "Network"
    precision: str = option(
        type=choice(PRECISIONS),
        default="fp32",
        help="Precision of the network; states are float64.",
    )
    batch_gpu: int | None = option(
        "--batch-gpu",
        type=COUNT,
        unset="16 on a CPU, 128 on CUDA",
        help="Images of one network call",
    )


@dataclass(frozen=True, kw_only=True)
class ImageNetworkOptions(CallOptions):
    """A network of images, and what it is said to be."""

    network: str = network()
    data_name: str | None = option(
        unset="the network's data set", help="Name of the data in the names of results"
    )
    data_dim: int | None = option(type=COUNT, unset=KNOWN, help="Numbers of an image")
    dims_to_keep: int | None = option(type=COUNT, unset=KNOWN, help="Dimensions kept")
    img_size: int | None = option(of=IMAGES, type=COUNT, unset=KNOWN, help="Side in pixels")
    img_ch: int | None = option(of=IMAGES, type=COUNT, unset=KNOWN, help="Channels")
    calibration: bool = calibration()
    end_vars: float = end_vars()

    def expected(self) -> dict[str, Any]:
        """What the network is said to be, by name."""
        names = ("data_dim", "dims_to_keep", "img_size", "img_ch")
        return {name: getattr(self, name) for name in names}
