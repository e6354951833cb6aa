"""Repeated measurements: columns and long form alike, whole datasets held out, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import dataset_tool
import info
from tests.support.draws import seeded
from tests.support.finished_runs import write_csv
from tests.support.running import good, refused, run_script
from training.data.tables.exchanged import exchanged
from training.data.tables.table import DataTable
from training.data.tables.trials import as_sets, one_of_each, thinned
from training.files.table import load_table

NAMES = ["a", "b", "y1", "n1", "t1", "y2", "n2", "t2"]


def wide_rows() -> np.ndarray:
    """Forty rows of two trials; every third has one alone."""
    draw = np.random.default_rng(0)
    theta, y = draw.uniform(-1, 1, (40, 2)), draw.normal(size=(40, 2))
    counts, times = draw.poisson(3, (40, 2)), draw.uniform(0, 1, (40, 2))
    rows = np.hstack([theta, np.stack([y, counts, times], axis=2).reshape(40, 6)])
    rows[::3, 5:] = np.nan
    return rows


def long_rows(wide: np.ndarray) -> np.ndarray:
    trials = wide[:, 2:].reshape(-1, 2, 3)
    rows = [
        [7 - row, *wide[row, :2], *trial]
        for row in range(len(wide))
        for trial in trials[row]
        if not np.isnan(trial).any()
    ]
    return np.array(rows)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, DataTable]:
    wide = wide_rows()
    write_csv(tmp_path / "wide.csv", NAMES, wide)
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
        assert "40 datasets of 1 to 2 trials each" in output
        tables[form] = load_table(tmp_path / dest)
    assert "datasets of 1 to 2 trials" in good(run_script(info, tmp_path / "long.npz")).out
    return tables


def test_columns_and_long_form_are_the_same_data(made: dict[str, DataTable]) -> None:
    wide, named, long = made["wide"], made["named"], made["long"]
    assert wide.datasets is not None
    assert len(wide) == 40 + 26
    for other in (named, long):
        assert_close(other.points, wide.points, rtol=0, atol=0)
        assert_close(other.conditions, wide.conditions, rtol=0, atol=0)
    assert (wide.condition_names, named.condition_names) == (["y", "n", "t"], ["y1", "n1", "t1"])
    # Parameters that repeat are no discrete ones; counts are.
    assert not wide.columns.steps.any()
    assert wide.columns_of_conditions.steps.tolist() == [0, 1, 0]
    assert wide.columns_of_conditions.low.tolist() == [-torch.inf, -0.5, -torch.inf]


def test_whole_datasets_are_held_out(made: dict[str, DataTable]) -> None:
    for table in made.values():
        halves = (table.held_out, ~table.held_out)
        held_out, others = (set(table.datasets[which].tolist()) for which in halves)
        assert (len(held_out), len(others)) == (10, 30)
        assert len(one_of_each(table)) == 40


def test_roles_are_exchanged_for_a_likelihood(made: dict[str, DataTable]) -> None:
    table = made["long"]
    likelihood, _ = exchanged(table, "it")
    names = (list(likelihood.columns.names), list(likelihood.condition_names))
    assert names == (["y", "n"], ["a", "b", "t"])
    assert_close(likelihood.points, table.conditions[:, :2])
    assert_close(likelihood.conditions[:, :2], table.points)
    assert likelihood.columns_of_conditions.high.tolist() == [1, torch.inf, torch.inf]
    assert likelihood.columns.steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ("b", (), ("line 3", "column 'b'", "line 2", "same dataset")),
        ("late b", ("--missing=drop",), ("line 5", "column 'b'", "line 4", "same dataset")),
        ("hole", (), ("line 4", "missing", "--missing=keep")),
        ("hole in a", ("--missing=keep",), ("line 4", "column 'a'", "not for infinite values")),
        ("infinity", ("--missing=keep",), ("line 4", "column 'y'", "(inf)")),
        ("", ("--repeats=y;n",), ("--conditions", "--repeats")),
        ("", ("--covariates=y",), ("'y' has two roles",)),
        ("", ("--missing=mean",), ("--missing=drop",)),
    ],
)
def test_what_is_no_dataset_is_refused(
    tmp_path: Path, change: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
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


def test_missing_data_of_trials_are_kept(tmp_path: Path) -> None:
    rows = long_rows(wide_rows())
    rows[::4, 3] = rows[1::4, 4] = np.nan
    rows[8, 4] = np.nan  # of this trial nothing is there
    source = write_csv(tmp_path / "long.csv", ["id", "a", "b", "y", "n", "t"], rows)
    place = (f"--source={source}", f"--dest={tmp_path / 'd.npz'}", "--dataset=id")
    roles = ("--conditions=y,n", "--covariates=t", "--missing=keep")
    assert "Left out 1 of" in good(run_script(dataset_tool, *place, *roles)).out
    table = load_table(tmp_path / "d.npz")
    assert_close(table.conditions, torch.from_numpy(np.delete(rows, 8, 0)[:, 3:]), equal_nan=True)
    assert "y 24.6%, n 26.2%" in good(run_script(info, tmp_path / "d.npz")).out
    likelihood, _ = exchanged(table, "d")
    assert likelihood.points.isnan().sum() == table.conditions.isnan().sum()


def test_a_row_without_trials_is_refused(tmp_path: Path) -> None:
    rows = wide_rows()
    rows[4, 2:] = np.nan
    source = write_csv(tmp_path / "wide.csv", NAMES, rows)
    place = (f"--source={source}", f"--dest={tmp_path / 'd.npz'}")
    refused(run_script(dataset_tool, *place, "--repeats=y*,n*,t*"), 1, "line 6 has no trials")
    for groups, word in (("y1;y2,n2", "as many"), ("z*", "no column"), ("y1;y1", "twice")):
        refused(run_script(dataset_tool, *place, f"--repeats={groups}"), 2, word)


def test_trials_of_a_dataset_stand_side_by_side(made: dict[str, DataTable]) -> None:
    wide = wide_rows()
    for form, table in made.items():
        sets = as_sets(table, 3, form)
        assert (len(sets), sets.datasets, sets.condition_dim) == (40, None, 3)
        order = [np.flatnonzero(wide[:, 0] == a).item() for a in sets.points[:, 0].numpy()]
        np.testing.assert_array_equal(sets.conditions.numpy(), wide[order, 2:])
        assert int(sets.held_out.sum()) == 10


def test_any_number_of_trials_is_kept_as_often_as_another() -> None:
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
