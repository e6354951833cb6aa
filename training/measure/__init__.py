"""Measures of samples and flows, whoever made them."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.measure.boundaries import unit_sphere as unit_sphere
    from training.measure.coverage import Spheres as Spheres
else:
    __getattr__ = lazily(
        __name__,
        {
            "Spheres": "coverage",
            "unit_sphere": "boundaries",
        },
    )
