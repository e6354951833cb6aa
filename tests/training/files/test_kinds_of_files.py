"""The table of the kinds of files: what it names exists, and it names every kind."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from training.files.formats import FORMATS, PREFIX
from training.pictures.album import drawing_of
from training.report.finding import section_maker

FILES = Path(__file__).parents[3] / "training" / "files"
BESIDE = {"simulations", "roundtrip errors", "roundtrip errors of rows", "image distances"}
BESIDE |= {"generated images", "mixture", "model comparison", "round", "trajectory"}
"""Kinds of JSON files and of draws of weights. What a trajectory is of says its kind."""


@pytest.mark.parametrize("kind", FORMATS)
def test_what_draws_and_shows_a_kind_exists(kind: str) -> None:
    if FORMATS[kind].drawn:
        assert callable(drawing_of(kind))
    if FORMATS[kind].shown:
        assert callable(section_maker(kind))


def test_every_format_has_a_line() -> None:
    written = {
        value
        for path in FILES.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("FORMAT")
        for value in [getattr(import_module(f"training.files.{path.stem}"), node.targets[0].id)]
    }
    kinds = {text.removeprefix(PREFIX).rpartition(" ")[0] for text in written}
    assert kinds - BESIDE <= FORMATS.keys()
