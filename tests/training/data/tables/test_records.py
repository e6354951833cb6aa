"""Tables as people have them: what columns and rows are taken for; they come back equal."""

import csv
import zipfile
from dataclasses import replace
from datetime import date, timedelta
from itertools import combinations

import numpy as np
import pandas
import pyarrow
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.messy_tables import COUNT, COUNTS, DRAW, FIRST, MESSY, drawn, holes, sizes, text
from tests.support.running import refusal
from training import Table
from training.data.row_hashes import MOST_SKETCHED, RowHashes, row_numbers
from training.data.tables.encoding import contradicted, encode
from training.data.tables.raw_tables import open_cells
from training.data.tables.reading import RecordChoices, SurveyedTable
from training.data.tables.schema import CATEGORY, DATE, NUMBER, WHOLE, Column
from training.data.tables.values import (
    Survey,
    date_text,
    grid_of,
    number_in,
    on_grid,
    save_texts,
    texts_of,
)
from training.files.records import load_records, save_records
from training.models.reports import informative_missing
from training.subjects.record_spaces import choose_space
from training.trained.questions import EncodedRows


def types_of(records):
    types = {column.name: column.type for column in records.columns}
    types |= dict.fromkeys(records.constants, "constant")
    types |= dict.fromkeys(records.beside, "identifier")
    return " ".join(types[name] for name in records.order)


def row_texts(*given):
    """Return the names of the columns, and the texts of the rows."""
    names, columns = texts_of(*given)
    return names, [list(row) for row in zip(*columns, strict=True)]


def rows_of(path, separator):
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file, delimiter=separator))
    return [row for row in rows if row and not row[0].startswith("#")]


@pytest.mark.parametrize("name", MESSY)
def test_messy_tables_go_in_with_their_types_and_come_back(tmp_path, name):
    content, types = MESSY[name]
    path, back = tmp_path / name, tmp_path / "back.csv"
    path.write_text(content, encoding="utf-8")
    opened = Table.open(path).rows
    assert types_of(opened) == types
    assert int(opened.held_out.sum()) == COUNT // 10
    save_records(tmp_path / "table.npz", opened)
    records = load_records(tmp_path / "table.npz")
    assert list(records.columns) == list(opened.columns)
    save_texts(back, *row_texts(records), records.separator)
    assert rows_of(back, records.separator) == rows_of(path, records.separator)
    # Later rows, of a file or of a data frame, are what those of the network's table were.
    made = Table.open(tmp_path / "table.npz", exclude=[])
    for name, choice in (("exclude", ["a"]), ("types", {"a": "number"})):
        with pytest.raises(UsageError, match=f"{name} is an option for making data sets"):
            Table.open(tmp_path / "table.npz", **{name: choice})
    for source in (path, made.to_pandas()):
        later, lines = encode(source, records.columns)
        np.testing.assert_array_equal(later.values, records.values)
        assert not lines
    save_texts(back, *row_texts(records, records.values[:3]), records.separator)
    beside = [records.order.index(column) for column in records.beside]
    assert all(not row[place] for row in rows_of(back, records.separator)[1:] for place in beside)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_data_frames_and_files_of_arrow_are_read_as_texts_are(tmp_path, suffix):
    arrow = pytest.importorskip("pyarrow")
    size = pandas.CategoricalDtype(["small", "large"], ordered=True)
    frame = pandas.DataFrame(
        {
            "when": [FIRST + timedelta(row) for row in range(COUNT)],
            "size": pandas.Series(holes(drawn("small", "large"), ""))
            .replace("", None)
            .astype(size),
            "count": pandas.array(holes(COUNTS, pandas.NA), dtype="Int64"),
            "yes": drawn(True, False),
            "length": DRAW.normal(size=COUNT),
        }
    )
    path = tmp_path / f"table{suffix}"
    getattr(frame, f"to_{suffix[1:]}")(path)
    table, same = Table.open(path), Table.open(frame).rows
    records = table.rows
    assert types_of(records) == "date category whole category number"
    assert records.columns[1].levels == ("small", "large")
    assert records.columns[1].ordered
    np.testing.assert_array_equal(records.values, same.values)
    np.testing.assert_array_equal(records.values[:, 4], frame["length"])
    np.testing.assert_array_equal(records.values[:, 0], 18262 + np.arange(COUNT))
    pandas.testing.assert_frame_equal(
        table.to_pandas().drop(columns="yes"), frame.drop(columns="yes"), check_dtype=False
    )
    long = {"key": [None, *range(10**18, 10**18 + COUNT - 1)], "yes": drawn(True, False)}
    module = pytest.importorskip(f"pyarrow{suffix}")
    write = module.write_table if suffix == ".parquet" else module.write_feather
    write(arrow.table(long), path)
    assert Table.open(path).rows.beside["key"][1] == str(10**18)


