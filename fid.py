"""Compute Frechet and kernel Inception distances between sets of images.

Run ref once per data set, then calc. Distances are comparable only for equal numbers of images, one
image size and one detector.
"""

from training.cli.script import group, run_script, runs
from training.settings.samples import CalcSettings, RefSettings

main = group(
    help=__doc__,
    commands={
        "ref": runs("fid.ref", RefSettings),
        "calc": runs("fid.calc", CalcSettings),
    },
)

if __name__ == "__main__":
    run_script(main)
