"""Tests of raw data as rows of a table: shapes, padding, and what is refused."""

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from training.data.tables.raw_shape import RawShape

SERIES, VARYING = RawShape("series", (4, 1)), RawShape("series", (4, 2), varies=True)
IMAGES, SETS = RawShape("images", (2, 3, 1)), RawShape("sets", (4, 1), varies=True)
ARRAYS = RawShape("arrays", (2, 3))
NAN = np.nan


def test_lists_and_padded_arrays_are_the_same_simulations():
    parts = [np.arange(2.0 * n).reshape(n, 2) for n in (3, 1, 4)]
    padded = np.full((3, 4, 2), NAN)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    for kind in ("series", "sets"):
        (first, rows), (second, others) = RawShape.of(parts, kind), RawShape.of(padded, kind)
        assert first == second == first.as_in(rows, "data") == RawShape(kind, (4, 2), varies=True)
        torch.testing.assert_close(rows, others, equal_nan=True)
        assert first.as_in(rows[2:], "data").varies == (kind == "sets")


@pytest.mark.parametrize("raw", [SERIES, VARYING, IMAGES, SETS, ARRAYS], ids=str)
def test_one_observation_is_the_same_alone_and_among_others(raw):
    several = np.random.default_rng(0).normal(size=(3, *raw.shape))
    rows = raw.rows(several, "data")
    forms = [several[0], torch.from_numpy(several[0]), [several[0]], several[:1]]
    if raw.shape[-1] == 1:
        forms += [several[0, ..., 0], several[:1, ..., 0]]
    for form in forms:
        assert torch.equal(raw.rows(form, "data"), rows[:1])


@pytest.mark.parametrize(
    ("raw", "data", "message"),
    [
        (SERIES, np.zeros(5), r"the data has shape \[5\]: give series \[4, 1\]"),
        (SERIES, [0.0, 1.0, 2.0, NAN], "row 1: values are missing or not finite"),
        (VARYING, np.zeros((4, 3)), r"\[4, 3\]: give series \[n, 2\] with n up to 4"),
        (VARYING, [np.zeros((5, 2))], r"shape \[5, 2\]"),
        (VARYING, np.zeros((0, 2)), r"shape \[0, 2\]"),
        (VARYING, np.array([[0, NAN], [0, 0]]), "absent elements are NaN in all channels"),
        (VARYING, np.full((2, 2), NAN), "row 1: values are missing"),
        (IMAGES, np.zeros((3, 2)), r"shape \[3, 2\]: give images \[2, 3, 1\]"),
        (IMAGES, np.full((1, 2, 3), np.inf), "row 1: values are missing or not finite"),
        (SETS, ["a"], "values that are not numbers"),
        (SETS, [], "no arrays"),
        (ARRAYS, 1.0, r"shape \[\]"),
    ],
)
def test_observations_of_other_shapes_or_with_missing_values_are_refused(raw, data, message):
    with pytest.raises(DataError, match=message):
        raw.rows(data, "the data")


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("movies", np.zeros((5, 4)), "give one of series, images, sets, arrays"),
        ("series", np.zeros(5), r"shape \[5\]: give series as \[N, T, channels\]"),
        ("sets", np.zeros((5, 2, 3, 4)), r"give sets as \[N, M, numbers\]"),
        ("images", [np.zeros((2, 3)), np.zeros((2, 4))], r"give images \[2, 3, 1\]"),
        ("images", np.zeros((2, 300, 300)), "90000 values per simulation"),
        ("sets", np.zeros((2, 0)), "0 values per simulation"),
        ("series", 3.0, "no arrays"),
    ],
)
def test_simulations_of_broken_shapes_are_refused(kind, data, message):
    with pytest.raises((DataError, UsageError), match=message):
        RawShape.of(data, kind)
