"""Many rows in one array, made and narrowed without a second one beside it."""

from collections.abc import Iterable, Sequence

import numpy as np

from training.data.tables.foreign import BLOCK_ROWS

CHUNK = 40 << 20
"""Bytes that blocks are collected to. The system has so much back as soon as it is free, while the
allocator (glibc's, up to 32 MiB) may keep what was freed in smaller parts."""


def joined(blocks: Iterable[np.ndarray], columns: int) -> np.ndarray:
    """Blocks ``[n, columns]`` as one array ``[N, columns]``, row after row in memory."""
    chunks: list[np.ndarray] = []
    pending: list[np.ndarray] = []
    size = 0
    for block in blocks:
        pending.append(block)
        size += block.nbytes
        if size >= CHUNK:
            chunks.append(_concatenated(pending, columns))
            pending, size = [], 0
    chunks.append(_concatenated(pending, columns))
    pending.clear()
    values = np.empty((sum(map(len, chunks)), columns))
    chunks.reverse()
    start = 0
    while chunks:
        chunk = chunks.pop()
        values[start : start + len(chunk)] = chunk
        start += len(chunk)
    return values


def _concatenated(blocks: Sequence[np.ndarray], columns: int) -> np.ndarray:
    # A block that is large by itself is not copied.
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty((0, columns)), *blocks])


def narrowed(values: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """The columns ``[N, len(places)]`` at some places, in the memory of all: ``values`` is lost.

    Args:
        values: Rows ``[N, D]``, one after the other in memory.
        places: Different ones.
    """
    count, kept = len(values), len(places)
    memory = values.reshape(-1)
    assert np.shares_memory(memory, values) or not count
    for start in range(0, count, BLOCK_ROWS):
        # It is a copy, and the place of these columns reaches no row that is still to come.
        block = values[start : start + BLOCK_ROWS, places]
        memory[start * kept : start * kept + block.size] = block.reshape(-1)
    return memory[: count * kept].reshape(count, kept)
