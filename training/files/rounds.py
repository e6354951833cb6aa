"""Rounds of simulations: the folders ``round1``, ``round2``, ... of ``posterior.py rounds``.

    {name}.npz              the data set that the round trains on: all simulations in its region
    {name}_params.json      what is known of it, below
    training/               the run of its training
    network.pkl             its network, of the posterior within the region

The JSON has format, fingerprint (which run it is of), round, share of the prior that is in the
region and its error, simulated (how many new ones) and failed (of these, which are left out), rows
(of the data set), last (whether no round follows), base (the round whose data set was taken over, 0
for none: not the one before if the posterior was mostly beyond its region), and region, null where
it is that of the base:

    least                   log density of the posterior of the round before, in nats
    center, axes, low, high     of a box: (theta - center) @ axes is between low and high

The region of a round is where both hold, and within that of its base.
Files appear in the order of this list but for the JSON, which is before the data set: a round that
is there is not made again.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import DataError
from torch_utils.results import load_json, save_json
from training.files.arrays import typed
from training.inference.region import Bounds

FORMAT = "inflationary-flows round 1"


@dataclass(frozen=True)
class RoundFacts:
    """What is known of the simulations of a round; attributes are what the JSON has, above."""

    fingerprint: str
    round: int
    share: float
    error: float
    simulated: int
    failed: int
    rows: int
    last: bool
    base: int


def save_round(path: Path, facts: RoundFacts, bounds: Bounds | None, more: dict[str, Any]) -> None:
    """Writes what is known of a round, whole or not at all."""
    region = None if bounds is None else bounds.plain()
    save_json(path, {"format": FORMAT, **asdict(facts), "region": region, **more})


def load_round(path: Path) -> tuple[RoundFacts, Bounds | None]:
    """What is known of a round, and the bounds of its region. Raises DataError if the file is
    missing, broken, or of something else."""
    content = load_json(path)
    broken = DataError(f"{path} does not tell of a round: remove its folder, or give --overwrite")
    kinds: dict[str, Any] = {each.name: each.type for each in fields(RoundFacts)}
    facts = typed(content, broken, **kinds)
    if content.get("format") != FORMAT:
        raise broken
    return RoundFacts(*facts), _bounds(content.get("region"), broken)


def _bounds(region: object, broken: DataError) -> Bounds | None:
    match region:
        case None:
            return None
        case {
            "least": float(least),
            "center": list(center),
            "axes": list(axes),
            "low": list(low),
            "high": list(high),
        }:
            pass
        case _:
            raise broken
    try:
        parts = [torch.tensor(part, dtype=torch.float64) for part in (center, axes, low, high)]
    except (TypeError, ValueError, RuntimeError):
        raise broken from None
    dim = len(center)
    if [list(part.shape) for part in parts] != [[dim], [dim, dim], [dim], [dim]]:
        raise broken
    return Bounds(least, *parts)
