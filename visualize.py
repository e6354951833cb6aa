"""Draws what the scripts wrote: simulations, roundtrips, coverage, correlations, posteriors,
answers, training, samples.

Each PATH is a results file of a simulation, of worst roundtrips, of coverage, of correlations or of
a check of posteriors (.npz), draws of posteriors (.nc), answers about rows (.csv) or a check of
them (.json), a run's stats.jsonl, a zip of images, or a folder with such files or with images. What
a file holds decides what is drawn of it; a melt, a roundtrip and a generation of one run are drawn
together, and so are the correlations of images at several times. A file that is broken does not
stop the others; it is named at the end, with exit code 1.
"""

import os
from pathlib import Path

from dnnlib.errors import DataError
from dnnlib.files import atomic_path, require_folder, require_new
from dnnlib.logs import logger
from training.options.declared import Declared, argument, option, takes
from training.options.script import command, run_script
from training.options.shared import overwrite
from training.options.types import FILE, choice


class Settings(Declared):
    """Options of this script."""

    paths: tuple[Path, ...] = argument(metavar="PATH...", type=FILE, nargs=-1, required=True)
    dest: Path | None = option(
        "--dest",
        "--save_dir",
        unset="the file's",
        help="Folder of the pictures, with one for each folder of files whose pictures would have "
        "the same names",
    )
    animation: bool = option(default=True, help="Animate melts and generations of toys.")
    format: str = option(type=choice(("gif", "mp4")), default="gif", help="Format of animations.")
    overwrite: bool = overwrite()


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # the first rank draws everything
    # Imported here, so that --help does not load PyTorch and Matplotlib.
    from training.pictures.album import pictures_and_errors
    from training.pictures.trajectories.album import require_ffmpeg

    if settings.animation and settings.format == "mp4":
        require_ffmpeg()
    animated = settings.format if settings.animation else None
    pictures, errors = pictures_and_errors(settings.paths, settings.dest, animated)
    require_new([picture.path for picture in pictures], settings.overwrite, "--dest")
    for picture in pictures:
        require_folder(picture.path.parent)
        try:
            with atomic_path(picture.path) as temporary:
                picture.write(temporary)
        except DataError as error:
            errors.append(error)
            continue
        logger.info(f"Wrote {picture.path}" + (f" ({picture.note})" if picture.note else ""))
    if errors:
        raise DataError("; ".join(map(str, errors)))


if __name__ == "__main__":
    run_script(main)
