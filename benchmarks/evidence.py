"""Evidence: cells of a claim that are run once and stored, and the pages made from them.

    python benchmarks/NAME.py [--only='moons*']     # runs the missing cells of a claim
    python benchmarks/evidence.py                   # renders the pages of all stored results

A claim of docs/evidence/protocol.md is a module of this package with a constant ``CLAIM``. A
finished cell is stored at once in ``benchmarks/results/NAME.json``, so that a killed run resumes.
``docs/evidence/NAME.md`` is made from that file alone.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib import import_module
from importlib.metadata import version
from math import isfinite, nan, sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from dnnlib.errors import DataError, InflationError
from dnnlib.files import atomic_path

ROOT = Path(__file__).parent.parent
FORMAT = 1
"""Format of result files; a file of another format is not rendered."""
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "evidence"
SEEDS = (100, 101, 102)
"""Seeds of the protocol."""
WORSE = 2.0
"""Number of standard errors from which a difference counts."""
LIBRARY = ("training", "torch_utils", "dnnlib", "experiments")
INNER = re.compile(r"\[[^][{}]*\]")
"""A list without lists in it, which result files have in one line."""
Figures = dict[str, Any]
Results = dict[str, Figures]
"""Figures of finished cells, by key."""


@dataclass(frozen=True)
class Claim:
    """A claim of docs/evidence/protocol.md.

    Attributes:
        name: Name of the script, the result file and the page.
        title: Heading of the page.
        sentence: The claim.
        cells: Functions that return figures, by the key of the cell: words and a seed.
        judge: Function that returns whether the claim holds, and the reason.
        body: Function that returns tables, and what they do not show.
        versions: Packages whose versions are stored.
    """

    name: str
    title: str
    sentence: str
    cells: Mapping[str, Callable[[], Figures]]
    judge: Callable[[Results], tuple[bool, str]]
    body: Callable[[Results], str]
    versions: Sequence[str] = ("torch", "numpy")

    @property
    def path(self) -> Path:
        """Path of the result file."""
        return RESULTS / f"{self.name}.json"

    def load(self) -> dict[str, Any]:
        """Read the result file, or return an empty result.

        Raises:
            DataError: The file has another format.
        """
        if not self.path.exists():
            return {"format": FORMAT, "cells": {}}
        stored: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        if stored.get("format") != FORMAT:
            raise DataError(
                f"{self.path} has format {stored.get('format')}, not {FORMAT}: delete the file and "
                f"run benchmarks/{self.name}.py again"
            )
        return stored

    def run(self, only: str = "*") -> None:
        """Run the missing cells whose keys match a pattern, and store each of them."""
        stored = self.load()
        missing = [key for key in self.cells if key not in stored["cells"] and fnmatch(key, only)]
        for place, key in enumerate(missing):
            print(f"{self.name}: {key} ({place + 1} of {len(missing)})", flush=True)
            began = cpu_seconds()
            figures = self.cells[key]()
            seconds = cpu_seconds() - began
            about = {"seconds": seconds, "commit": commit(self.name)}
            stored["cells"][key] = {**about, "figures": figures}
            numbers = {package: version(package) for package in self.versions}
            stored["versions"] = {"python": platform.python_version(), **numbers}
            stored |= {"planned": len(self.cells), "machine": machine()}
            text = json.dumps(rounded(stored), indent=1)
            text = INNER.sub(lambda found: " ".join(found[0].split()), text)
            with atomic_path(self.path) as path:
                path.write_text(text + "\n", encoding="utf-8")

    def text(self) -> str:
        """Return the page, from the result file."""
        stored = self.load()
        cells, planned = stored["cells"], stored["planned"]
        results = {key: cell["figures"] for key, cell in cells.items()}
        holds, reason = self.judge(results)
        verdict = "The claim holds" if holds else "The claim fails"
        if len(cells) < planned:
            verdict = f"{planned - len(cells)} of {planned} cells are missing. {verdict} so far"
        minutes = sum(cell["seconds"] for cell in cells.values()) / 60
        numbers = ", ".join(f"{name} {number}" for name, number in stored["versions"].items())
        commits = ", ".join(sorted({cell["commit"] for cell in cells.values()}))
        return (
            f"# {self.title}\n\n"
            f"<!-- Made by `make evidence` from benchmarks/results/{self.name}.json. -->\n\n"
            f"*{self.sentence}*\n\n**{verdict}:** {reason}\n\n{self.body(results).strip()}\n\n"
            f"## Run\n\n```bash\npython benchmarks/{self.name}.py\n```\n\n"
            f"{minutes:.0f} CPU minutes for {len(cells)} cells, by the [protocol](protocol.md). "
            f"Commit {commits}; {numbers}; {stored['machine']}.\n"
        )

    def render(self) -> None:
        """Write the page."""
        with atomic_path(PAGES / f"{self.name}.md") as path:
            path.write_text(self.text(), encoding="utf-8")

    def main(self) -> None:
        """Run the command line of the claim's script."""

        @click.command(help=f"{self.title}: run the missing cells, then render the page.")
        @click.option("--only", default="*", help="Pattern of the keys of cells.")
        def command(only: str) -> None:
            torch.set_num_threads(1)
            try:
                self.run(only)
                self.render()
            except InflationError as error:
                raise click.ClickException(str(error)) from error

        command()


