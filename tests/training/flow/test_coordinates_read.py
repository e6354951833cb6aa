"""Coordinates that are read from a file are those that were fitted."""

import pytest
import torch

from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.fit import MARGINALS, WHITENINGS, Columns, fit_coordinates


@pytest.mark.parametrize("whiten", WHITENINGS)
@pytest.mark.parametrize("marginals", MARGINALS)
def test_coordinates_that_take_up_a_state_are_those_that_gave_it(
    marginals: str, whiten: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 3, generator=generator, dtype=torch.float64).exp()
    points *= torch.tensor([1e-6, 1.0, 1e6])  # units far apart are no dependence of columns
    fitted = fit_coordinates(points, Columns.plain(["a", "b", "c"]), marginals, whiten)
    there = fitted.to_flow(points)
    assert torch.allclose(there.std(dim=0, correction=0), torch.ones(3, dtype=torch.float64))
    read = Coordinates(fitted.dim, fitted.names, fitted.knots)
    read.load_state_dict(fitted.state_dict())
    for found, expected in zip(read(points), fitted(points), strict=True):
        assert torch.equal(found, expected)
