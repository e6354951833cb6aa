"""What experiments share: parts that are measured once, and sections of a page."""

from pathlib import Path
from typing import Any

import pytest

from dnnlib.errors import DataError
from experiments.lab import Lab, with_section, with_time
from experiments.participation_ratio import basis_of, measured, settled

PAGE = "Head\n<!-- one -->\nold\n<!-- end of one -->\nrest\n"


def test_a_part_that_is_there_is_not_measured_again(tmp_path: Path) -> None:
    one, calls = Lab("name", "cpu", tmp_path, False), []

    def measure() -> dict[str, Any]:
        calls.append(1)
        return {"number": 3}

    assert one.part("key", measure) == one.part("key", measure) == {"number": 3}
    assert len(calls) == 1
    assert Lab("name", "gpu", tmp_path, False).part("key", measure)
    assert len(calls) == 2


def test_a_section_is_replaced_and_the_rest_of_the_page_stays() -> None:
    page = with_section(PAGE, "one", "new")
    assert page == "Head\n<!-- one -->\n\nnew\n\n<!-- end of one -->\nrest\n"
    assert with_section(page, "one", "new") == page
    with pytest.raises(DataError, match="no lines '<!-- two -->'"):
        with_section(PAGE, "two", "new")


def test_the_time_of_an_experiment_is_in_its_row_of_the_table() -> None:
    page = "| a | `experiments/one.py` | 1 s |\n| b | `experiments/two.py` | |\nrest\n"
    assert with_time(page, "two", "3 min") == page.replace("| |", "| 3 min |")
    assert with_time(page, "one", "9 s") == page.replace("1 s", "9 s")
    with pytest.raises(DataError, match="no row"):
        with_time(page, "three", "1 s")


def test_states_end_at_the_dimensions_that_are_kept(tmp_path: Path) -> None:
    found = measured(basis_of(Lab("name", "cpu", tmp_path, False), "swirl"), 2)
    assert found["PRP"]["ratios"][0] == pytest.approx(found["data"], rel=1e-3)
    assert found["PRP"]["ratios"][-1] == pytest.approx(3, rel=0.01)
    assert 2 < found["PRR"]["ratios"][-1] < 2.3
    assert settled(found["PRP"]["ratios"]) == 0
    assert settled([2.0, 1.2, 1.04, 1.0]) == pytest.approx(2 / 3)
