"""Every array that is drawn is checked: missing, of another shape, not finite, impossible."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnlib.errors import DataError
from tests.support.picture_files import (
    SAVED,
    TIMES,
    save_check,
    save_coverage,
    save_image_matrices,
    save_images,
    save_roundtrips,
    save_simulation,
    save_summary,
    save_table,
    save_toy_matrices,
)
from tests.support.refusals import refusal
from training.measure.boundaries import unit_sphere
from training.pictures.album import drawable_files, pictures_of

save_melt = partial(save_simulation, kind="melt")
save_image_melt = partial(save_images, kind="melt")
OF_POINTS, OF_IMAGES, OF_TABLES = {"tilde_xs"}, {"eigenvectors"}, {"exact", "test_data"}
OF_CORRELATIONS = {"lags", "n_samples", "net_outputs_constant", "net_residuals_constant"}
NOT_DRAWN = {"format"} | OF_POINTS | OF_IMAGES | OF_TABLES | OF_CORRELATIONS
CORRELATIONS = (save_summary, save_toy_matrices, save_image_matrices)
KINDS = (save_melt, save_image_melt, save_roundtrips, save_coverage, *CORRELATIONS)
ERRORS = ("mse", "mse_float", "max_abs_error", "exact")


@pytest.mark.parametrize("save", KINDS)
def test_no_array_that_is_drawn_may_be_broken(tmp_path: Path, save: Callable[..., Path]) -> None:
    with np.load(save(tmp_path)) as file:
        arrays = dict(file)
    drawn = [tmp_path] if save is save_image_matrices else [save(tmp_path)]
    for name in arrays.keys() - NOT_DRAWN:
        shape = arrays[name].shape
        for broken in (np.full(shape, np.nan), np.full(shape, "text"), np.ones((1, *shape, 1))):
            save(tmp_path, **{name: broken})
            with pytest.raises(DataError, match=f"'{name}'") as raised:
                pictures_of(drawn, None, None)
            assert str(tmp_path) in str(raised.value)
        save(tmp_path, **{name: None})
        with suppress(DataError):  # the rest may be enough, but nothing else is raised
            pictures_of(drawn, None, None)


@pytest.mark.parametrize("name", ["tilde_xs", "net_outs", "dxs_es", "log_prob"])
def test_a_simulation_that_went_wrong_anywhere_is_not_drawn(tmp_path: Path, name: str) -> None:
    wrong = np.full(30 if name == "log_prob" else (SAVED, 30, 2), np.nan)
    with pytest.raises(DataError, match=f"'{name}' has values that are not finite"):
        pictures_of([save_melt(tmp_path, **{name: wrong})], None, None)


@pytest.mark.parametrize(
    ("save", "changes", "message"),
    [
        (save_melt, {"xs_es": np.zeros((1, 30, 2))}, "two times or more"),
        (save_melt, {"times": np.zeros(SAVED)}, "neither increase nor decrease"),
        (save_melt, {"noise_variance": np.ones((SAVED, 3))}, r"is \[5, 3\].*\[5, 2\]"),
        (save_melt, {"eigenvalues": np.array([1.0, -1.0])}, "positive"),
        (save_melt, {"log_prob": np.zeros(29)}, r"'log_prob' is \[29\].*\[30\]"),
        (save_image_melt, {"image_shape": np.array([1, 4, 5])}, r"\[1, 4, 5\].* 16 numbers"),
        (save_image_melt, {"image_shape": np.array([4, 2, 2])}, "C 1 or 3"),
        (save_image_melt, {"image_shape": np.array([-1, -4, 4])}, "'image_shape'"),
        (save_image_melt, {"tilde_xs": np.zeros((SAVED, 10, 15))}, "alike"),
        (save_roundtrips, {"originals": np.zeros((3, 2, 4, 4), np.uint8)}, "be .3, 2, 4, 4."),
        (save_roundtrips, {"originals": np.zeros((3, 1, 4, 4))}, "holds float64, not uint8"),
        (save_roundtrips, {"max_abs_error": -np.ones(3)}, "negative"),
        (save_roundtrips, {f"all_{name}": np.ones(2) for name in ERRORS}, "of 2 images .* 3 imag"),
        (save_coverage, {"radii": np.array([1.0, 0.5, 2.0])}, "positive and increase"),
        (save_coverage, {"radii": np.array([1.5, 2.5, 4.0])}, "not ellipsoids"),
        (save_coverage, {"boundary_latent": np.zeros((3, 32, 2))}, "not ellipsoids"),
        (save_coverage, {"coverage": np.full((1, 3, 3), 2.0)}, "should hold fractions"),
        (save_coverage, {"boundary_data": np.full((3, 32, 2), 1e300)}, "values beyond"),
        (save_coverage, {"fresh_data": np.zeros((1, 200, 4))}, "4-D"),
        (save_coverage, {"faces": unit_sphere(2, 32).faces[1:]}, "s' do not fit: .*not closed"),
        (save_coverage, {"faces": np.full((32, 2), 32)}, "do not fit: .*not among the 32"),
        (save_summary, {"times": np.arange(9)[::-1]}, "'times' should increase"),
        (save_summary, {"net_residuals_mean": np.full(9, 2.0)}, "from -1 to 1"),
        (save_summary, {"n_samples": np.array(1)}, "'n_samples' is 1, not"),
        (save_toy_matrices, {"times": TIMES[::-1]}, "'times' should increase"),
        (save_toy_matrices, {"times": TIMES + 1}, "not made together with its summary"),
        (save_toy_matrices, {"net_outputs_acs": np.zeros((9, 2, 3))}, r"is \[2, 3\] at a time"),
        (save_toy_matrices, {"net_residuals_acs": np.zeros((9, 3, 3))}, r"is \[3, 3\] at a time"),
        (save_toy_matrices, {"net_residuals_acs": np.zeros((8, 2, 2))}, r"be \[9, D, D\]"),
        (save_toy_matrices, {"net_residuals_acs": np.full((9, 2, 2), 1.1)}, "from -1 to 1"),
        (save_image_matrices, {"time": np.array(0.5)}, "times that do not increase"),
        (save_image_matrices, {"time": np.array(99.0)}, "other times than their summary"),
        (save_image_matrices, {"net_outputs_acs": np.zeros((6, 6))}, r"is \[6, 6\] at a time"),
        (save_image_matrices, {"net_residuals_acs": None}, "not of the same quantities"),
        (save_table, {"points": np.zeros((60, 3))}, r"'points' is \[60, 3\] float64.*\[60, 4\]"),
        (save_table, {"points": np.full((60, 4), "x")}, "'points' .* should be numbers"),
        (save_table, {"points": np.full((60, 4), np.nan)}, "no two rows"),
        (save_table, {"names": np.array(["a", "b"])}, "not the names of 4 columns"),
        (save_table, {"names": np.arange(4)}, "not the names of 4 columns"),
        (save_table, {"log_prob": np.zeros(3)}, r"'log_prob' is \[3\]"),
        (save_table, {"row_index": np.zeros(3)}, r"'row_index' is \[3\]"),
        (save_table, {"xs_es": np.full((5, 60, 4), np.nan)}, "not finite"),
        (save_check, {"ranks": None}, "no array 'ranks'"),
        (save_check, {"ranks": np.full((60, 4), 1.5)}, "from 0 to 1"),
        (save_check, {"ranks": np.full((60, 4), np.nan)}, "finite"),
        (save_check, {"ranks": np.full((59, 4), 0.5)}, r"is \[2, 60\], but should be \[2, 59\]"),
        (save_check, {"regions": np.full((3, 60), 0.5)}, r"is \[3, 60\], but should be \[2, 60\]"),
        (save_check, {"crps": np.ones((60, 5))}, "of 5 of 4 quantities"),
        (save_check, {"crps": np.ones((60, 0))}, r"'crps' is \[60, 0\]"),
        (save_check, {"names": np.array(["a", "a", "b", "c"])}, "all different"),
        (save_check, {"names": np.arange(4)}, "all different"),
        (save_check, {"runs": 19}, "too few runs"),
    ],
)
def test_impossible_values(
    tmp_path: Path, save: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    path = save(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as raised:
        pictures_of([tmp_path if save is save_image_matrices else path], None, None)
    assert str(tmp_path) in str(raised.value)


def test_kinds_are_known_by_their_format(tmp_path: Path) -> None:
    for number, save in enumerate(KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        renamed = save(folder).rename(folder / "renamed.npz")
        assert drawable_files([folder, renamed]).count(renamed) == 1
    path = save_melt(tmp_path, format=np.array("inflationary-flows fid reference 1"))
    with pytest.raises(DataError, match="holds features of images, which are not drawn"):
        pictures_of([path], None, None)
    assert "holds neither" in refusal(drawable_files, [tmp_path])
