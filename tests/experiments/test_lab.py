"""What experiments share: parts that are measured once, and sections of a page."""

from pathlib import Path
from typing import Any

import pytest

from experiments.lab import Lab
from experiments.participation_ratio import basis_of, measured, settled


def test_a_part_that_is_there_is_not_measured_again(tmp_path: Path) -> None:
    one, calls = Lab("name", "cpu", tmp_path, False), []

    def measure() -> dict[str, Any]:
        calls.append(1)
        return {"number": 3}

    assert one.part("key", measure) == one.part("key", measure) == {"number": 3}
    assert len(calls) == 1
    assert Lab("name", "gpu", tmp_path, False).part("key", measure)
    assert len(calls) == 2


def test_states_end_at_the_dimensions_that_are_kept(tmp_path: Path) -> None:
    found = measured(basis_of(Lab("name", "cpu", tmp_path, False), "swirl"), 2)
    assert found["PRP"]["ratios"][0] == pytest.approx(found["data"], rel=1e-3)
    assert found["PRP"]["ratios"][-1] == pytest.approx(3, rel=0.01)
    assert 2 < found["PRR"]["ratios"][-1] < 2.3
    assert settled(found["PRP"]["ratios"]) == 0
    assert settled([2.0, 1.2, 1.04, 1.0]) == pytest.approx(2 / 3)
