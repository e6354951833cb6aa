"""Frechet and kernel Inception distances between sets of images.

ref measures a data set once and writes a reference; calc compares other images with it. Distances
are comparable only between equally many images, of one size, by one detector.
"""

from training.options.declared import takes
from training.options.samples import CalcSettings, RefSettings
from training.options.script import group, run_script


@group(help=__doc__)
def main() -> None:
    pass


@main.command(short_help="Measure a data set and write a reference.")
@takes(RefSettings)
def ref(settings: RefSettings) -> None:
    """Measure a data set and write the reference that other images are compared with."""
    from training.commands import fid as job  # here, so that --help need not wait for PyTorch

    job.ref(settings)


@main.command(short_help="Compare images with a reference.")
@takes(CalcSettings)
def calc(settings: CalcSettings) -> None:
    """Compare images with a reference: print the FID, and the KID if the reference has features."""
    from training.commands import fid as job  # here, so that --help need not wait for PyTorch

    job.calc(settings)


if __name__ == "__main__":
    run_script(main)
