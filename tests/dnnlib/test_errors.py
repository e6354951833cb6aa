"""Every domain error has an exit code that tells usage from data."""

import pytest

from dnnlib.errors import DataError, InflationError, TrainingError, UsageError


@pytest.mark.parametrize(
    ("kind", "code"), [(UsageError, 2), (DataError, 1), (TrainingError, 1), (InflationError, 1)]
)
def test_errors_have_the_exit_code_of_their_kind(kind: type[InflationError], code: int) -> None:
    assert kind("what is wrong").exit_code == code
    assert str(kind("what is wrong")) == "what is wrong"


@pytest.mark.parametrize("kind", [UsageError, DataError, TrainingError])
def test_all_can_be_caught_as_one(kind: type[InflationError]) -> None:
    with pytest.raises(InflationError):
        raise kind
