"""Options that nearly all scripts have."""

from dataclasses import dataclass
from typing import Any

from training.options.declared import Declared, option
from training.options.types import FILE, SEED


def save_dir(help: str = "Folder of the results.") -> Any:
    """The option ``--save_dir``."""
    return option(idle=True, type=FILE, required=True, help=help)


def overwrite() -> Any:
    """The option ``--overwrite``, of scripts that need no device."""
    return option(idle=True, is_flag=True, help="Replace existing results.")


def seed(of: str, default: int = 0) -> Any:
    """The option ``--seed``.

    Args:
        of: What is drawn at random.
        default: Its value if it is left out.
    """
    return option(type=SEED, default=default, help=f"Seed of {of}.")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Declared):
    """Where a script runs, and whether it may replace what is there."""

    device_name: str | None = option(
        idle=True, unset="cuda where there is one", help="cpu, cuda or cuda:N"
    )
    overwrite: bool = overwrite()
