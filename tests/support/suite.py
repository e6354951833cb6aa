"""What all tests share: scripts in this process, two ranks, tiny networks, and guards."""

import gc
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch

import toy_train
from tests.support import running
from tests.support.forking import FORKING
from tests.support.rank_pool import RankPool
from tests.support.running import good, run_script, trained

pytest_plugins = [
    *("tests.support.image_runs", "tests.support.image_models", "tests.support.finished_runs"),
    "tests.support.commands",
]

torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Sorts files for parallel workers: those that start processes come first, since they are one
    worker's, then scripts, which take longest; those of a folder or script stay together."""
    root = Path(__file__).parents[1]

    def room(item):
        folder, name = item.path.parent, item.path.stem.split("_")[1]
        return folder, name if folder == root else ""

    first = {}
    for index, item in enumerate(items):
        first.setdefault(room(item), index)

    def place(item):
        starts = item.path.name in FORKING or "two_ranks" in getattr(item, "fixturenames", ())
        return not starts, item.path.parent != root, first[room(item)]

    items.sort(key=place)


def pytest_collection_finish():
    # What is imported by now stays: the collector need not look at it after each module.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_global_changes():
    """Fails a test that leaves torch with other global settings. Seeds torch's own generator."""
    torch.manual_seed(0)
    with running.torch_settings_put_back() as changed:
        yield
    assert not changed, "the test leaves torch changed"


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    """Fails a test that leaves other filters of warnings, which pytest would put back."""
    before, imported = list(warnings.filters), len(sys.modules)
    yield
    # Some libraries set filters when they are first imported.
    assert list(warnings.filters) == before or len(sys.modules) > imported


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open():
    """Closes what tests leave open, so that a warning names the module that left it."""
    yield
    gc.collect()
    gc.freeze()  # what is alive still is not looked at again


@pytest.fixture(scope="session")
def run_once(tmp_path_factory):
    """``run_once(script, *arguments) -> (folder, output)``: what was run once is not run again, and
    its folder is not to be written to."""

    @cache
    def run(*given):
        folder = tmp_path_factory.mktemp("once") / "new" / "folder"
        return folder, good(run_script(*given, f"--save_dir={folder}")).out

    return run


@pytest.fixture(scope="session")
def two_ranks():
    pool = RankPool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def toy_network(tmp_path_factory):
    """``toy_network(option, ...)``: the file of one that has hardly been trained, made once."""

    @cache
    def train(*given):
        few = ("--duration=0.0004", "--batch=100", "--lr=0.1")
        folder = trained(tmp_path_factory.mktemp("toy_network"), toy_train, *few, *given)
        return next(folder.glob("network-*.pkl"))

    return train


@pytest.fixture(scope="session")
def arviz():
    """ArviZ, which warns of its future when it is imported; tests without it are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = pytest.importorskip("arviz", minversion="0.23")
    return got