def test_columns_of_data_frames_are_what_they_are_in_whatever_kind_and_block(monkeypatch):
    monkeypatch.setattr("training.data.tables.formats.BLOCK_ROWS", COUNT // 2)
    late = pandas.Series(pandas.date_range("1960-01-01", periods=COUNT))
    late[COUNT - 1] += pandas.Timedelta("3h")
    frame = pandas.DataFrame(
        {
            "late": late,
            "zone": late.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
            "arrow": late.astype("timestamp[us][pyarrow]"),
            "day": late.astype("date32[pyarrow]"),
            "sparse": pandas.arrays.SparseArray(DRAW.normal(size=COUNT)),
        }
    )
    records = Table.open(frame).rows
    assert types_of(records) == "date date date date number"
    assert (np.diff(records.values[:, :3]) == 0).all()
    assert records.values[0, 0] == -3653


def test_sheets_are_tables(tmp_path, monkeypatch):
    path = tmp_path / "table.xlsx"
    days = pandas.date_range("2020-01-01", periods=COUNT)
    frame = pandas.DataFrame(
        {"size": drawn("s", "m"), "x": DRAW.normal(size=COUNT).round(6), "day": days}
    )
    pytest.importorskip("openpyxl")
    frame.to_excel(path, index=False)
    records = Table.open(path).rows
    assert types_of(records) == "category number date"
    np.testing.assert_array_equal(records.values[:, 1], frame["x"])
    path.write_bytes(b"PK")
    assert "is not a readable Excel file" in refusal(Table.open, path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", bytes(2 << 20))
    monkeypatch.setattr("training.data.tables.raw_tables.MAX_INFLATED_BYTES", 1 << 20)
    assert "declares 2 MiB: the limit is 1 MiB" in refusal(Table.open, path)


TEXTS = ("1", "01", "0.5", "-0.25", "1.234", "0.234", "12.345", "1.2345", "5.", ".5", "-0", "1.50")


def test_forms_of_many_numbers_are_those_of_each():
    for texts in (*combinations(TEXTS, 2), (*TEXTS, "1e3"), ("1.234", "1,5")):
        survey = Survey("x")
        survey.add(pyarrow.array([*texts, "", "NA"]))
        assert (survey.missing, survey.missing_texts) == (2, {"", "NA"})
        assert survey.counts == dict.fromkeys(texts, 1)
        for sign in ".,":
            numbers = [number_in(text, sign) for text in texts]
            forms = None if None in numbers else {number.form for number in numbers}
            assert survey.forms[sign] == forms


def records_of(tmp_path, content, **choices):
    (tmp_path / "table.csv").write_text(content)
    cells = open_cells(tmp_path / "table.csv")
    records, lines = SurveyedTable.from_cells(cells, RecordChoices(**choices)).records()
    return records, "\n".join(lines)


def test_types_that_are_given_are_taken(tmp_path):
    days = [f"{FIRST + timedelta(row % 12):%d/%m/%Y}" for row in range(COUNT)]
    sizes, bits = drawn("s", "m", "l"), drawn(0, 1)
    content = text("a,b,c,d,e", drawn(1, 2, 3), sizes, days, range(COUNT), bits)
    records, lines = records_of(tmp_path, content)
    assert types_of(records) == "whole category date identifier category"
    assert "read as %m/%d/%Y" in lines
    types = {"a": "category", "b": "s<m<l", "c": "%d/%m/%Y", "d": "whole", "e": "number"}
    records, lines = records_of(tmp_path, content, types=types)
    assert types_of(records) == "category category date whole number"
    assert records.columns[1].levels == ("s", "m", "l")
    assert records.columns[1].ordered
    assert records.values[:, 2].max() == (date(2020, 1, 12) - date(1970, 1, 1)).days
    assert "Warning" not in lines
    for types, match in (
        ({"z": "number"}, "no column 'z'"),
        ({"b": "number"}, "column 'b' has '.', which is not a number"),
        ({"b": "s<m"}, "column 'b' has 'l', which is not one of s<m"),
        ({"b": "date"}, "which is not a date: give the date format"),
        ({"b": "words"}, "'words' is not a valid type of column 'b'"),
    ):
        with pytest.raises(UsageError, match=match):
            records_of(tmp_path, content, types=types)


def test_other_values_of_what_was_constant_are_told(tmp_path):
    content = text("a,b,c,d", drawn(1, 2, 3), ["NL"] * COUNT, ["1.50"] * COUNT, [""] * COUNT)
    known, _ = records_of(tmp_path, content)
    assert set(known.constants) == {"b", "c", "d"}
    same, _ = encode(pandas.DataFrame({"a": [1, 2], "b": ["NL", None], "c": 1.5}), known.columns)
    assert not [*contradicted(same, known)]
    rows = {"a": [1, 2, 3], "b": ["NL", "BE", "BE"], "c": ["2", "1.5", "x"], "d": ["", "", "7"]}
    other, _ = encode(pandas.DataFrame(rows), known.columns)
    lines = [line.removeprefix("column ") for line in contradicted(other, known)]
    no = "is constant in the training data, but not in"
    assert lines == [
        f"'b' {no} 2 row(s): row 2 has BE instead of NL",
        f"'c' {no} 2 row(s): row 1 has 2 instead of 1.50",
        f"'d' {no} 1 row(s): row 3 has 7 instead of no value",
    ]
    apart, _ = records_of(tmp_path, text("a,b", drawn(1, 2), ["BE"] * COUNT))
    assert len([*contradicted(apart, known)]) == 1


def test_rare_levels_are_one_and_unknown_ones_are_missing(tmp_path):
    cells = ["odd", "odder", *(["even", "often"] * COUNT)[: COUNT - 2]]
    records, lines = records_of(tmp_path, text("a,b", sizes(1), cells))
    assert records.columns[1].levels == ("even", "often", "other")
    assert "2 rare categories of 'b' are merged into 'other':" in lines
    frame = pandas.DataFrame({"b": ["odder", "strange", None, "even"], "more": list("wxyz")})
    later, warnings = encode(frame, records.columns)
    np.testing.assert_array_equal(later.values[:, 1], [2, np.nan, np.nan, 0])
    assert np.isnan(later.values[:, 0]).all()
    assert later.beside["more"].tolist() == list("wxyz")
    written = [["odder", "w"], ["strange", "x"], ["", "y"], ["even", "z"]]
    assert row_texts(later)[1] == written, "as they were"
    assert row_texts(later.at(np.arange(4) > 0))[1] == written[1:]
    assert later.holes[:, 1].tolist() == [False, False, True, False]
    finer = pandas.DataFrame({"a": ["1.25", "1.5"], "day": ["2020-01-01 10:30", "2020-01-02"]})
    columns = [*records.columns, Column("day", DATE, date_format="%Y-%m-%d")]
    assert row_texts(encode(finer, columns)[0])[1] == finer.to_numpy().tolist()
    unknown = "'strange' is an unknown category of 'b': 1 cell(s) count as missing"
    assert warnings == ["table has no column(s) a: all their cells count as missing", unknown]
    for text_of_a in ("x", "2020_01"):
        with pytest.raises(DataError, match=f"row 2, column 'a': '{text_of_a}' is not a number"):
            encode(pandas.DataFrame({"a": ["1", text_of_a]}), records.columns)
    with pytest.raises(DataError, match="has none of the columns a, b"):
        encode(pandas.DataFrame({"c": [1]}), records.columns)


def test_where_cells_are_missing_is_a_column_if_asked_to(tmp_path):
    large = [float(size) for size in sizes(1)]
    content = text("a,b", large, ["" if size > np.median(large) else size for size in large])
    records, _ = records_of(tmp_path, content)
    assert "--is_missing=b " in informative_missing(records)[0]
    records, _ = records_of(tmp_path, content, is_missing=["b"])
    assert records.names == ["a", "b", "b is missing"]
    assert list(records.order) == ["a", "b"]
    np.testing.assert_array_equal(records.values[:, 2], np.isnan(records.values[:, 1]))
    assert not informative_missing(records), "it is said already"
    later, _ = encode(pandas.DataFrame({"a": [1.0, 2.0], "b": [None, 1.0]}), records.columns)
    assert later.values[:, 2].tolist() == [1, 0]
    lacking, _ = encode(pandas.DataFrame({"a": [1.0]}), records.columns)
    assert np.isnan(lacking.values[:, 2]).all()
    with pytest.raises(UsageError, match="the column has no missing cells"):
        records_of(tmp_path, content, is_missing=["a"])


def test_missing_cells_are_kept_or_refused_or_dropped_or_filled_in(tmp_path):
    sentinel = [-999 if row % 8 == 0 else size for row, size in enumerate(sizes(1))]
    content = text("a,b", sentinel, holes(drawn("x", "y", "y"), ""))
    _, lines = records_of(tmp_path, content)
    assert "a is -999 in 25 rows" in lines
    records, lines = records_of(tmp_path, content, missing_values=["-999"])
    missing = np.isnan(records.values)
    assert missing.sum(axis=0).tolist() == [25, len(range(4, COUNT, 9))]
    dropped, _ = records_of(tmp_path, content, missing_values=["-999"], missing="drop")
    np.testing.assert_array_equal(dropped.values, records.values[~missing.any(axis=1)])
    filled, _ = records_of(tmp_path, content, missing_values=["-999"], missing="mean")
    assert filled.values[0, 0] == pytest.approx(np.nanmean(records.values[:, 0]))
    assert filled.values[4, 1] == records.columns[1].levels.index("y")
    with pytest.raises(DataError, match="line 2, column 'a': the value is missing"):
        records_of(tmp_path, content, missing_values=["-999"], missing="refuse")
    words = ["n.a." if row % 9 == 4 else size for row, size in enumerate(sizes(1))]
    _, lines = records_of(tmp_path, text("a,b", words, drawn("x", "y")))
    assert "'a' is numeric except for 22 cells:" in lines
    assert "only constants and identifiers:" in refusal(records_of, tmp_path, "a,b\n" + "1,\n" * 20)


def test_broken_records_are_refused(tmp_path):
    records, _ = records_of(tmp_path, text("a,b,id", sizes(1), drawn("x", "y", "z"), range(COUNT)))
    save_records(tmp_path / "table.npz", records)
    with np.load(tmp_path / "table.npz") as saved:
        sound = dict(saved)
    about = str(sound["columns"])
    for changes in (
        {"columns": np.array("{")},
        {"columns": np.array(about.replace('"category"', '"words"'))},
        {"columns": np.array(about.replace('"decimals": 1', '"decimals": "1"'))},
        {"columns": np.array(about.replace('"order": ["a"', '"order": ["c"'))},
        {"columns": np.array(about.replace('"a"', '"=a"'))},
        {"columns": np.array(about.replace('"prefix": ""', f'"prefix": "{1001 * "x"}"'))},
        {"values": sound["values"][:, :1]},
        {"values": sound["values"] + [0, 2]},
        {"values": np.full_like(sound["values"], np.inf)},
        {"held_out": sound["held_out"][:5]},
        {"held_out": np.ones(COUNT, dtype=bool)},
        {"text_ends": sound["text_ends"][:, ::-1]},
        {"texts": sound["texts"] + np.uint8(200)},
    ):
        np.savez(tmp_path / "broken.npz", **{**sound, **changes})
        with pytest.raises(DataError, match=r"is damaged|no training rows|'(values|held_out)' has"):
            load_records(tmp_path / "broken.npz")
    assert Column("b", CATEGORY, ("x", "y", "z")) in records.columns


def test_rows_that_were_seen_are_told_from_those_that_chance_repeats():
    draw = np.random.default_rng(0)

    def numbers(count, levels):
        return row_numbers(draw.integers(levels, size=(count, 4)).astype(float))

    for count, levels in ((300, 9), (3 * MOST_SKETCHED, 30)):
        seen, fresh = numbers(count, levels), numbers(1000, levels)
        sketch = RowHashes.from_hashes(seen)
        assert len(sketch.listed) == min(count, MOST_SKETCHED)
        assert sketch.repeated(fresh) > 0
        assert not sketch.repeated_beyond_chance(fresh, alike=True)
        again = np.concatenate([fresh, seen[:100]])
        assert sketch.repeated_beyond_chance(again, alike=True)
    few, once = numbers(500, 2), RowHashes.from_hashes(row_numbers(draw.normal(size=(100, 2))))
    assert not RowHashes.from_hashes(few).repeated_beyond_chance(
        few, alike=True
    )  # nothing can tell
    assert once.repeated_beyond_chance(once.numbers[:1], alike=False)
    assert not once.repeated_beyond_chance(once.numbers[:1], alike=True)
    assert once.repeated_beyond_chance(once.numbers[:9], alike=True)


def test_later_rows_have_the_signs_and_all_digits_of_the_source(tmp_path):
    long = [f"\n{n},500;{n + 1}00000000000000007;{10**18 + n}" for n in range(COUNT)]
    rows = "a;id;order\n-999;5;6" + "".join(long)
    records, _ = records_of(tmp_path, rows, decimal=",", missing_values=["-999"])
    (tmp_path / "later.csv").write_text("a;b\n4,500;1\n-999;1\n")
    for source in (tmp_path / "later.csv", pandas.DataFrame({"a": [4.5], "id": [10**17 + 7]})):
        later, _ = encode(source, records.columns, like=records)
        assert later.values[~np.isnan(later.values)].tolist() == [4.5]
    assert records.beside["id"][1] == later.beside["id"][0] == "100000000000000007"
    assert records.beside["order"][2] == str(10**18 + 1)
    assert date_text(17276, "%Y-%m") == "2017-05"


def days(*texts):
    return np.array([np.datetime64(text, "D").astype("int64") for text in texts], dtype=float)


@pytest.mark.parametrize(
    ("dates", "grid", "near"),
    [
        (["1970-01-01", "1974-01-01", "2003-01-01"], "12 months from 01-01", "1975-01-01"),
        (["2001-06-30", "2002-06-30", "2004-06-30"], "12 months from 06-31", "1974-06-30"),
        (["2001-03-31", "2001-06-30", "2001-12-31", "2002-03-31", "2002-09-30", "2003-03-31"],
         "3 months from 03-31", "1974-06-30"),
        (["2001-01-15", "2001-02-15", "2001-04-15"], "1 months from 01-15", "1974-07-15"),
        (["2024-01-31", "2024-02-29", "2024-03-31"], "1 months from 01-31", "1974-06-30"),
        ([f"2024-01-{day:02d}" for day in (1, 8, 15, 22, 29)], "7 days from 4", "1974-07-01"),
        (["2024-01-01", "2024-01-02", "2024-02-11", "2024-03-04", "2024-03-09"], "", "1974-07-03"),
        (["2024-01-01", "2025-01-01"], "", "1974-07-03"),
    ],
)  # fmt: skip
def test_dates_keep_the_grid_that_they_share(dates, grid, near):
    own = days(*dates)
    assert grid_of(np.append(own, np.nan)) == grid
    assert on_grid(days("1974-07-03"), grid).tolist() == days(near).tolist()
    if grid:
        assert on_grid(own + 2.7, grid).tolist() == own.tolist()
    assert np.isnan(on_grid(np.array([np.nan]), grid)).all()


def test_values_of_a_flow_are_on_the_grid_of_their_dates():
    years = [f"{1960 + row % 40}-01-01" for row in range(200)]
    numbers = np.random.default_rng(0).normal(size=200)
    records = Table.open(pandas.DataFrame({"date": pandas.to_datetime(years), "x": numbers})).rows
    space = choose_space(records, 0).space
    rows = EncodedRows(torch.randn(50, 2, dtype=torch.float64), torch.zeros(50, 0).long())
    place = records.names.index("date")
    of_rows, alone = space.decoded(rows)[:, place], rows.numbers[:, space.cell(place)]
    for values in (of_rows, space.decoded_numbers(place, alone, True)):
        assert {date_text(day, "%m-%d") for day in values.tolist()} == {"01-01"}
    assert len(set(of_rows.tolist())) > 10


def test_cells_of_a_text_are_written_byte_for_byte_as_they_were_read(tmp_path):
    path = tmp_path / "later.csv"
    rows = [["62,00", "4.733,00", "1/2/2020"], ["41,0", "", "01/02/2020"], ["7", "-0", "NA"]]
    save_texts(path, ["price", "size", "day"], rows, ";")
    columns = [
        Column("price", NUMBER, decimals=1),
        Column("size", WHOLE, decimals=0),
        Column("day", DATE, date_format="%d/%m/%Y"),
    ]
    records, _ = encode(path, columns, decimal=",")
    assert records.values[:, :2].tolist()[::2] == [[62, 4733], [7, 0]]
    assert records.holes.tolist() == [[False] * 3, [False, True, False], [False, False, True]]
    filled = replace(records, values=np.nan_to_num(records.values, nan=5.0))
    _, texts = row_texts(filled)
    assert texts == [rows[0], ["41,0", "5", "01/02/2020"], ["7", "-0", "06/01/1970"]]
