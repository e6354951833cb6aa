"""What the documentation shows works: every block of these pages, every example of a docstring.

Blocks of a page run in their order, in one folder that has the network of ``make demo``. Trainings
and pictures are cut short by further options, since the last of an option counts. What cannot run
here says so before its block: ``<!-- not run: why -->``.
"""

import doctest
import importlib
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot
import pytest

from tests.support.running import in_coordinates, quick_endings, run_script, slowly
from training.pictures import theme

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PAGES = (
    "README.md",
    "docs/theory.md",
    "docs/howto/python.md",
    "docs/tutorials/simulator.md",
    "docs/tutorials/repeated-trials.md",
)
PAGES += ("docs/tutorials/rounds.md",)
FEW = {
    "toy_train": ["--duration=0.0004", "--batch=100", "--no-calibrate"],
    "toy_pfODE_int": ["--total_samples=50", "--steps=2"],
    "train": [
        *("--duration=0.00001", "--batch=8", "--cbase=16", "--cres=1", "--workers=0"),
        "--no-calibrate",
    ],
    "pfODE_int": ["--bs=8", "--n_iters=2"],
    "visualize": ["--no-animation"],
    "posterior": ["--draws=50", "--n_iters=2"],
}
"""Options that make a script quick."""
FEW_ROWS = ["--duration=0.0004", "--batch=100", "--width=8", "--depth=1"]
"""Of a training on a table."""
MANY = re.compile(r"\b[12]000\b")
"""Numbers of points in Python, in whose place there are a few."""
BLOCK = re.compile(
    r"(?P<skipped><!-- not run: .+ -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.S
)
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("dnnlib", "torch_utils", "training")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


class Shell:
    """Runs the lines of shell blocks: scripts in this process; bash expands their words."""

    def __init__(self):
        self._assigned = ""

    def run(self, text):
        for line in text.replace("\\\n", " ").splitlines():
            command = re.match(r"(?:torchrun --standalone|python) (\w+)\.py (.*)", line)
            if command:
                expand = f"{self._assigned}printf '%s\\0' {command[2]}"
                done = subprocess.run(["bash", "-c", expand], capture_output=True, check=True)
                self._run(command[1], done.stdout.decode().split("\0")[:-1])
            elif re.match(r"\w+=", line):
                self._assigned += line + "\n"
            else:
                raise AssertionError(f"a line that is no script's: {line}")

    def _run(self, name, words):
        options = [word for word in words if word.startswith("-")]
        # What a training that is cut short calls its network.
        words = [word.replace("snapshot-001000", "snapshot-000000") for word in words]
        few = FEW.get(name, []) + ["--runs=20"] * ("check" in words[:1])
        if name == "train" and any(re.fullmatch(r"--data=.*\.npz", word) for word in words):
            few = FEW_ROWS
        of_rounds = ["--simulations=150", "--draws=20", "--duration=0.0004"]
        few = {"population": [], "rounds": of_rounds}.get(words[0], few)
        with quick_endings(), in_coordinates(linear_start="on"):
            done = run_script(importlib.import_module(name), *words, *few)
        assert done.code == 0, f"{name} {options}: {done.err}"


@pytest.mark.parametrize(
    "page", slowly(PAGES, "docs/tutorials/repeated-trials.md", "docs/tutorials/rounds.md")
)
def test_every_block_of_a_page_runs(page, toy_network, tmp_path, monkeypatch):
    demo = tmp_path / "out" / "demo" / "PRP" / "network-snapshot-001000.pkl"
    demo.parent.mkdir(parents=True)
    shutil.copyfile(toy_network("--data_name=circles"), demo)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(theme, "DPI", 30)  # pictures of few pixels are drawn sooner
    shell, names = Shell(), {"__name__": "__main__"}
    blocks = list(BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")))
    assert blocks
    for block in blocks:
        if block["language"] == "bash" and not block["skipped"]:
            shell.run(block["text"])
        elif block["language"] == "python" and not block["skipped"]:
            with quick_endings():
                few = MANY.sub("20", block["text"])
                # Of posteriors with a likelihood, a pool alone that they are chosen from.
                few = few.replace("}, draws=50", "}, draws=50, sampler='pool'")
                few = few.replace(".train()", ".train(duration=0.0004)")
                exec(compile(few, page, "exec"), names)


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_docstrings_give_what_they_show(module):
    done = doctest.testmod(importlib.import_module(module))
    assert done.attempted > 0
    assert done.failed == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs_and_none_keeps_what_it_gave(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in codes)
    names = {"__name__": "__main__"}
    for cell in codes:
        exec(compile("".join(cell["source"]), str(path), "exec"), names)
    matplotlib.pyplot.close("all")


def test_pages_name_files_that_are_there_and_no_merge_is_left_half_done():
    for page in (*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        rooms = "tests|training|benchmarks|torch_utils"
        named = re.findall(rf"`((?:{rooms})/[\w/]+\.py)`", page.read_text())
        assert not [name for name in named if not (ROOT / name).exists()], page
    marks = re.compile(r"^(<{7}|>{7}) ", re.M)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert not [str(page) for page in pages if marks.search(page.read_text(encoding="utf-8"))]


def test_the_page_of_files_is_made_of_the_docstrings():
    made = runpy.run_path(str(ROOT / "docs" / "make_files.py"))
    page = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    assert made["page"]() == page, "run: python docs/make_files.py"
    formats = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "training" / "files").glob("*.py")
        if re.search(r"^\w*(FORMAT = | = ResultFile\()", path.read_text(encoding="utf-8"), re.M)
    }
    assert formats <= set(made["MODULES"])
