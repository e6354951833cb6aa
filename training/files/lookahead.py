"""A look-ahead: ``lookahead-{key}.npz`` in the cache, ``~/.cache/inflationary-flows`` (or
``$INFLATIONARY_FLOWS_CACHE``).

What noisy states of a network tell of their ends (``training.inference.lookahead``), kept for its
next posteriors where it took five seconds or more. The key is of all it depends on: the network,
what it is given beside the state, the steps, the seed, and how draws of the prior are made.

    times     [K + 1], rising
    apart     [K + 1, 256, D], ends of draws of the prior less what is expected of them, float64
    needed    [], steps that would make errors of one for each dimension
    calls     [], network calls that it took

Nothing else depends on the file: without it, it is measured again, to the same numbers.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import DataError
from dnnlib.urls import default_cache_dir
from torch_utils.results import load_arrays, save_arrays
from training.inference.lookahead import PRIOR_DRAWS, LookAhead, Measured
from training.inference.prior import Prior

MOST_BYTES = 64 << 20
"""Of a file: those of more than 1,300 numbers a point are not kept."""
NAMES = ("times", "apart", "needed", "calls")


def lookahead_file(
    digest: str, prior: Prior, ahead: LookAhead, label: tuple[float, ...] = ()
) -> Path:
    """Where that of a network is, of this SHA-256, which is given this label, if any."""
    draws = [prior.solver.name, prior.times.tolist(), PRIOR_DRAWS, prior.flow.device.type]
    key = repr([digest, ahead.steps, ahead.seed, *draws, *label])
    return default_cache_dir() / f"lookahead-{sha256(key.encode()).hexdigest()[:32]}.npz"


def load_lookahead(path: Path, dim: int, steps: int, device: torch.device) -> Measured | None:
    """What was kept, of so many numbers and steps; None if nothing was, or it is broken."""
    if not path.exists():
        return None
    with suppress(DataError):
        arrays = load_arrays(path, NAMES)
        shapes = [(steps + 1,), (steps + 1, PRIOR_DRAWS, dim), (), ()]
        whole = [arrays[name] for name in NAMES]
        if [each.shape for each in whole] == shapes and all(
            each.dtype == np.float64 and np.isfinite(each).all() for each in whole
        ):
            times, apart = (torch.from_numpy(each).to(device) for each in whole[:2])
            return Measured(times, list(apart), float(arrays["needed"]), float(arrays["calls"]))
    return None


def save_lookahead(path: Path, measured: Measured) -> bool:
    """Keeps it, unless it is large; returns whether it did. A cache that takes nothing is no
    error."""
    arrays = {
        "times": measured.times.cpu().double().numpy(),
        "apart": torch.stack(measured.apart).cpu().double().numpy(),
        "needed": np.array(measured.needed),
        "calls": np.array(float(measured.calls)),
    }
    if arrays["apart"].nbytes > MOST_BYTES:
        return False
    with suppress(OSError, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, arrays)
        return True
    return False
