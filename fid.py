"""Frechet and kernel Inception distances between sets of images.

ref measures a data set once and writes a reference; calc compares other images with it. Distances
are comparable only between equally many images, of one size, by one detector.
"""

from training.options.samples import CalcSettings, RefSettings
from training.options.script import group, run_script, runs

REF, CALC = "Measure a data set and write a reference.", "Compare images with a reference."
"""Help texts in the list of commands."""
main = group(
    help=__doc__,
    commands={
        "ref": runs("fid.ref", RefSettings, short_help=REF),
        "calc": runs("fid.calc", CalcSettings, short_help=CALC),
    },
)

if __name__ == "__main__":
    run_script(main)
