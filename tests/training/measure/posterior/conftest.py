"""What these tests compare with."""

import warnings
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def arviz() -> ModuleType:
    """ArviZ, which warns of its future when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: ModuleType = pytest.importorskip("arviz", minversion="0.23")
    return found
