"""Tables as others write them: read alike from every format, or refused in one clear line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dnnlib.errors import DataError, InflationError, UsageError
from tests.fuzz.hostile import npy, zip_bomb
from tests.support.refusals import refusal
from training.data.tables.foreign import BLOCK_ROWS
from training.data.tables.formats import NotNumbers, is_table, open_table
from training.data.tables.text import LONGEST_LINE

NAMES = ["a", "b c", "d"]
ROWS = np.random.default_rng(0).normal(size=(2 * BLOCK_ROWS + 5, 3))


def rows_of(source: str | Path, wanted: list[str] | None = None) -> np.ndarray:
    return np.concatenate(list(open_table(str(source), wanted).blocks()))


def write_text(path: Path, delimiter: str, names: list[str] | None = NAMES) -> None:
    head = [delimiter.join(f'"{name}"' for name in names)] if names else []
    lines = [delimiter.join(map(repr, row)) for row in ROWS.tolist()]
    path.write_text("\n".join([*head, *lines, ""]), encoding="utf-8-sig")


def write_parquet(path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table(dict(zip(NAMES, ROWS.T, strict=True))), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    ".csv": lambda path: write_text(path, ","),
    ".tsv": lambda path: write_text(path, "\t"),
    ".npz": lambda path: np.savez(path, points=ROWS, names=NAMES),
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_tables_are_one_in_every_format_with_columns_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    WRITERS[suffix](path)
    assert is_table(str(path))
    assert list(open_table(str(path), None).names) == NAMES
    np.testing.assert_array_equal(rows_of(path), ROWS)
    np.testing.assert_array_equal(rows_of(path, ["d", "a"]), ROWS[:, [2, 0]])
    with pytest.raises(UsageError, match="no column 'e': it has a, b c, d"):
        open_table(str(path), ["e"])
    with pytest.raises(UsageError, match="column 'a' is named twice"):
        open_table(str(path), ["a", "a"])


def test_tables_without_names_get_numbered_ones(tmp_path: Path) -> None:
    write_text(tmp_path / "plain.csv", ",", names=None)
    np.save(tmp_path / "array.npy", np.asfortranarray(ROWS))
    np.savez(tmp_path / "lone.npz", anything=np.asfortranarray(ROWS))
    for name in ("plain.csv", "array.npy", "lone.npz"):
        assert list(open_table(str(tmp_path / name), None).names) == ["x1", "x2", "x3"]
        np.testing.assert_array_equal(rows_of(tmp_path / name), ROWS)


@pytest.mark.parametrize("text", ["3,1,2\n4,5,7\n", "1,2,3\n4,5,7\n", "0.1,0.5,0.7\n1,3,2\n"])
def test_numbers_that_are_hardly_a_header_are_data(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    assert len(rows_of(tmp_path / "table.csv")) == 2


def test_whether_the_first_row_is_a_header_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("2000,2001,2002\n3,1,2\n")
    names = {header: list(open_table(str(path), None, 0, header).names) for header in ("yes", "no")}
    assert names == {"yes": ["2000", "2001", "2002"], "no": ["x1", "x2", "x3"]}
    (block,) = open_table(str(path), None, 0, "no").blocks()
    np.testing.assert_array_equal(block, [[2000, 2001, 2002], [3, 1, 2]])
    path.write_text("a,b\n3,1\n")
    with pytest.raises(DataError, match="line 1, column 'x1': 'a' is no number"):
        list(open_table(str(path), None, 0, "no").blocks())


def test_tables_that_ship_and_toys_are_read_by_name() -> None:
    assert rows_of("wine").shape == (178, 13)
    assert rows_of("toy:s_curve").shape == (20_000, 3)
    np.testing.assert_array_equal(rows_of("toy:moons"), rows_of("toy:moons"))
    assert "unknown toy 'pie'" in refusal(open_table, "toy:pie", None, kind=UsageError)


def test_empty_cells_and_their_like_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "holes.csv"
    path.write_text("a,b\n1,\n,NA\n3, 4 \n?,nan\n\n")
    expected = [[1, np.nan], [np.nan, np.nan], [3, 4], [np.nan, np.nan]]
    np.testing.assert_array_equal(rows_of(path), expected)


def test_columns_of_parquet_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "words.parquet"
    parquet.write_table(arrow.table({"a": [1, 2], "b": ["one", "two"], "c": [None, 4]}), path)
    with pytest.raises(NotNumbers, match="column 'b' holds string, no numbers"):
        open_table(str(path), None)
    np.testing.assert_array_equal(rows_of(path, ["c", "a"]), [[np.nan, 1], [4, 2]])


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "ragged": ("a,b\n1,2\n3\n", "line 3 has 1 cells, but there are 2 columns: the last is 'b'"),
    "words": ("a,b\n1,2\n3,four\n", "line 3, column 'b': 'four' is no number"),
    "comma decimals": ('a,b\n"1,5",2\n', "'1,5' is no number"),
    "formula": ("a,=cmd|' /C calc'!A0\n1,2\n", "which a spreadsheet would run"),
    "twins": ("a,a\n1,2\n", "two columns 'a'"),
    "nameless": ("a,\n1,2\n", "name of column 2"),
    "invisible": ("a,b\x07\n1,2\n", "name of column 2"),
    "latin": ("a,gr\xf6\xdfe\n1,2\n".encode("latin-1"), "not UTF-8"),
    "quote": ('a,b\n1,"2\n', "line 2: unexpected end of data"),
    "huge cell": ("a,b\n1," + "9" * 200_000 + "\n", "line 2: field larger"),
    "zero bytes": (b"a,b\n1,\x00\n", "is no number|NUL"),
    "wide": (",".join(f"x{i}" for i in range(10_001)), "10001 columns: at most 10000"),
    "years": ("2000,2001,2005\n3,1,2\n", "first row, 2000, 2001, 2005, .* --header=yes"),
    "wavelengths": ("0.5,1,1.5\n3,1,2\n", "first row, 0.5, 1, 1.5, .* --header=no"),
    "endless": ("a," * (LONGEST_LINE // 2 + 5), "a line of more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_text_is_refused_in_one_line_that_says_where(tmp_path: Path, case: str) -> None:
    content, match = HOSTILE[case]
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=match) as found:
        rows_of(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_arrays_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    arrays = {
        "objects": (np.array([[1, "a"]], dtype=object), "plain"),
        "words": (np.array([["a", "b"]]), "rows and columns of numbers"),
        "cube": (np.zeros((2, 2, 2)), "rows and columns of numbers"),
    }
    for name, (array, match) in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        np.savez(tmp_path / f"{name}.npz", points=array)
        for suffix in (".npy", ".npz"):
            with pytest.raises(DataError, match=match):
                rows_of(tmp_path / f"{name}{suffix}")
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (33554432, 2), }"
    (tmp_path / "bomb.npz").write_bytes(zip_bomb("points.npy", 512, npy(header, b"")))
    assert "promises" in refusal(rows_of, tmp_path / "bomb.npz")
    np.savez(tmp_path / "two.npz", one=ROWS, other=ROWS)
    np.savez(tmp_path / "names.npz", points=ROWS, names=["a"])
    np.save(tmp_path / "none.npy", np.zeros((20, 0)))
    (tmp_path / "folder.csv").mkdir()
    for name, match in (
        ("two.npz", "no array 'points', and more than one"),
        ("names.npz", "3 columns, but 1 names"),
        ("none.npy", "no columns"),
        ("folder.csv", "is no file"),
    ):
        with pytest.raises(DataError, match=match):
            rows_of(tmp_path / name)
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(InflationError, match=r"no readable Parquet|needs pyarrow"):
        rows_of(tmp_path / "text.parquet")
    assert "does not exist" in refusal(rows_of, tmp_path / "nothing.csv")
