"""Which folder a run has made before ``torchrun`` restarted it.

When a rank dies, ``torchrun --max-restarts`` starts all ranks again with the same command line. The
restarted run is to go on in its folder, which it knows by torchrun's id of the launch.
"""

import os
from pathlib import Path

from dnnlib.errors import DataError
from torch_utils.results import load_json

OPTIONS_NAME = "training_options.json"
LAUNCH_KEY = "torchrun_launch"


def launch_id() -> str | None:
    """What all starts of one ``torchrun`` have in common; None without it."""
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without a rendezvous, all launches are called so; the launcher is this process's parent.
    return f"none-{os.getppid()}" if given == "none" else given


def is_restart() -> bool:
    return launch_id() is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def folder_before_restart(outdir: Path, itself: bool) -> Path | None:
    """The folder that this launch made before it was restarted; None if it made none."""
    if not is_restart():
        return None
    folders = [outdir] if itself else sorted(outdir.glob("*-*/"), reverse=True)
    return next((path for path in folders if launch_of(path) == launch_id()), None)


def launch_of(folder: Path) -> str | None:
    """Who started the run in a folder; None for a run without torchrun, or no run."""
    try:
        return load_json(folder / OPTIONS_NAME).get(LAUNCH_KEY)
    except DataError:
        return None
