"""What all experiments share: their options, what was measured before, and where results go.

An experiment measures parts, each kept in a file of its own in ``out/experiments/NAME/parts`` as
soon as it is there. One that is killed goes on with what is missing when it is started again. In
the end it writes ``NAME.json``, a table ``NAME.md`` and a picture ``NAME.png``, and with
``--publish`` its section of docs/paper.md, between two comments that have its name.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure

from dnnlib.errors import DataError
from dnnlib.files import atomic_path
from torch_utils.results import load_json, provenance, save_json

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "docs" / "paper.md"
SCALES = ("cpu", "gpu")


@dataclass(frozen=True)
class Lab:
    """Where an experiment keeps what it has, and how it was asked for.

    Attributes:
        name: Of the experiment.
        scale: ``cpu`` for data that need no download, ``gpu`` for those of the paper.
        out: The folder of all experiments.
        publish: Whether its results go into docs/paper.md.
    """

    name: str
    scale: str
    out: Path
    publish: bool

    @property
    def folder(self) -> Path:
        """Of this experiment."""
        return self.out / self.name

    def part(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured before under a key at this scale, or is now.

        Raises:
            DataError: What was kept cannot be read.
        """
        path = self.folder / "parts" / f"{self.scale}-{key}.json"
        if path.exists():
            return load_json(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"{self.name}: {key}", flush=True)
        found = measure()
        save_json(path, found)
        return found

    def made(self, path: Path, script: str, *options: str) -> Path:
        """A file that a script of ours makes by ``--dest``, or made before.

        Raises:
            subprocess.CalledProcessError: The script failed.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, str(ROOT / script), f"--dest={path}", *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        return path

    def finish(self, content: dict[str, Any], table: str, figure: Figure, words: str) -> None:
        """Writes what was found.

        Args:
            content: The numbers.
            table: The same as Markdown.
            figure: The same as a picture.
            words: What it shows, as Markdown: how to read the table.
        """
        base = self.folder / self.name
        command = f"python experiments/{self.name}.py --scale={self.scale}"
        about = {"experiment": self.name, "scale": self.scale, "command": command}
        save_json(base.with_suffix(".json"), {**about, **content, **provenance()})
        _write(base.with_suffix(".md"), table + "\n")
        _save(figure, base.with_suffix(".png"))
        print(f"Wrote {base}.json, {self.name}.md and {self.name}.png")
        if self.publish:
            picture = ROOT / "docs" / "images" / f"paper_{self.name}.png"
            _save(figure, picture)
            shown = f"![{self.name.replace('_', ' ')}](images/{picture.name})"
            section = f"```bash\n{command}\n```\n\n{words}\n\n{table}\n\n{shown}"
            _write(PAPER, with_section(PAPER.read_text(), self.name, section))
            print(f"Wrote its section of {PAPER.relative_to(ROOT)}")


def experiment(measure: Callable[[Lab], None], name: str, words: str | None) -> click.Command:
    """The command of an experiment, with the options that all have."""

    @click.command(help=words)
    @click.option("--scale", type=click.Choice(SCALES), default="cpu", show_default=True)
    @click.option(
        "--out", type=click.Path(path_type=Path), default="out/experiments", show_default=True
    )
    @click.option("--publish", is_flag=True, help="Write the results into docs/paper.md.")
    def run(scale: str, out: Path, publish: bool) -> None:
        measure(Lab(name, scale, out, publish))

    return run


def with_section(page: str, name: str, section: str) -> str:
    """A page whose text between the two comments of a name is replaced.

    Raises:
        DataError: The comments are not there, or not in their order.
    """
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(first)
    _, ends, after = rest.partition(last)
    if not (found and ends):
        raise DataError(f"the page has no lines '{first}' and '{last}', to write between")
    return f"{before}{first}\n\n{section}\n\n{last}{after}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is words and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
