"""What experiments share: parts that are measured once, and sections of a page."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy_train
from dnnlib.errors import DataError
from experiments import lab
from experiments.lab import Lab, with_section, with_time
from experiments.participation_ratio import basis_of, measured, settled
from tests.support.running import Result

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


TRAINING = (
    *("toy_train.py", "--data_name=circles", "--duration=0.0004", "--batch=100"),
    "--no-calibrate",
)


@pytest.fixture
def here(run_script: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scripts run in this process. Returns the options of each that did."""
    ran: list[str] = []

    def run(script: str, *options: str) -> None:
        ran.append(" ".join(options))
        assert run_script(toy_train, *options).code == 0

    monkeypatch.setattr(lab, "run", run)
    return ran


def test_a_finished_network_is_not_trained_again(tmp_path: Path, here: list[str]) -> None:
    first, other = (Lab(name, "cpu", tmp_path, False) for name in ("one", "another"))
    network = first.trained("circles", *TRAINING)
    assert other.trained("circles", *TRAINING) == network
    assert len(here) == 1
    # Both know what it took, and neither takes a network of other options for its own.
    assert first.taken == other.taken > 0
    with pytest.raises(DataError, match="was trained with"):
        other.trained("circles", *TRAINING, "--seed=1")


def test_a_training_that_was_killed_goes_on(tmp_path: Path, here: list[str]) -> None:
    network = Lab("one", "cpu", tmp_path, False).trained("circles", *TRAINING)
    whole = network.read_bytes()
    network.unlink()
    network.with_name("finished.json").unlink()
    again = Lab("another", "cpu", tmp_path, False).trained("circles", *TRAINING)
    assert again.read_bytes() == whole
    assert here[1] == f"--resume={network.parent}"
