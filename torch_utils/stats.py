"""Running means of training quantities, summed on the device and read once a tick."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.files import atomic_path
from torch_utils.distributed import sum_over_ranks

LARGEST_FILE = 1 << 28
"""Maximum size of a file of statistics, in bytes; a line has about 500."""


class RunningMeans:
    """Running means and standard deviations of quantities by name, over all ranks.

    Statistics start again after each ``collect``. All ranks must add the same names in the same
    order.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, counted: Tensor | None = None) -> None:
        """Add the elements of a tensor of any shape to a quantity, without waiting for the device.

        Args:
            name: Name of the quantity.
            values: The tensor.
            counted: Boolean tensor ``[]``, False to ignore the values; None to count the values.
        """
        flat = values.detach().to(self._device, torch.float64).flatten()
        number = flat.new_full((), flat.numel())
        if counted is not None:
            flat, number = flat.where(counted, 0.0), number * counted
        sums = torch.stack([number, flat.sum(), flat.square().sum()])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def collect(self) -> dict[str, dict[str, float]]:
        """Return ``{name: {"mean", "std", "count"}}`` over all ranks, and start again.

        Quantities without counted values are left out.
        """
        result = {}
        for name, sums in self._sums.items():
            count, total, square = sum_over_ranks(sums).tolist()
            if not count:
                continue
            mean = total / count
            variance = max(square / count - mean**2, 0.0)
            result[name] = {"mean": mean, "std": variance**0.5, "count": count}
        self._sums.clear()
        return result


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a ``.jsonl`` file as one line, which is on disk at once.

    Non-finite numbers, which JSON cannot represent, become null.
    """
    record = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def keep_lines_until(path: Path, last: int) -> None:
    """Remove broken lines of a ``.jsonl`` file, and lines after ``last`` samples.

    A resumed run repeats the steps after its saved state, and writes their lines again.

    Raises:
        DataError: The path is not a file, or the file is too large for statistics of a run.
    """
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise DataError(
                f"{path} is not a file, but the statistics of the run are written there: move it "
                "away"
            )
        return
    if path.stat().st_size > LARGEST_FILE:
        raise DataError(f"{path} is too large for statistics of a run: move it away")
    kept = []
    for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        seen = record.get("seen", 0) if isinstance(record, dict) else None
        if isinstance(seen, int | float) and seen <= last:
            kept.append(line)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
