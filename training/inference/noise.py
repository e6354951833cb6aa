"""Random numbers of chains, as functions of the seed, the observation and the step.

An observation's draws therefore do not depend on the rank or on the observations in the same call.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream

CHUNK = 16
"""Number of steps whose numbers are drawn at once, since seeding a generator costs as much as
drawing many numbers.
"""
NORMAL, UNIFORM = 0, 1


class Noise:
    """Random numbers of chains, reproducible by seed, observation and step.

    Args:
        seed: Random seed.
        observations: Index of each of the M observations.
        chains: Number of chains or particles per observation, C.
        device: Device of the numbers, which are drawn on the CPU so that all devices get the same
            numbers.
        chunk: Number of steps whose numbers are drawn and stored at once.
        dtype: Data type of normal numbers. Single precision gives different numbers, drawn four
            times as fast.
    """

    def __init__(
        self,
        seed: int,
        observations: Sequence[int],
        chains: int,
        device: torch.device,
        chunk: int = CHUNK,
        dtype: torch.dtype = torch.float64,
    ):
        self._seed, self._observations, self.chains = seed, list(observations), chains
        self._device, self._chunk, self._dtype = device, chunk, dtype
        self._chunks: dict[tuple[int, int], tuple[int, Tensor]] = {}

    def alone(self, place: int, chains: int | None = None) -> "Noise":
        """Return the random numbers of one observation only.

        Args:
            place: Index of the observation.
            chains: Number of chains or particles; None for the present number.
        """
        own, chains = self._observations[place : place + 1], chains or self.chains
        return Noise(self._seed, own, chains, self._device, self._chunk, self._dtype)

    def normal(self, step: int, size: int) -> Tensor:
        """Return the standard normal numbers ``[M, C, size]`` of a step."""
        return self._numbers(NORMAL, step, size)

    def uniform(self, step: int, size: int) -> Tensor:
        """Return the uniform numbers ``[M, C, size]`` of a step, in [0, 1), float64."""
        return self._numbers(UNIFORM, step, size)

    def _numbers(self, kind: int, step: int, size: int) -> Tensor:
        chunk, place = divmod(step, self._chunk)
        known, numbers = self._chunks.get((kind, size), (-1, torch.empty(0)))
        if known != chunk:
            draw = torch.randn if kind == NORMAL else torch.rand
            dtype = self._dtype if kind == NORMAL else torch.float64
            shape, keys = (
                (self._chunk, self.chains, size),
                (self._seed, Stream.CHAINS, chunk, kind, size),
            )
            sources = [seeded_generator("cpu", *keys, index) for index in self._observations]
            drawn = [draw(shape, generator=source, dtype=dtype) for source in sources]
            numbers = torch.stack(drawn, dim=1)
            self._chunks[kind, size] = chunk, numbers
        return numbers[place].to(self._device)

    def shared_integer(self, step: int, most: int) -> int:
        """Return a random integer from 1 to ``most`` for a step, the same for all observations."""
        generator = seeded_generator("cpu", self._seed, Stream.CHAINS, step)
        return int(torch.randint(1, most + 1, (), generator=generator))
