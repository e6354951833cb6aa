"""Tables of any format, and those of repeated trials."""

import numpy as np
import pandas
import pyarrow
import pytest
import torch
from pyarrow import parquet

import dataset_tool
import info
from dnnlib.errors import DataError, InflationError, UsageError
from tests.fuzz.hostile import npy, zip_bomb
from tests.support.draws import seeded
from tests.support.finished_runs import write_csv
from tests.support.running import good, refusal, refused, run_script
from training.data.tables.formats import BLOCK_ROWS, LONGEST_LINE, NotNumbers, is_table, open_table
from training.data.tables.making import exchanged
from training.data.tables.raw_tables import open_cells
from training.data.tables.repeated_trials import as_sets, one_of_each, thinned
from training.files.table import load_table
from training.models.conversion import numbers_of

NAMES = ["a", "b c", "d"]
ROWS = np.random.default_rng(0).normal(size=(2 * BLOCK_ROWS + 5, 3))
WIDE = ["a", "b", "y1", "n1", "t1", "y2", "n2", "t2"]


def rows_of(source, wanted=None):
    return np.concatenate(list(open_table(str(source), wanted).blocks()))


def write_text(path, delimiter, names=NAMES):
    head = [delimiter.join(f'"{name}"' for name in names)] if names else []
    lines = [delimiter.join(map(repr, row)) for row in ROWS.tolist()]
    path.write_text("\n".join([*head, *lines, ""]), encoding="utf-8-sig")


def write_parquet(path):
    parquet.write_table(pyarrow.table(dict(zip(NAMES, ROWS.T, strict=True))), path)


def write_parquet_folder(path):
    (path / "more").mkdir(parents=True)
    for name, rows in (("a.parquet", ROWS[:7]), ("more/b.parquet", ROWS[7:])):
        parquet.write_table(pyarrow.table(dict(zip(NAMES, rows.T, strict=True))), path / name)


def write_compressed(path):
    plain = path.with_suffix("")
    write_text(plain, ",")
    with pyarrow.output_stream(str(path), compression="detect") as file:
        file.write(plain.read_bytes())


