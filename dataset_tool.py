"""Makes an image data set of the StyleGAN format from what is published in other formats.

--source is a folder of images (nested; labels in its dataset.json if there is one), a .zip of
images, cifar-10-python.tar.gz, an MNIST images-idx3-ubyte.gz (labels are taken from the file beside
it; 28x28 is padded to 32x32), an LMDB of LSUN, or 'digits': the 8x8 digits of scikit-learn.
"""

import time
from pathlib import Path
from typing import Any

import click
import PIL

from dnnlib.logs import logger
from torch_utils.distributed import rank_from_environment
from torch_utils.results import provenance, save_json
from training.data.images.transforms import TRANSFORMS, Transform
from training.data.sources.conversion import Conversion
from training.data.sources.formats import DIGITS, open_source
from training.data.sources.writer import image_writer, is_zip, require_writable
from training.settings.options import overwrite_option
from training.settings.script import command, run_script
from training.settings.types import COUNT, FILE, choice


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


@command(help=__doc__)
@click.option("--source", required=True, help="Where the images are.")
@click.option("--dest", type=FILE, required=True, help="The .zip, or else folder, to make.")
@click.option(
    "--first-image",
    type=click.IntRange(min=0),
    default=0,
    help="Leave out so many images at the start, so that a source can be split.",
)
@click.option("--max-images", type=COUNT, help="Stop after so many images  [default: all]")
@click.option(
    "--transform",
    type=choice(TRANSFORMS),
    help="Cut the largest square out of the middle, or the largest rectangle of the resolution's "
    "aspect, with black above and below  [default: images have to be square]",
)
@click.option(
    "--resolution",
    metavar="WxH",
    callback=parse_resolution,
    help="Size to resample to  [default: leave the size]",
)
@click.option(
    "--channels",
    type=choice(("1", "3")),
    help="1 makes all images gray, 3 makes all RGB  [default: as the first image]",
)
@click.option("--skip-bad", is_flag=True, help="Leave out images that are broken or do not fit.")
@overwrite_option
def main(**options: Any) -> None:
    if rank_from_environment() != 0:
        return  # one process makes the file
    started = time.monotonic()
    dest: Path = options["dest"]
    source_name: str = options["source"]
    transform = Transform(options["transform"], options["resolution"])
    channels = int(options["channels"]) if options["channels"] else None
    conversion = Conversion(
        transform, channels, options["max_images"], options["skip_bad"], options["first_image"]
    )
    source_path = None if source_name == DIGITS else Path(source_name)
    require_writable(dest, source_path, options["overwrite"])
    source = open_source(source_name)
    with image_writer(dest) as writer:
        (height, width, channels), skipped = conversion.run(source, writer)
    params = {
        "options": options,
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
