"""Evidence: pages are made from stored results alone, and cells are run once."""

import json
from dataclasses import replace

import pytest

from benchmarks import evidence
from benchmarks.evidence import FORMAT, PAGES, ROOT, Claim, figure, rounded, select, stored_claims
from dnnlib.errors import DataError

STORED = {claim.name: claim for claim in stored_claims()}


@pytest.fixture
def claim(tmp_path, monkeypatch):
    """A claim of two cells, of which each counts its runs."""
    monkeypatch.setattr(evidence, "RESULTS", tmp_path)
    monkeypatch.setattr(evidence, "PAGES", tmp_path)
    runs = []

    def cell(value):
        runs.append(value)
        return {"value": value, "runs": runs}

    def judge(results):
        return len(results) == 2, "a reason."

    cells = {f"toy {seed}": lambda seed=seed: cell(seed / 3) for seed in (1, 2)}

    def body(results):
        return figure(each["value"] for each in select(results, "toy"))

    return Claim("claim", "A title", "A sentence.", cells, judge, body)


@pytest.mark.parametrize("name", STORED)
def test_a_page_is_made_from_its_results_and_is_in_the_list_of_pages(name):
    claim = STORED[name]
    assert claim.name == name
    assert set(claim.load()["cells"]) <= set(claim.cells)
    page = PAGES / f"{name}.md"
    assert page.read_text(encoding="utf-8") == claim.text(), "run: make evidence"
    prose = [line for line in claim.text().splitlines() if not line.startswith("|")]
    assert len(" ".join(prose).split()) <= 350
    assert f" evidence/{name}.md\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_cells_run_once_and_an_unfinished_page_says_how_many_are_missing(claim):
    claim.run(only="* 2")
    assert "1 of 2 cells are missing. The claim fails so far" in claim.text()
    assert "\n0.667\n" in claim.text()
    claim.run()
    assert "**The claim holds:** a reason." in claim.text()
    stored = claim.load()
    assert stored["cells"]["toy 1"]["figures"] == {"value": 0.333333, "runs": [0.666667, 0.333333]}
    before = claim.path.read_bytes()
    replace(claim, cells=dict.fromkeys(claim.cells)).run()  # calls nothing
    assert claim.path.read_bytes() == before


def test_results_of_another_format_are_refused(claim):
    claim.run()
    stored = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps(stored | {"format": FORMAT + 1}))
    with pytest.raises(DataError, match=r"format 2, not 1: delete the file and run"):
        claim.text()


def test_figures_are_rounded_and_have_standard_errors():
    assert rounded({"a": [1 / 3, float("nan")], "b": True}) == {"a": [0.333333, None], "b": True}
    assert figure([1.0, 3.0], ".1f") == "2.0 ± 1.0"
    assert figure([2.0]) == "2.000"
    assert figure([]) == "–"
