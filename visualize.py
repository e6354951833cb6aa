"""Draws what the scripts wrote: simulations, roundtrips, coverage, correlations, training, samples.

Each PATH is a results file (.npz) of a simulation, of worst roundtrips, of coverage or of
correlations, a run's stats.jsonl, a zip of images, or a folder with such files or with images. What
a file holds decides what is drawn of it; a melt, a roundtrip and a generation of one run are drawn
together, and so are the correlations of images at several times.
"""

from collections import Counter
from pathlib import Path

import click

from dnnlib.errors import UsageError
from dnnlib.files import atomic_path, require_folder, require_new
from dnnlib.logs import logger
from training.pictures.album import pictures_of
from training.pictures.trajectories.animation import require_ffmpeg
from training.settings.options import overwrite_option
from training.settings.script import command, run_script
from training.settings.types import FILE, choice


@command(help=__doc__)
@click.argument("paths", metavar="PATH...", type=FILE, nargs=-1, required=True)
@click.option(
    "--dest", "--save_dir", "dest", type=FILE, help="Folder of the pictures  [default: the file's]"
)
@click.option("--animation/--no-animation", default=True, help="Animate melts and generations.")
@click.option("--format", type=choice(("gif", "mp4")), default="gif", help="Of animations.")
@overwrite_option
def main(
    paths: tuple[Path, ...], dest: Path | None, animation: bool, format: str, overwrite: bool
) -> None:
    if animation and format == "mp4":
        require_ffmpeg()
    pictures = pictures_of(paths, dest, format if animation else None)
    counts = Counter(picture.path.resolve() for picture in pictures)
    doubled = [path for path, count in counts.items() if count > 1]
    if doubled:
        raise UsageError(f"two pictures would be named {doubled[0]}: draw them in separate calls")
    require_new([picture.path for picture in pictures], overwrite)
    for picture in pictures:
        require_folder(picture.path.parent)
        with atomic_path(picture.path) as temporary:
            picture.write(temporary)
        logger.info(f"Wrote {picture.path}")


if __name__ == "__main__":
    run_script(main)
