"""Command ``ifs``, which runs the scripts: ``ifs train --data=houses.npz``."""

import ast
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from dnnlib import __version__
from training.cli.script import run_script
from training.names import PROGRAM

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts" if (HERE / "scripts").is_dir() else HERE.parent
"""Folder of the scripts: in an installed copy, or at the top of the repository."""


def scripts() -> dict[str, Path]:
    """Return the scripts by the names of their commands."""
    paths = sorted(SCRIPTS.glob("*.py"), key=lambda path: path.stem.lower())
    return {path.stem: path for path in paths if path.stem != "setup"}


def overview() -> str:
    """Return the usage, with one line about each command."""
    about = {name: _about(path) for name, path in scripts().items()}
    width = max(map(len, about))
    lines = [f"  {name:{width}}  {words}" for name, words in about.items()]
    usage = f"Usage: {PROGRAM} COMMAND [OPTIONS]"
    return "\n".join(
        [
            usage,
            "",
            "Commands:",
            *lines,
            "",
            (
                f"'{PROGRAM} COMMAND --help' lists the options of a command, '{PROGRAM} "
                "--version' prints the version."
            ),
        ]
    )


def _about(path: Path) -> str:
    """Return the start of a script's docstring, without running the script."""
    words = " ".join((ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split())
    return re.split(r"[:.] ", words + " ")[0]


def main() -> None:
    """Run the command on the command line, and end the process with its exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name == "--version":
        print(f"{PROGRAM} {__version__}")
        sys.exit(0)
    if name in ("-h", "--help"):
        print(overview())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    path = scripts().get(name.removesuffix(".py"))
    if path is None:
        line = f"there is no command '{name}': see {PROGRAM} --help"
        print(f"{PROGRAM}: error: {line}", file=sys.stderr)
        sys.exit(2)
    sys.argv[:2] = [f"{PROGRAM} {path.stem}"]
    spec = spec_from_file_location(f"{PROGRAM}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    sys.modules[script.__name__] = script  # dataclasses resolve annotations there
    spec.loader.exec_module(script)
    run_script(script.main)


if __name__ == "__main__":
    main()
