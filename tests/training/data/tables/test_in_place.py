"""Rows in one array: what comes of blocks and of fewer columns, and that memory is used again."""

import numpy as np
import pytest

from training.data.tables import foreign
from training.data.tables.foreign import BLOCK_ROWS, joined, narrowed

ROWS = np.random.default_rng(0).normal(size=(2 * BLOCK_ROWS + 7, 5))


@pytest.mark.parametrize("chunk", [1, 1000, foreign.CHUNK])
def test_blocks_of_any_size_are_joined_in_their_order(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(foreign, "CHUNK", chunk)
    blocks = np.split(ROWS, [0, 3, 3, 90, BLOCK_ROWS])
    found = joined(iter(blocks), 5)
    np.testing.assert_array_equal(found, ROWS)
    assert not np.shares_memory(found, ROWS)
    assert joined(iter([]), 5).shape == (0, 5)


@pytest.mark.parametrize("places", [[0, 2, 3], [4, 1], [], [0, 1, 2, 3, 4]], ids=str)
def test_columns_stay_in_the_memory_of_all(places: list[int]) -> None:
    values = ROWS.copy()
    found = narrowed(values, places)
    np.testing.assert_array_equal(found, ROWS[:, places])
    assert np.shares_memory(found, values) or not places
    assert found.flags.c_contiguous
