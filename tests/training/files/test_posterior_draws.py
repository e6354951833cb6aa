"""Draws of posteriors in netCDF: each column by its name, and what weighted draws are worth."""

from pathlib import Path

import h5netcdf
import numpy as np
import torch

from tests.support.draws import normal
from training.files.posterior_draws import save_netcdf, variable_names
from training.inference.draws import Draws

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
