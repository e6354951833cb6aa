"""What does not fit the machine, refused before a run begins."""

from collections.abc import Mapping
from typing import Any

import psutil
import torch

from dnnlib.errors import UsageError
from training.networks import NETWORKS

PARAMETER_BYTES = 20
"""Of a parameter, its average, its gradient and its two moments in Adam, all in float32."""
NUMBER_BYTES = 24
"""Of a number of a batch: clean, its noise, and both together, in float64."""
NEAR_BYTES = 4
"""Of a number of a point that is near, in float32."""


def require_network(name: str, arguments: Mapping[str, Any], device: torch.device) -> None:
    """Raises UsageError if a network cannot be built, or needs more memory than there is.

    Args:
        name: A name in ``NETWORKS``.
        arguments: Arguments of its constructor.
        device: Device of the training.
    """
    with torch.device("meta"):
        network = NETWORKS[name](**arguments)
    count = sum(parameter.numel() for parameter in network.parameters())
    _require(f"a network of {count:,} parameters", count * PARAMETER_BYTES, device)


def require_batch(batch: int, dim: int, device: torch.device, near: int = 0) -> None:
    """Raises UsageError if a batch of so many dimensions needs more memory than there is.

    Args:
        batch: Number of samples.
        dim: Dimensions of each.
        device: Where they are.
        near: Further points that each may find near.
    """
    needed = batch * dim * (NUMBER_BYTES + near * NEAR_BYTES)
    _require(f"--batch={batch} of {dim} dimensions", needed, device)


def _require(what: str, needed: int, device: torch.device) -> None:
    there = psutil.virtual_memory().total
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    if needed > there:
        raise UsageError(
            f"{what} takes {needed / 2**30:.3g} GiB of memory at least, but {device.type} has "
            f"{there / 2**30:.3g}: give less"
        )
