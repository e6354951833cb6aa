"""Random numbers by their seed, and numbers in double precision."""

import torch
from torch import Tensor


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers, from a generator or a new one of that seed."""
    return torch.randn(*shape, generator=generator or seeded(seed), dtype=torch.float64)


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
