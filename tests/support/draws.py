"""Random numbers by their seed, and numbers in double precision."""

import torch


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, generator=None):
    """Standard normal numbers, from a generator or a new one of that seed."""
    return torch.randn(*shape, generator=generator or seeded(seed), dtype=torch.float64)


def double(values):
    return torch.tensor(values, dtype=torch.float64)
