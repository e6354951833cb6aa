"""Draw pictures of results files.

Each PATH is a results file of any script (.npz, .nc, .csv, .json, .jsonl), a zip of images, or a
folder of these. Broken files are skipped and listed at the end, with exit code 1.
"""

import os
from pathlib import Path

from dnnlib.errors import DataError
from dnnlib.files import atomic_path, require_folder, require_new
from dnnlib.logs import logger
from training.cli.click_options import takes
from training.cli.script import command, run_script
from training.names import command_line
from training.settings.declared import Declared, argument, option
from training.settings.shared import overwrite
from training.settings.types import FILE, choice


class Settings(Declared, example=f"{command_line('visualize')} out"):
    """Options of this script."""

    paths: tuple[Path, ...] = argument(metavar="PATH...", type=FILE)
    dest: Path | None = option(
        "--dest",
        "--save_dir",
        unset="beside each file",
        help="Output directory of the pictures",
    )
    animation: bool = option(default=True, help="Animate simulations of toys.")
    format: str = option(type=choice(("gif", "mp4")), default="gif", help="Format of animations.")
    overwrite: bool = overwrite()


@command(help=__doc__, example=Settings.example)
@takes(Settings)
def main(settings: Settings) -> None:
    """Draw pictures of all paths, and list broken files at the end.

    Raises:
        UsageError: A picture exists, or the program for animations is missing.
        DataError: A file is broken.
    """
    if os.environ.get("RANK", "0") != "0":
        return  # the first rank draws everything
    # Imported here, so that --help does not load PyTorch and Matplotlib.
    from training.pictures.album import pictures_and_errors
    from training.pictures.animations import require_ffmpeg

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
