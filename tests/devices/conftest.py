"""Two cards on a machine that has none."""

from collections.abc import Iterator

import pytest

from tests.support.fake_cuda import FakeCuda, fake_cuda


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda(devices=2) as cards:
        yield cards