def stored_claims() -> list[Claim]:
    """Return the claims that have results."""
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    return [import_module(f"benchmarks.{name}").CLAIM for name in names]


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its finished children."""
    return sum(os.times()[:4])


def commit(name: str) -> str:
    """Return the last commit of the library, experiments and a script, with + if changed."""
    code = [*LIBRARY, f"benchmarks/{name}.py"]

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--", *code)
    return git("log", "-1", "--format=%h", "--abbrev=8", "--", *code) + ("+" if changed else "")


def machine() -> str:
    """Describe the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"one thread of {os.cpu_count()} cores, {names[0] if names else platform.machine()}"


def rounded(value: Any) -> Any:
    """Round floats to six significant digits, so that files are short; NaN becomes None."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return rounded(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if isfinite(value) else None
    return value


def select(results: Results, *words: str) -> list[Figures]:
    """Return the figures of the cells whose keys contain all of these words."""
    return [figures for key, figures in results.items() if set(words) <= set(key.split())]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return a mean and its standard error, NaN for a single value."""
    return mean(values), stdev(values) / sqrt(len(values)) if len(values) > 1 else nan


def apart(cells: Iterable[Figures], first: str, second: str, key: str) -> tuple[float, float]:
    """Return the mean difference of two methods in a figure, over seeds, and its standard error."""
    return mean_and_error([cell[first][key] - cell[second][key] for cell in cells])


def figure(values: Iterable[float], digits: str = ".3f") -> str:
    """Format a mean and its standard error; a dash if there is no value."""
    there = list(values)
    if not there:
        return "–"
    average, error = mean_and_error(there)
    return f"{average:{digits}}" + (f" ± {error:{digits}}" if len(there) > 1 else "")


def size_of(name: str, cells: Sequence[Figures]) -> str:
    """Format the name and the size of a table of data."""
    return f"{name}, {cells[0]['rows']:,} × {cells[0]['columns']}"


def for_each_seed(
    function: Callable[[str, int], Figures], names: Iterable[str]
) -> dict[str, Callable[[], Figures]]:
    """Return the cells of a function of a table's name and a seed."""
    return {f"{name} {seed}": partial(function, name, seed) for name in names for seed in SEEDS}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Return a table in Markdown, whose first columns are words and whose others are numbers."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@click.command(help="Render the pages of all stored results.")
def main() -> None:
    for claim in stored_claims():
        claim.render()
        print(f"Wrote docs/evidence/{claim.name}.md")


if __name__ == "__main__":
    main()
