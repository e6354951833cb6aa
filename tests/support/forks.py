"""Processes forked from one that has imported PyTorch and our code, so that imports cost once."""

from multiprocessing import get_context

from inflationary_flows.__main__ import scripts

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("tests.support.commands", "tests.fuzz.readers"),
        *(f"training.commands.{stem}" for stem in scripts()),
    ]
)
