"""Processes forked from one that has imported PyTorch and our code, so that imports cost once."""

from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("tests.support.commands", "tests.fuzz.readers"),
        *(f"training.commands.{path.stem}" for path in ROOT.glob("*.py")),
    ]
)
