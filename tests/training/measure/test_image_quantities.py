"""Means of quarters of images, and powers of waves."""

from math import pi

import torch

from tests.support.draws import normal
from training.measure.image_quantities import BANDS, image_quantities


def test_quarters_are_where_they_are_and_powers_add_up_to_the_variance() -> None:
    images = normal(5, 2 * 6 * 8, seed=1)
    values = {name: f(images) for name, f in image_quantities((2, 6, 8)).items()}
    pixels = images.view(5, 2, 6, 8)
    torch.testing.assert_close(values["mean upper right"], pixels[:, :, :3, 4:].mean((1, 2, 3)))
    torch.testing.assert_close(values["mean lower left"], pixels[:, :, 3:, :4].mean((1, 2, 3)))
    columns = (torch.arange(8) / 8).expand(6, 8)
    # By Parseval the power of a wave of amplitude 1 is half of the pixels, all in its band.
    for wave, name in ((columns, "long"), (4 * columns, "short"), (2 * columns, "middle")):
        image = torch.cos(2 * pi * wave).double().flatten()[None]
        functions = image_quantities((1, 6, 8))
        powers = {band: float(functions[f"power of {band} waves"](image)) for band in BANDS}
        assert max(powers, key=powers.__getitem__) == name
        assert sum(value < 1e-12 for value in powers.values()) == 2
