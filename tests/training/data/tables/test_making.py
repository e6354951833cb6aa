"""Cleaning a table: what has no density is found, said, and restored on the way out."""

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.running import refusal
from training.data.row_hashes import RowHashes, row_numbers
from training.data.tables import formats
from training.data.tables.formats import BLOCK_ROWS, ForeignTable, TableChoices, joined, narrowed
from training.data.tables.making import make_table
from training.files.table import load_table, load_whole, save_table

COUNT = 500
ROWS = np.random.default_rng(0).normal(size=(2 * BLOCK_ROWS + 7, 5))


def source(**columns):
    values = np.stack([np.asarray(values, dtype=float) for values in columns.values()], axis=1)
    halves = (values[: len(values) // 2], values[len(values) // 2 :])
    return ForeignTable("rows.csv", list(columns), lambda: iter([half.copy() for half in halves]))


def numbers(seed=0, count=COUNT):
    return np.random.default_rng(seed).normal(size=count)


def mixed():
    """Two columns with a density, two discrete ones, a constant one, and a sum."""
    a, b = numbers(0), numbers(1)
    count, price = np.floor(3 * np.abs(numbers(2))), np.round(1 + numbers(3) ** 2, 2)
    total, fixed = a - 2 * b + 1, np.full(COUNT, 7.0)
    return source(a=a, fixed=fixed, count=count, total=total, b=b, price=price)


def test_what_has_no_density_is_left_out_and_can_be_restored():
    table, lines = make_table(mixed(), TableChoices())
    text = "\n".join(lines)
    # b stands after the sum, which is thereby the one that stays
    assert list(table.names) == ["a", "count", "total", "price"]
    assert "Dropped constant column(s): fixed" in text
    assert "exact functions of earlier columns: b" in text
    assert table.steps.tolist() == [0, 1, 0, 0.01]
    assert "participation ratio" in text
    names, rows = list(mixed().names), np.concatenate(list(mixed().blocks()))
    back = table.restored(table.points)
    assert list(table.order) == names
    np.testing.assert_allclose(back.numpy(), rows, atol=1e-12)
    single = {name: column.float().double() for name, column in zip(names, back.T, strict=True)}
    assert not list(table.dropped.contradicted(table.points, dict(zip(names, back.T, strict=True))))
    assert not list(table.dropped.contradicted(table.points, single))
    other = {
        name: column.index_add(0, torch.tensor([4, 9]), torch.tensor([1e-3, 2]).double())
        for name, column in single.items()
    }
    fixed, b = table.dropped.contradicted(table.points, other)
    some = table.points.index_fill(1, torch.tensor([1, 2]), torch.nan)  # b is of a and the total
    (lost,) = table.dropped.contradicted(some[:3], {name: other[name][:3] for name in names})
    assert lost.startswith("column 'b' is a function of other columns in training, but 3 row(s) l")
    no = "in the training data, but not in 2 row(s): row 5 has"
    assert f"'fixed' is constant {no} 7.001 instead" in fixed
    assert f"'b' is a function of others {no} 0.90635" in b


def test_many_columns_are_summed_up():
    columns = {f"c{index}": numbers(index) for index in range(40)}
    _, lines = make_table(source(**columns), TableChoices())
    assert sum(line.startswith("  c") for line in lines) == 30
    assert "  ... and 10 more" in lines


def test_a_column_that_is_nearly_a_sum_stays():
    a, b = numbers(0), numbers(1)
    table, _ = make_table(source(a=a, b=b, c=a + b + 1e-4 * numbers(2)), TableChoices())
    assert table.dim == 3


def test_steps_are_found_where_there_are_some():
    for values, step in (
        (np.arange(COUNT) % 7 * 5.0 + 2, 5),
        (np.round(numbers(), 1), 0.1),
        (np.arange(COUNT) % 9 * 1e-6, 1e-6),
        (numbers(), 0),
        (np.where(numbers() > 0, 0, numbers(1)), 0),
        (np.clip(numbers(), 0, 0.7), 0),
    ):
        columns = source(other=numbers(5), column=values)
        table, lines = make_table(columns, TableChoices())
        assert float(table.steps[1]) == pytest.approx(step, rel=1e-9)
        warned = any("without a density" in line for line in lines)
        assert warned == bool(step == 0 and (values == 0).any())


def test_missing_and_infinite_values_are_refused_or_dropped_or_filled_in():
    column = numbers()
    for conditions, missing, shown in (
        ([], [np.nan] * 2, "(nan)"),
        (["b"], [np.inf, -np.inf], "(inf)"),
    ):
        column[[3, 300]] = missing
        rows = source(a=numbers(1), b=column)
        message = refusal(make_table, rows, TableChoices(conditions=conditions))
        assert f"row 4, column 'b': the value is missing {shown}" in message
        assert "--missing=drop" in message
        dropped, lines = make_table(rows, TableChoices(conditions=conditions, missing="drop"))
        assert len(dropped) == COUNT - 2
        assert "Dropped 2 of 500 rows (0.40%), with 2 missing or infinite value(s)" in lines
    column[[3, 300]] = np.nan
    filled, _ = make_table(source(a=numbers(1), b=column), TableChoices(missing="mean"))
    assert float(filled.points[3, 1]) == pytest.approx(np.nanmean(column))
    with pytest.raises(DataError, match="has 0 rows without missing values"):
        make_table(source(a=np.full(COUNT, np.inf)), TableChoices(missing="drop"))


def test_steps_are_those_of_present_values_and_what_is_filled_in_is_a_spike():
    # Mean, and most ages, have other digits than whole years: together they had steps of 5e-07.
    ages, years = np.round(40 + 10 * numbers(), 6), np.round(40 + 10 * numbers(1))
    ages[:100], years[:50] = np.nan, np.nan
    given = source(a=numbers(2), age=ages, year=years)
    table, lines = make_table(given, TableChoices(missing="mean"))
    assert table.steps.tolist() == [0, 0, 1]
    assert len(set(table.points[:50, 2].tolist())) == 1
    assert float(table.points[0, 2]) == np.round(np.nanmean(years))
    (text,) = [line for line in lines if "spike" in line]
    assert "age (100 rows, 20.00%), year (50 rows, 10.00%)" in text


def test_values_at_steps_have_the_digits_of_these():
    values = 0.1 + 0.7 * np.floor(5 * np.abs(numbers()))  # such as 0.7999999999999999
    table, _ = make_table(source(b=22.5 + np.arange(COUNT) % 8, column=values), TableChoices())
    assert (float(table.steps[1]), float(table.offsets[1])) == (0.7, 0.1)
    assert [(each.type, each.decimals) for each in table.as_typed().columns] == [("number", 1)] * 2


def test_more_columns_than_rows_are_kept_with_a_warning():
    columns = {f"c{index}": numbers(index, 60) for index in range(100)}
    given = source(fixed=np.ones(60), **columns, last=numbers(100, 60))
    table, lines = make_table(given, TableChoices())
    assert table.dim == 101
    assert any("Warning: 101 columns but only 54 training rows" in line for line in lines)
    _, lines = make_table(source(**dict(list(columns.items())[:20])), TableChoices())
    assert not any("Warning" in line for line in lines)


def test_identifiers_are_told_and_never_called_constant():
    order = np.random.default_rng(0).permutation(COUNT)
    columns = {"a": numbers(), "row": order + 7.0, "user_id": order**2 + 1.0, "b": order**2 + 2.0}
    _, lines = make_table(source(**columns), TableChoices())
    (text,) = [line for line in lines if "identifier" in line]
    assert "row, user_id looks like" in text
    assert text.endswith("--columns=a,b")
    given = source(a=numbers(), paid=np.floor(numbers() * 3), n=order % 9)
    _, lines = make_table(given, TableChoices())
    assert not any("identifier" in line for line in lines)
    key = 2.0**53 + np.arange(COUNT)
    table, lines = make_table(source(a=numbers(), key=key), TableChoices())
    assert list(table.names) == ["a"]
    assert any("look like identifiers" in line and line.endswith(": key") for line in lines)
    assert not any("constant" in line for line in lines)
    later = {"key": torch.from_numpy(key) + 2**20}
    assert not list(table.dropped.contradicted(table.points, later))


def test_values_beyond_bounds_are_told_with_their_row():
    price = 351 + np.abs(numbers())
    rows = source(a=numbers(1), price=price)
    told = r"row 1, column 'price': 351\.1\d* is outside its --bounds, 500 to inf"
    with pytest.raises(DataError, match=told):
        make_table(rows, TableChoices(bounds={"price": (500, np.inf)}))
    price[3] = 351
    with pytest.raises(DataError, match=r"'price': 1 value.* exactly at a bound, 351"):
        make_table(source(a=numbers(1), price=price), TableChoices(bounds={"price": (351, np.inf)}))
    count = np.floor(3 * np.abs(numbers()))
    choices = TableChoices(bounds={"count": (0, 99)})
    table, _ = make_table(source(a=numbers(1), count=count), choices)
    assert table.low.tolist() == [-np.inf, -0.5]


def test_a_far_value_that_repeats_is_told():
    usual = 50 + 10 * numbers()
    for values, expected in (
        (np.where(numbers(1) > 1.5, -999, usual), ["b is -999 in"]),
        (np.where(np.arange(COUNT) == 3, -999, usual), []),
        (np.where(numbers(1) > 1.5, 30, usual), []),
        (np.where(numbers() > 1, 9.0, 0.0), []),
    ):
        _, lines = make_table(source(a=numbers(5), b=values), TableChoices())
        got = [line for line in lines if "stands for a missing value" in line]
        assert len(got) == len(expected)
        assert all(text in line for text, line in zip(expected, got, strict=True))


def test_values_that_cannot_be_squared_and_tables_without_content_are_refused():
    column = numbers()
    column[400] = 1e300
    with pytest.raises(DataError, match=r"row 401, column 'a': 1e\+300 is too large"):
        make_table(source(a=column, b=numbers()), TableChoices(missing="mean"))
    with pytest.raises(DataError, match="has 9 rows: need at least 10"):
        make_table(source(a=numbers(count=9)), TableChoices())
    assert "all columns are constant" in refusal(
        make_table, source(a=np.ones(COUNT)), TableChoices()
    )
    with pytest.raises(DataError, match=r"column 'a' has no values: leave the column out$"):
        make_table(source(a=np.full(COUNT, np.nan), b=numbers()), TableChoices(missing="mean"))
    with pytest.raises(UsageError, match="no column 'z'"):
        make_table(source(a=numbers()), TableChoices(conditions=["z"]))


def test_rows_are_counted_held_out_and_conditioned_on_as_asked():
    a = numbers()
    a[10] = a[11]
    b = np.where(a == a[10], 1.0, numbers(1))
    choices = TableChoices(conditions=["y"], held_out=0.25, bounds={"b": (-9, 9)})
    table, lines = make_table(source(a=a, y=numbers(2), b=b), choices)
    assert (len(table), int(table.held_out.sum()), table.dim) == (COUNT, COUNT // 4, 2)
    assert "1 duplicate row(s)" in lines
    np.testing.assert_array_equal(table.conditions[:, 0], numbers(2))
    assert table.low.tolist() == [-np.inf, -9]
    again, _ = make_table(source(a=a, y=numbers(2), b=b), choices)
    assert (again.held_out == table.held_out).all()


def test_kept_rows_are_in_the_file_and_in_no_training(tmp_path):
    table, lines = make_table(mixed(), TableChoices(conditions=["price"], kept=0.2))
    save_table(tmp_path / "table.npz", table)
    whole, to_train = load_whole(tmp_path / "table.npz"), load_table(tmp_path / "table.npz")
    assert int(whole.kept.sum()) == COUNT // 5
    assert any("100 in the calibration set" in line for line in lines)
    assert len(to_train) == len(whole) - COUNT // 5
    assert int(to_train.held_out.sum()) == COUNT // 10
    kept = row_numbers(whole.at(whole.kept).values)
    assert RowHashes.from_hashes(row_numbers(to_train.values)).repeated(kept) == 0
    assert RowHashes.from_hashes(row_numbers(whole.values)).repeated(kept) == len(kept)
    with pytest.raises(UsageError, match="--kept leave"):
        make_table(mixed(), TableChoices(held_out=0.5, kept=0.5))


def test_a_data_set_is_read_as_it_was_written_and_points_alone_are_one(tmp_path):
    choices = TableChoices(conditions=["price"], bounds={"a": (-np.inf, 50.0)})
    table, _ = make_table(mixed(), choices)
    save_table(tmp_path / "table.npz", table)
    got = load_table(tmp_path / "table.npz")
    for one, other in ((got, table), (got.dropped, table.dropped)):
        for name, value in vars(other).items():
            if isinstance(value, np.ndarray | torch.Tensor):
                np.testing.assert_array_equal(getattr(one, name), value)
    for name in ("columns", "condition_columns"):
        assert [*map(vars, getattr(got, name))] == [*map(vars, getattr(table, name))]
    assert got.order == table.order
    np.savez(tmp_path / "plain.npz", points=np.eye(3, dtype=np.float32))
    plain = load_table(tmp_path / "plain.npz")
    assert (list(plain.names), len(plain.train_rows)) == (["x1", "x2", "x3"], 3)


def test_a_broken_data_set_is_refused_in_one_line(tmp_path):
    table, _ = make_table(mixed(), TableChoices())
    save_table(tmp_path / "table.npz", table)
    with np.load(tmp_path / "table.npz") as saved:
        sound = dict(saved)
    for changes, match in (
        ({"points": sound["points"] * np.nan}, "not finite"),
        ({"points": sound["points"][0]}, r"'points' has shape \[4\]"),
        ({"names": np.array(["a"])}, r"'names' has shape \[1\], expected \[4\]"),
        ({"names": np.array(["a", "=b", "c", "d"])}, "formula"),
        ({"steps": -sound["steps"]}, "'steps' has values outside 0"),
        ({"bounds": np.ones((4, 2))}, "not below"),
        ({"bounds": np.ones(4)}, "'bounds' has shape"),
        ({"points": sound["points"][:1]}, "N at least 2"),
        ({"names": np.arange(4)}, "'names' contains int64, expected text"),
        ({"held_out": np.ones(COUNT, dtype=bool)}, "leave rows for training"),
        ({"held_out": np.ones(COUNT)}, "'held_out'"),
        ({"kept": sound["held_out"]}, "both"),
        ({"column_order": np.array(["a"])}, "column_order"),
        ({"dropped_slopes": np.ones((1, 1))}, "dropped_slopes"),
    ):
        np.savez(tmp_path / "broken.npz", **{**sound, **changes})
        with pytest.raises(DataError, match=match):
            load_table(tmp_path / "broken.npz")


@pytest.mark.parametrize("chunk", [1, 1000, formats.CHUNK])
def test_blocks_of_any_size_keep_their_order_in_all_parts(monkeypatch, chunk):
    monkeypatch.setattr(formats, "CHUNK", chunk)
    parts = [[3, 0], [], [1, 2, 4]]
    got = joined(iter(np.split(ROWS, [0, 3, 3, 90, BLOCK_ROWS])), 5, parts)
    for array, part in zip(got, parts, strict=True):
        np.testing.assert_array_equal(array, ROWS[:, part])
        assert not np.shares_memory(array, ROWS)
        assert array.flags.c_contiguous
    assert [array.shape for array in joined(iter([]), 5, parts)] == [(0, 2), (0, 0), (0, 3)]


@pytest.mark.parametrize("places", [[0, 2, 3], [4, 1], [], [0, 1, 2, 3, 4]], ids=str)
def test_columns_stay_in_the_memory_of_all(places):
    values = ROWS.copy()
    got = narrowed(values, places)
    np.testing.assert_array_equal(got, ROWS[:, places])
    assert np.shares_memory(got, values) or not places
    assert got.flags.c_contiguous
