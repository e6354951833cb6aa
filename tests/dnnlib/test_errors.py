"""Every domain error has an exit code that tells usage from data."""

import pytest

from dnnlib.errors import DataError, InflationError, TrainingError, UsageError


@pytest.mark.parametrize(
    ("kind", "code"), [(UsageError, 2), (DataError, 1), (TrainingError, 1), (InflationError, 1)]
)
def test_errors_have_the_code_of_their_kind_and_are_one_family(
    kind: type[InflationError], code: int
) -> None:
    assert kind("what is wrong").exit_code == code
    assert str(kind("what is wrong")) == "what is wrong"
    assert issubclass(kind, InflationError)
