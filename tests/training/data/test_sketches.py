"""Rows that were seen before, and rows that are only alike by chance."""

import numpy as np

from training.data.sketches import MOST_SKETCHED, Sketch, row_numbers


def test_rows_that_were_seen_are_told_from_those_that_chance_repeats() -> None:
    draw = np.random.default_rng(0)

    def numbers(count: int, levels: int) -> np.ndarray:
        return row_numbers(draw.integers(levels, size=(count, 4)).astype(float))

    for count, levels in ((300, 9), (3 * MOST_SKETCHED, 30)):
        seen, fresh = numbers(count, levels), numbers(1000, levels)
        sketch = Sketch.of(seen)
        assert len(sketch.listed) == min(count, MOST_SKETCHED)
        assert sketch.repeated(fresh) > 0
        assert sketch.repeated_by_chance(fresh, alike=True)
        again = np.concatenate([fresh, seen[:100]])
        assert not sketch.repeated_by_chance(again, alike=True)
    few, once = numbers(500, 2), Sketch.of(row_numbers(draw.normal(size=(100, 2))))
    assert Sketch.of(few).repeated_by_chance(few, alike=True)  # nothing can tell
    assert not once.repeated_by_chance(once.numbers[:1], alike=False)
    assert once.repeated_by_chance(once.numbers[:1], alike=True)
    assert not once.repeated_by_chance(once.numbers[:9], alike=True)
