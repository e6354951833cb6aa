"""What these tests share: a generator, and run folders."""

import pytest

from dnnlib.logs import setup_logging
from tests.support.draws import seeded
from tests.support.running import log_put_back
from training.learning.run_folder import Place, RunFolder


@pytest.fixture
def generator():
    return seeded()


@pytest.fixture
def run_folder(tmp_path):
    """Makes run folders by name; the log goes to their files and to nobody else afterwards."""
    setup_logging()

    def make(name, **record):
        return RunFolder.create(Place(tmp_path / name, "", itself=True), record)

    yield make
    log_put_back()
