"""A look-ahead: ``lookahead-{key}.npz`` in the cache of the user.

The cache is ``~/.cache/inflationary-flows``, or the folder in ``$INFLATIONARY_FLOWS_CACHE``.

The regression of final states on noisy states of a network (``training.inference.lookahead``). It
is stored for the network's next posteriors if it took five seconds or more. The key depends on
everything that determines it: the network, its inputs besides the state, the steps, the seed, and
the way in which prior draws are made.

Nothing else depends on the file: without it, the regression is repeated, with the same result.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import torch

from dnnlib.errors import DataError
from dnnlib.urls import default_cache_dir
from training.files.declared import Key, ResultFile
from training.inference.lookahead import PRIOR_DRAWS, LookAhead, Measured
from training.inference.prior import Prior

MOST_BYTES = 64 << 20
"""Maximum size of a file in bytes: regressions with more than 1,300 numbers per point are not
stored.
"""
LOOKAHEAD = ResultFile(
    name="`lookahead-{key}.npz`",
    sizes="T times and D dimensions",
    keys={
        "times": Key("T", "times", increasing=True),
        "apart": Key(f"T {PRIOR_DRAWS} D", "final states of prior draws, minus expectations"),
        "needed": Key("", "number of steps that would make errors of one for each dimension"),
        "calls": Key("", "number of network evaluations"),
    },
)


def lookahead_file(
    digest: str, prior: Prior, ahead: LookAhead, label: tuple[float, ...] = ()
) -> Path:
    """Return the path of a look-ahead regression in the user's cache.

    The regression predicts the clean states of a network's prior draws from their noisy states.

    Args:
        digest: SHA-256 of the network.
        prior: The prior whose draws are used.
        ahead: Settings of the regression.
        label: Conditions of the network, if any.
    """
    draws = [prior.solver.name, prior.times.tolist(), PRIOR_DRAWS, prior.flow.device.type]
    key = repr([digest, ahead.steps, ahead.seed, *draws, *label])
    return default_cache_dir() / f"lookahead-{sha256(key.encode()).hexdigest()[:32]}.npz"


def load_lookahead(path: Path, dim: int, steps: int, device: torch.device) -> Measured | None:
    """Load a look-ahead regression, which predicts clean states from noisy states.

    Args:
        path: The file.
        dim: Dimension of points.
        steps: Number of steps of the diffusion.
        device: Device of the result.

    Returns:
        The regression; None if the file is missing, broken, or of another dimension or number of
        steps.
    """
    if not path.exists():
        return None
    with suppress(DataError):
        with LOOKAHEAD.open(path, T=steps + 1, D=dim) as saved:
            arrays = saved.all()
        times, apart = (torch.from_numpy(arrays[name]).to(device) for name in ("times", "apart"))
        return Measured(times, list(apart), float(arrays["needed"]), float(arrays["calls"]))
    return None


def save_lookahead(path: Path, measured: Measured) -> bool:
    """Store a look-ahead regression in a cache file; return whether it was stored.

    Large regressions are not stored. A file that cannot be written is not an error.
    """
    apart = torch.stack(measured.apart).cpu().double()
    if apart.nbytes > MOST_BYTES:
        return False
    times, counts = measured.times.cpu().double(), (measured.needed, float(measured.calls))
    with suppress(OSError, DataError):
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"times": times, "apart": apart, "needed": counts[0], "calls": counts[1]}
        LOOKAHEAD.save(path, arrays)
        return True
    return False
