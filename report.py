"""Write all results in some folders into one interactive HTML file.

Each PATH is a results file, or a folder that is searched with its subfolders. The HTML file is
self-contained: it opens in any browser without a network connection.
"""

import gc
import os
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dnnlib.errors import UsageError
from dnnlib.files import atomic_path, require_folder, require_new
from dnnlib.logs import logger
from training.cli.click_options import takes
from training.cli.script import command, run_script
from training.names import command_line
from training.settings.declared import Declared, argument, option
from training.settings.shared import overwrite
from training.settings.types import FILE, SEED


class Settings(Declared, example=f"{command_line('report')} out --dest=report.html"):
    """Options of this script."""

    paths: tuple[Path, ...] = argument(metavar="PATH...", type=FILE)
    dest: Path = option(default=Path("report.html"), help="HTML file to write.")
    title: str | None = option(unset="the names of the paths", help="Title of the page.")
    points: int = option(default=5000, help="Largest number of points per panel.")
    seed: int = option(type=SEED, default=0, help="Random seed of the choice of points.")
    open: bool = option(is_flag=True, help="Open the file in the browser.")
    overwrite: bool = overwrite()


@contextmanager
def without_collector() -> Iterator[None]:
    """Disable Python's garbage collector, which takes a sixth of the time after large imports."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def write(settings: Settings) -> int:
    """Write the file and return its number of sections."""
    # Imported here, so that --help does not load Bokeh and PyTorch, which takes seconds.
    from training.pictures.content import Choice
    from training.report.discovery import found_in
    from training.report.page import page_of

    choice = Choice(settings.points, settings.seed)
    findings = found_in(settings.paths, choice)
    for path, why in findings.broken:
        logger.warning(f"Left out {path}: {why}")
    title = settings.title or ", ".join(path.resolve().name for path in settings.paths)
    text = page_of(findings, title, choice)
    require_folder(settings.dest.parent)
    with atomic_path(settings.dest) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return len(findings.sections)


@command(help=__doc__, example=Settings.example)
@takes(Settings)
def main(settings: Settings) -> None:
    """Write the report, and open it in a browser if requested.

    Raises:
        UsageError: The destination is no HTML file, or exists.
    """
    if os.environ.get("RANK", "0") != "0":
        return  # the first rank does all the work
    if settings.dest.is_dir() or settings.dest.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--dest is {settings.dest}, but should be a file that ends in .html")
    require_new([settings.dest], settings.overwrite, "--dest")
    with without_collector():
        sections = write(settings)
    size = settings.dest.stat().st_size / 1e6
    logger.info(f"Wrote {settings.dest}: {sections} section(s), {size:.1f} MB")
    if settings.open:
        webbrowser.open(settings.dest.resolve().as_uri())


if __name__ == "__main__":
    run_script(main)