WRITERS = {
    ".csv": lambda path: write_text(path, ","),
    ".csv.gz": write_compressed,
    ".csv.zst": write_compressed,
    ".folder": write_parquet_folder,
    ".feather": lambda path: pandas.DataFrame(ROWS, columns=NAMES).to_feather(path),
    ".tsv": lambda path: write_text(path, "\t"),
    ".npz": lambda path: np.savez(path, points=ROWS, names=NAMES),
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_tables_are_one_in_every_format_with_columns_by_name(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    WRITERS[suffix](path)
    assert is_table(str(path))
    assert list(open_table(str(path), None).names) == NAMES
    np.testing.assert_array_equal(rows_of(path), ROWS)
    np.testing.assert_array_equal(rows_of(path, ["d", "a"]), ROWS[:, [2, 0]])
    with pytest.raises(UsageError, match="no column 'e': choose from a, b c, d"):
        open_table(str(path), ["e"])
    with pytest.raises(UsageError, match="column 'a' is named twice"):
        open_table(str(path), ["a", "a"])


def test_tables_without_names_get_numbered_ones(tmp_path):
    write_text(tmp_path / "plain.csv", ",", names=None)
    np.save(tmp_path / "array.npy", np.asfortranarray(ROWS))
    np.savez(tmp_path / "lone.npz", anything=np.asfortranarray(ROWS))
    for name in ("plain.csv", "array.npy", "lone.npz"):
        assert list(open_table(str(tmp_path / name), None).names) == ["x1", "x2", "x3"]
        np.testing.assert_array_equal(rows_of(tmp_path / name), ROWS)


@pytest.mark.parametrize("text", ["3,1,2\n4,5,7\n", "1,2,3\n4,5,7\n", "0.1,0.5,0.7\n1,3,2\n"])
def test_numbers_that_are_hardly_a_header_are_data(tmp_path, text):
    (tmp_path / "table.csv").write_text(text)
    assert len(rows_of(tmp_path / "table.csv")) == 2


def test_whether_the_first_row_is_a_header_can_be_said(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("2000,2001,2002\n3,1,2\n")
    names = {header: list(open_table(str(path), None, 0, header).names) for header in ("yes", "no")}
    assert names == {"yes": ["2000", "2001", "2002"], "no": ["x1", "x2", "x3"]}
    (block,) = open_table(str(path), None, 0, "no").blocks()
    np.testing.assert_array_equal(block, [[2000, 2001, 2002], [3, 1, 2]])
    path.write_text("a,b\n3,1\n")
    with pytest.raises(DataError, match="line 1, column 'x1': 'a' is not a number"):
        list(open_table(str(path), None, 0, "no").blocks())


def test_tables_that_ship_and_toys_are_read_by_name():
    assert rows_of("wine").shape == (178, 13)
    assert rows_of("toy:s_curve").shape == (20_000, 3)
    np.testing.assert_array_equal(rows_of("toy:moons"), rows_of("toy:moons"))
    assert "unknown toy 'pie'" in refusal(open_table, "toy:pie", None, kind=UsageError)


def test_empty_cells_and_their_like_are_missing(tmp_path):
    path = tmp_path / "holes.csv"
    path.write_text("a,b\n1,\n,NA\n3, 4 \n?,nan\n\n")
    expected = [[1, np.nan], [np.nan, np.nan], [3, 4], [np.nan, np.nan]]
    np.testing.assert_array_equal(rows_of(path), expected)


def test_decimals_in_single_precision_are_those_of_texts(tmp_path):
    frame = pandas.DataFrame(np.column_stack([ROWS[:, 0].round(2), ROWS]).astype(np.float32))
    frame.columns = names = list("abcd")
    frame.to_parquet(tmp_path / "single.parquet")
    np.savez(tmp_path / "single.npz", points=frame, names=names)
    for source in ("single.parquet", "single.npz"):
        rows = rows_of(tmp_path / source)
        np.testing.assert_array_equal(rows[:, 0], ROWS[:, 0].round(2))
        np.testing.assert_array_equal(rows[:, 1:], frame[names[1:]])
    np.testing.assert_array_equal(numbers_of(frame.assign(e=0.5), "")[1][:, :4], rows)


def test_parquet_may_have_a_named_index_and_no_words_for_numbers(tmp_path):
    path = tmp_path / "words.parquet"
    parquet.write_table(pyarrow.table({"a": [1, 2], "b": ["one", "two"], "c": [None, 4]}), path)
    with pytest.raises(NotNumbers, match="column 'b' contains string, not numbers"):
        open_table(str(path), None)
    np.testing.assert_array_equal(rows_of(path, ["c", "a"]), [[np.nan, 1], [4, 2]])
    path, frame = tmp_path / "index.parquet", pandas.DataFrame({"a": [0.5]}, index=[5])
    frame.to_parquet(path)
    assert list(open_table(str(path), None).names) == list(open_cells(path).names) == ["a"]
    frame.rename_axis("key").to_parquet(path)
    assert {*open_table(str(path), None).names} == {*open_cells(path).names} == {"key", "a"}


def test_files_of_a_folder_have_the_same_columns(tmp_path):
    write_parquet_folder(tmp_path / "table")
    pandas.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "table" / "z.parquet")
    with pytest.raises(DataError, match=r"z.parquet has columns a, but .*a.parquet has a, b c, d"):
        open_table(tmp_path / "table", None)


def test_comments_quotes_and_lines_within_cells_are_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b'# made by hand\n\n"a",b\n\n1,2\n# a comment\n 3 ,"4"\r\n\n.5,+6')
    np.testing.assert_array_equal(rows_of(path), [[1, 2], [3, 4], [0.5, 6]])
    path.write_bytes(b'a,b\n"1","x\n, y"\n2,"z ""z"""\n')
    (block,) = open_cells(path).blocks()
    assert block[1].to_pylist() == ["x\n, y", 'z "z"']
    assert open_cells(path).place_of(1) == "line 4"


HOSTILE = {
    "empty": ("", "is empty"),
    "ragged": ("a,b\n1,2\n3\n", "line 3 has 1 cells for 2 columns: the last column is 'b'"),
    "words": ("a,b\n1,2\n3,four\n", "line 3, column 'b': 'four' is not a number"),
    "comma decimals": ('a,b\n"1,5",2\n', "'1,5' is not a number"),
    "codes": ("a,b\n2020_01,2\n", "'2020_01' is not a number"),
    "formula": ("a,=cmd|' /C calc'!A0\n1,2\n", "which a spreadsheet would run"),
    "twins": ("a,a\n1,2\n", "two columns 'a'"),
    "nameless": ("a,\n1,2\n", "name of column 2"),
    "invisible": ("a,b\x07\n1,2\n", "name of column 2"),
    "latin": ("a,gr\xf6\xdfe\n1,2\n".encode("latin-1"), "not encoded in UTF-8"),
    "quote": ('a,b\n1,"2\n', "line 2: unexpected end of data"),
    "huge cell": ("a,b\n1," + "9" * 200_000 + "\n", "line 2: field larger"),
    "zero bytes": (b"a,b\n1,\x00\n", "is not a number|NUL"),
    "wide": (",".join(f"x{i}" for i in range(10_001)), "10001 columns: the limit is 10000"),
    "years": ("2000,2001,2005\n3,1,2\n", "first row, 2000, 2001, 2005, .* --header=yes"),
    "wavelengths": ("0.5,1,1.5\n3,1,2\n", "first row, 0.5, 1, 1.5, .* --header=no"),
    "endless": ("a," * (LONGEST_LINE // 2 + 5), "a line of more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_text_is_refused_in_one_line_that_says_where(tmp_path, case):
    content, match = HOSTILE[case]
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=match) as got:
        rows_of(path)
    assert str(path) in str(got.value)
    assert "\n" not in str(got.value)


def test_arrays_that_are_no_tables_are_refused(tmp_path):
    arrays = {
        "objects": (np.array([[1, "a"]], dtype=object), "plain"),
        "words": (np.array([["a", "b"]]), "a matrix of numbers"),
        "cube": (np.zeros((2, 2, 2)), "a matrix of numbers"),
    }
    for name, (array, match) in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
        np.savez(tmp_path / f"{name}.npz", points=array)
        for suffix in (".npy", ".npz"):
            assert match in refusal(rows_of, tmp_path / f"{name}{suffix}")
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (33554432, 2), }"
    (tmp_path / "bomb.npz").write_bytes(zip_bomb("points.npy", 512, npy(header, b"")))
    assert "declares" in refusal(rows_of, tmp_path / "bomb.npz")
    np.savez(tmp_path / "two.npz", one=ROWS, other=ROWS)
    np.savez(tmp_path / "names.npz", points=ROWS, names=["a"])
    np.save(tmp_path / "none.npy", np.zeros((20, 0)))
    (tmp_path / "folder.csv").mkdir()
    for name, match in (
        ("two.npz", "several arrays, none of them 'points'"),
        ("names.npz", "3 columns, but 1 column names"),
        ("none.npy", "no columns"),
        ("folder.csv", "is not a file"),
    ):
        assert match in refusal(rows_of, tmp_path / name)
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    with pytest.raises(InflationError, match=r"not a readable Parquet|needs pyarrow"):
        rows_of(tmp_path / "text.parquet")
    assert "does not exist" in refusal(rows_of, tmp_path / "nothing.csv")


def wide_rows():
    """Forty rows of two trials; every third has one alone."""
    draw = np.random.default_rng(0)
    theta, y = draw.uniform(-1, 1, (40, 2)), draw.normal(size=(40, 2))
    counts, times = draw.poisson(3, (40, 2)), draw.uniform(0, 1, (40, 2))
    rows = np.hstack([theta, np.stack([y, counts, times], axis=2).reshape(40, 6)])
    rows[::3, 5:] = np.nan
    return rows


def long_rows(wide):
    trials = wide[:, 2:].reshape(-1, 2, 3)
    pairs = ((row, trial) for row in range(len(wide)) for trial in trials[row])
    rows = [[7 - row, *wide[row, :2], *trial] for row, trial in pairs if not np.isnan(trial).any()]
    return np.array(rows)


@pytest.fixture
def made(tmp_path):
    wide = wide_rows()
    write_csv(tmp_path / "wide.csv", WIDE, wide)
    write_csv(tmp_path / "long.csv", ["id", "a", "b", "y", "n", "t"], long_rows(wide))
    forms = {
        "wide": ["--repeats=y*,n*,t*"],
        "named": ["--repeats=y1,n1,t1;y2,n2,t2"],
        "long": ["--dataset=id", "--conditions=y,n"],
    }
    tables = {}
    for form, options in forms.items():
        source, dest = tmp_path / f"{'long' if form == 'long' else 'wide'}.csv", f"{form}.npz"
        covariate = "t1" if form == "named" else "t"
        more = [f"--covariates={covariate}", "--bounds=a:-1:1,n:0:", "--held-out=0.25"]
        more = [each.replace("n:0", "n1:0") if form == "named" else each for each in more]
        place = (f"--source={source}", f"--dest={tmp_path / dest}")
        output = good(run_script(dataset_tool, *place, *options, *more)).out
        assert "40 datasets with 1 to 2 trials each" in output
        tables[form] = load_table(tmp_path / dest)
    assert "datasets with 1 to 2 trials" in good(run_script(info, tmp_path / "long.npz")).out
    return tables


def test_columns_and_long_form_are_the_same_data_of_which_whole_datasets_are_held_out(made):
    wide, named, long = made["wide"], made["named"], made["long"]
    assert wide.datasets is not None
    assert len(wide) == 40 + 26
    for other in (named, long):
        np.testing.assert_array_equal(other.values, wide.values)
        np.testing.assert_array_equal(other.conditions, wide.conditions)
    assert (wide.condition_names, named.condition_names) == (["y", "n", "t"], ["y1", "n1", "t1"])
    # Parameters that repeat are no discrete ones; counts are.
    assert not wide.steps.any()
    assert wide.conditions_schema.steps.tolist() == [0, 1, 0]
    assert wide.conditions_schema.low.tolist() == [-torch.inf, -0.5, -torch.inf]
    for table in made.values():
        halves = (table.held_out, ~table.held_out)
        held_out, others = (set(table.datasets[which].tolist()) for which in halves)
        assert (len(held_out), len(others)) == (10, 30)
        assert len(one_of_each(table)) == 40


def test_roles_are_exchanged_for_a_likelihood(made):
    table = made["long"]
    likelihood, _ = exchanged(table, "it")
    names = (list(likelihood.names), list(likelihood.condition_names))
    assert names == (["y", "n"], ["a", "b", "t"])
    np.testing.assert_array_equal(likelihood.values, table.conditions[:, :2])
    np.testing.assert_array_equal(likelihood.conditions[:, :2], table.values)
    assert likelihood.conditions_schema.high.tolist() == [1, torch.inf, torch.inf]
    assert likelihood.steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ("b", (), ("line 3", "column 'b'", "line 2", "same dataset")),
        ("late b", ("--missing=drop",), ("line 5", "column 'b'", "line 4", "same dataset")),
        ("hole", (), ("line 4", "missing", "--missing=drop")),
        ("infinity", (), ("line 4", "column 'y'", "(inf)")),
        ("", ("--repeats=y;n",), ("--conditions", "--repeats")),
        ("", ("--covariates=y",), ("'y' has two roles",)),
        ("", ("--missing=mean",), ("--missing=drop",)),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, change, options, words):
    rows = long_rows(wide_rows())[1:]
    if change == "late b":
        rows[0, 3], rows[2, 2] = np.nan, 0.5
    elif change == "b":
        rows[1, 2] = 0.5
    elif change:
        rows[2, 1 if change.endswith("a") else 3] = np.inf if change == "infinity" else np.nan
    source = write_csv(tmp_path / "long.csv", ["id", "a", "b", "y", "n", "t"], rows)
    place = (f"--source={source}", f"--dest={tmp_path / 'd.npz'}", "--dataset=id")
    result = run_script(dataset_tool, *place, "--conditions=y,n", "--covariates=t", *options)
    refused(result, 1 if change else 2, *words)
    assert not (tmp_path / "d.npz").exists()


def test_a_row_without_trials_is_refused(tmp_path):
    rows = wide_rows()
    rows[4, 2:] = np.nan
    source = write_csv(tmp_path / "wide.csv", WIDE, rows)
    place = (f"--source={source}", f"--dest={tmp_path / 'd.npz'}")
    refused(run_script(dataset_tool, *place, "--repeats=y*,n*,t*"), 1, "line 6 has no trials")
    for groups, word in (("y1;y2,n2", "same number"), ("z*", "no column"), ("y1;y1", "twice")):
        refused(run_script(dataset_tool, *place, f"--repeats={groups}"), 2, word)


def test_trials_of_a_dataset_stand_side_by_side(made):
    wide = wide_rows()
    for form, table in made.items():
        sets = as_sets(table, 3, form)
        assert (len(sets), sets.datasets, sets.condition_dim) == (40, None, 3)
        order = [np.flatnonzero(wide[:, 0] == a).item() for a in sets.values[:, 0]]
        np.testing.assert_array_equal(sets.conditions, wide[order, 2:])
        assert int(sets.held_out.sum()) == 10


def test_any_number_of_trials_is_kept_as_often_as_another():
    trials = torch.arange(4000.0).view(1000, 4).repeat(1, 1)
    trials[:500, 2:] = torch.nan  # of one trial, others have two
    some = thinned(trials, 2, seeded()).view(1000, 2, 2)
    whole = some.isnan().any(dim=2)
    assert (whole == some.isnan().all(dim=2)).all()
    assert (some.flatten(1).isnan() | (some.flatten(1) == trials)).all()
    numbers = (~whole).sum(dim=1)
    assert (numbers[:500] == 1).all()
    assert set(numbers[500:].tolist()) == {1, 2}
    assert 200 < int((numbers[500:] == 1).sum()) < 300
    assert 80 < int(whole[500:, 0].sum()) < 170
