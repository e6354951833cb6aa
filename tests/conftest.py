"""Starts the tests: what they share is in ``support/suite.py``."""

import os

# Before torch is imported, and for all processes that tests start: the tensors of tests are tiny,
# and threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.support")

from tests.support.forking import FORKING  # noqa: E402

STARTED = time.monotonic()
ROOT = Path(__file__).parents[1]
settings.register_profile("few", max_examples=25, derandomize=True, deadline=None)
settings.register_profile("many", max_examples=500, deadline=None)
settings.load_profile("few")


def pytest_configure(config):
    """A process that has others run the tests, once it is ready, does not wait for PyTorch."""
    has_others = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not has_others:
        config.pluginmanager.import_plugin("tests.support.suite")


@cache
def worker_of(file):
    """What a file of tests is run together with: those that start processes from one that has
    imported all have one worker, which imports once."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return "processes" if "two_ranks" in text or Path(file).name in FORKING else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class LoadWorkerScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):  # what its own base classes differ in
            return worker_of(nodeid.partition("::")[0])

    return LoadWorkerScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Print how long the tests took; the slowest ones are above, by ``--durations``."""
    terminalreporter.write_sep("=", f"{(time.monotonic() - STARTED) / 60:.1f} minutes")
