"""What these tests share: a generator, and run folders."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dnnlib.logs import logger, setup_logging
from tests.support.draws import seeded
from training.learning.run_folder import Place, RunFolder


@pytest.fixture
def generator() -> torch.Generator:
    return seeded()


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Callable[[str], RunFolder]]:
    """Makes run folders by name; the log goes to their files and to nobody else afterwards."""
    setup_logging()

    def make(name: str) -> RunFolder:
        return RunFolder.create(Place(tmp_path / name, "", itself=True), {})

    yield make
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
