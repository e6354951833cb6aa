"""Count the options of every command, and the lines of its help.

python benchmarks/options.py

The help options themselves are not counted. The last line is the sum.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
HELP = {"help", "help_all"}
"""Names of the options that only print help."""


def scripts() -> Iterator[tuple[str, click.Command]]:
    """Yield the names and commands of all scripts."""
    for path in sorted(ROOT.glob("*.py")):
        main = getattr(import_module(path.stem), "main", None)
        if isinstance(main, click.Group):
            for name, command in main.commands.items():
                yield f"{path.stem} {name}", command
        elif isinstance(main, click.Command):
            yield path.stem, main


def lines_of(command: click.Command, name: str, full: bool) -> int:
    """Return the number of lines of the short or the full help of a command."""
    context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
    if full:
        context.meta["--help-all"] = True
    return len(command.get_help(context).splitlines())


def main() -> None:
    """Print a row per command, and the sum."""
    print(f"{'command':48} options  --help  --help-all")
    total = 0
    for name, command in scripts():
        options = [each for each in command.params if isinstance(each, click.Option)]
        count = sum(each.name not in HELP for each in options)
        short, full = (lines_of(command, name, each) for each in (False, True))
        print(f"{name:48} {count:7d} {short:7d} {full:11d}")
        total += count
    print(f"{'sum':48} {total:7d}")


if __name__ == "__main__":
    main()
