"""Starts the tests: what they share is in ``support/suite.py``."""

import os

# Before torch is imported, and for all processes that tests start: the tensors of tests are tiny,
# and threads would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import time

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.support")

from tests.support import budget  # noqa: E402

STARTED = time.monotonic()
settings.register_profile("few", max_examples=25, derandomize=True, deadline=None)
settings.register_profile("many", max_examples=500, deadline=None)
settings.load_profile("few")


def pytest_configure(config):
    """A process that has others run the tests, once it is ready, does not wait for PyTorch."""
    has_others = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not has_others:
        config.pluginmanager.import_plugin("tests.support.suite")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter):
    """Says what the tests cost; the slowest ones are above, by ``--durations``."""
    minutes, lines = (time.monotonic() - STARTED) / 60, budget.lines_of_tests()
    terminalreporter.write_sep(
        "=", f"{minutes:.1f} minutes, {lines:,} of at most {budget.MOST_LINES:,} lines of tests"
    )
