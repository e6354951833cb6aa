"""Observations and draws of posteriors, by the names of their columns."""

from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.draws import normal
from training.files.observations import read_columns, read_mask, read_observations
from training.files.posterior_draws import save_netcdf, variable_names
from training.inference.draws import Draws

ROW = ["x1", "x2", "x3"]


def written(folder: Path, text: str) -> Path:
    path = folder / "seen.csv"
    path.write_text(text)
    return path


def read(folder: Path, text: str, *names: str) -> list[list[float]]:
    found: list[list[float]] = read_columns(written(folder, text), names, ROW, ["total"]).tolist()
    return found


def test_columns_are_found_by_name_in_whatever_order_they_stand(tmp_path: Path) -> None:
    assert read(tmp_path, "x2,x1\n2,1\n4,3\n", "x1", "x2") == [[1, 2], [3, 4]]
    # Of a whole row only what is seen has to be a number.
    assert read(tmp_path, "x3,total,x2,x1\n,9,?,1\n", "x1") == [[1]]
    assert read(tmp_path, "x2\n5\n", "x2") == [[5]]


def test_numbers_without_names_are_whole_rows_or_what_is_seen_in_its_order(tmp_path: Path) -> None:
    assert read(tmp_path, "1,2,3\n6,5,4\n", "x1", "x3") == [[1, 3], [6, 4]]
    assert read(tmp_path, "1,2\n6,5\n", "x1", "x3") == [[1, 2], [6, 5]]
    np.save(tmp_path / "seen.npy", np.array([[7.0, 8.0, 9.0]]))
    assert read_columns(tmp_path / "seen.npy", ["x2"], ROW).tolist() == [[8]]


def test_a_first_row_of_numbers_that_are_names_is_a_header(tmp_path: Path) -> None:
    path = written(tmp_path, "2001,2000\n1,2\n")
    assert read_columns(path, ["2000", "2001"]).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("foo\n1\n", "a column 'foo', which is none of x1, x2, x3"),
        ("x1,x2,foo\n1,2,3\n", "a column 'foo', which is none of x1, x2, x3"),
        ("x1,x3\n1,2\n", "no column 'x2': give x1, x2"),
        ("x1,x2,x1\n1,2,3\n", "two columns 'x1'"),
        ("1,2,3,4\n", "4 columns without names: give 2 or 3"),
        ("x1,x2\n1,2\n3,\n", "line 3, column 'x2': the value is missing"),
        ("x1,x2\n1,2\n3,four\n", "line 3, column 'x2': 'four' is no number: mend it, or leave"),
        ("x1,x2\n", "has no rows"),
    ],
)
def test_what_does_not_fit_is_told_by_row_and_column(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match) as found:
        read(tmp_path, text, "x1", "x2")
    assert "\n" not in str(found.value)
    assert "--columns" not in str(found.value)


def test_what_has_no_names_of_its_own_is_taken_in_order_whatever_its_name(tmp_path: Path) -> None:
    assert read_observations(written(tmp_path, "x2,foo\n1,2\n")).tolist() == [[1, 2]]


def test_a_mask_takes_names_with_commas_and_says_what_it_could_be() -> None:
    names = ["age", "price, EUR", "size"]
    assert read_mask('"price, EUR",age', names, None).tolist() == [0, 1]
    with pytest.raises(UsageError, match="names 'top': give coordinates by name"):
        read_mask("top", names, None)
    with pytest.raises(UsageError, match="give upper-half, lower-half, left-half, right-half, or"):
        read_mask("top", names, (1, 1, 3))


NAMES = ["body_mass_g", "x", "km/h", "draw", "..", "x_"]


def test_columns_are_variables_by_names_that_netcdf_takes_and_that_are_free(tmp_path: Path) -> None:
    assert variable_names(NAMES) == ["body_mass_g", "x_", "km_h", "draw_", "_", "x__"]
    points, dim = normal(3, 2, 5, 6), len(NAMES)
    drawn = Draws(points, points, points[..., 0], ["pool"] * 3, torch.ones(3))
    worth = torch.tensor([7.0, 2.5, torch.nan])
    path, about = tmp_path / "draws.nc", {"samplers": drawn.sampler}
    parts = iter([(drawn, -points)])
    save_netcdf(path, parts, (2, 5, 3, dim), NAMES, None, about, worth=worth)
    with h5netcdf.File(path) as file:
        posterior = file["posterior"]
        for place, name in enumerate(variable_names(NAMES)):
            variable = posterior[name]
            assert variable.dimensions == ("chain", "draw", "observation")
            assert variable.attrs["long_name"] == NAMES[place]
            np.testing.assert_array_equal(variable[...], posterior["x"][..., place])
        assert posterior["z"].dimensions[-1] == "latent"
        assert posterior["latent"][0] == b"z1"
        # As draws alone they would seem to be worth up to ten each.
        assert posterior.attrs["effective_size"] == 2.5
