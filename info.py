"""Describe network files, results, run directories and image data sets.

Each PATH is a network file (a path or an https URL), an .npz or .json of results, the folder of a
training run, or a zip or folder of images.
"""

from pathlib import Path

from dnnlib.logs import logger
from dnnlib.urls import local_file
from training.cli.click_options import takes
from training.cli.script import command, run_script
from training.names import command_line
from training.settings.declared import Declared, argument


class Settings(
    Declared, example=f"{command_line('info')} out/00000-circles/network-snapshot-001000.pkl"
):
    """Options of this script."""

    paths: tuple[str, ...] = argument(metavar="PATH...")


@command(help=__doc__, example=Settings.example)
@takes(Settings)
def main(settings: Settings) -> None:
    """Print facts about each path."""
    from training.files.about import facts_of  # imported here, so that --help does not load PyTorch

    for text in settings.paths:
        facts = facts_of(local_file(text) if "://" in text else Path(text))
        width = max(len(label) for label, _ in facts)
        lines = [f"  {label:<{width}}  {fact}" for label, fact in facts]
        logger.info("\n".join([text, *lines]))


if __name__ == "__main__":
    run_script(main)
