"""Makes an image data set of the StyleGAN format from what is published in other formats.

--source is a folder of images (nested; labels in its dataset.json if there is one), a .zip of
images, cifar-10-python.tar.gz, an MNIST images-idx3-ubyte.gz (labels are taken from the file beside
it; 28x28 is padded to 32x32), an LMDB of LSUN, or 'digits': the 8x8 digits of scikit-learn.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import click
import PIL

from dnnlib.logs import logger
from torch_utils.distributed import rank_from_environment
from torch_utils.results import provenance, save_json
from training.data.images.transforms import TRANSFORMS, Transform
from training.data.sources.conversion import Conversion
from training.data.sources.formats import DIGITS, open_source
from training.data.sources.writer import image_writer, is_zip, require_writable
from training.settings.common import overwrite
from training.settings.declared import Declared, option, takes
from training.settings.script import command, run_script
from training.settings.types import COUNT, FILE, choice

FORMAT = "inflationary-flows image data set 1"


def parse_resolution(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """``WxH`` in pixels as a pair of numbers."""
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(width + height) <= 12):
        raise click.BadParameter(f"'{value}' is not of the form WxH, such as 32x32")
    return int(width), int(height)


@dataclass(frozen=True, kw_only=True)
class Settings(Declared):
    """Options of this script."""

    source: str = option(required=True, help="Where the images are.")
    dest: Path = option(type=FILE, required=True, help="The .zip, or else folder, to make.")
    first_image: int = option(
        "--first-image",
        type=click.IntRange(min=0),
        default=0,
        help="Leave out so many images at the start, so that a source can be split.",
    )
    max_images: int | None = option(
        "--max-images", type=COUNT, unset="all", help="Stop after so many images"
    )
    transform: str | None = option(
        type=choice(TRANSFORMS),
        unset="images have to be square",
        help="Cut the largest square out of the middle, or the largest rectangle of the "
        "resolution's aspect, with black above and below",
    )
    resolution: tuple[int, int] | None = option(
        metavar="WxH",
        callback=parse_resolution,
        unset="leave the size",
        help="Size to resample to",
    )
    channels: str | None = option(
        type=choice(("1", "3")),
        unset="as the first image",
        help="1 makes all images gray, 3 makes all RGB",
    )
    skip_bad: bool = option(
        "--skip-bad", is_flag=True, help="Leave out images that are broken or do not fit."
    )
    overwrite: bool = overwrite()


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    if rank_from_environment() != 0:
        return  # one process makes the file
    started = time.monotonic()
    dest = settings.dest
    conversion = Conversion(
        Transform(settings.transform, settings.resolution),
        int(settings.channels) if settings.channels else None,
        settings.max_images,
        settings.skip_bad,
        settings.first_image,
    )
    source_path = None if settings.source == DIGITS else Path(settings.source)
    require_writable(dest, source_path, settings.overwrite)
    source = open_source(settings.source)
    with image_writer(dest) as writer:
        (height, width, channels), skipped = conversion.run(source, writer)
    params = {
        "format": FORMAT,
        "options": settings.recorded(),
        "images": writer.count,
        "skipped": skipped,
        "image_shape": [channels, height, width],
        "has_labels": writer.has_labels,
        "seconds": round(time.monotonic() - started, 3),
        "pillow": PIL.__version__,
        **provenance(),
    }
    save_json(params_path(dest), params)
    logger.info(
        f"Wrote {writer.count} images of {width}x{height} pixels in {channels} channel(s), "
        f"{'with' if writer.has_labels else 'without'} labels, to {dest}"
        + (f"; skipped {skipped} bad ones" if skipped else "")
    )


def params_path(dest: Path) -> Path:
    """Where the options of a data set are written: beside it."""
    return dest.with_name(f"{dest.stem if is_zip(dest) else dest.name}_params.json")


if __name__ == "__main__":
    run_script(main)
