"""Rounds of simulations: the folders ``round1``, ``round2``, ... of ``posterior.py rounds``.

    {name}.npz              training data set of the round: all simulations in its region
    {name}_params.json      facts about the simulations, below
    training/               run directory of its training
    network.pkl             its network, of the posterior within the region
    likelihood/             run directory of the likelihood, in the last round
    likelihood.pkl          its network

The JSON has format, fingerprint (which identifies the run), round, share (prior probability of the
region) and its error, simulated (the number of new simulations) and failed (those of them that
failed and are left out), rows (of the data set), last (whether no round follows), base (the round
whose data set is extended, 0 for none; it is not the previous round if the posterior was mostly
outside that round's region), and region, null if it equals that of the base:

    least                   log density of the previous round's posterior, in nats
    center, axes, low, high     of a box: (theta - center) @ axes is between low and high

A round's region is the intersection of both sets with the region of its base. Files appear in the
order of this list, except for the JSON, which is written before the data set. Existing rounds are
not repeated.
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
    """Entries of the JSON of one round of truncated sequential inference."""

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
    """Write the JSON of a round: facts about its simulations, and bounds of its region.

    Args:
        path: Path of the JSON.
        facts: Facts about the simulations.
        bounds: Bounds of the region; None if the region equals that of the base round.
        more: Further entries of the JSON.
    """
    region = None if bounds is None else bounds.plain()
    save_json(path, {"format": FORMAT, **asdict(facts), "region": region, **more})


def load_round(path: Path) -> tuple[RoundFacts, Bounds | None]:
    """Load the facts about a round and the bounds of its region.

    The bounds are None if the region equals that of the base round, which this round extends.

    Raises:
        DataError: The file is missing, broken, or of another kind.
    """
    content = load_json(path)
    broken = DataError(f"{path} does not describe a round: remove its folder, or give --overwrite")
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
