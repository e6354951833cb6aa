"""What all experiments share: their options, what was measured before, and where results go.

An experiment measures parts, each kept in a file of its own in ``out/experiments/NAME/parts`` as
soon as it is there. One that is killed goes on with what is missing when it is started again. In
the end it writes ``NAME.json``, a table ``NAME.md`` and a picture ``NAME.png``, and with
``--publish`` its section of docs/measurements/paper.md, between two comments that have its name,
and its time in
the table of all.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure
from PIL import Image

from dnnlib.errors import DataError
from dnnlib.files import atomic_path
from torch_utils.results import load_json, provenance, save_json

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "docs" / "measurements" / "paper.md"
SCALES = ("cpu", "gpu")


@dataclass(frozen=True)
class Lab:
    """Where an experiment keeps what it has, and how it was asked for.

    Attributes:
        name: Of the experiment.
        scale: ``cpu`` for data that need no download, ``gpu`` for those of the paper.
        out: The folder of all experiments.
        publish: Whether its results go into docs/measurements/paper.md.
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
        path = self.parts / f"{self.scale}-{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"{self.name}: {key}", flush=True)
            began = cpu_seconds()
            found = measure()
            # What is shared with another experiment knows what it took when it was made.
            taken = found.get("cpu_seconds", cpu_seconds() - began)
            save_json(path, {"found": found, "cpu_seconds": taken})
        return dict(load_json(path)["found"])

    def made(self, path: Path, script: str, *options: str) -> Path:
        """A file that a script of ours makes by ``--dest``, or made before.

        Raises:
            subprocess.CalledProcessError: The script failed.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            run(script, f"--dest={path}", *options)
        return path

    @property
    def taken(self) -> float:
        """Seconds of the CPU that all parts took, with the networks that they are of."""
        parts = self.parts.glob(f"{self.scale}-*.json")
        return sum(float(load_json(path)["cpu_seconds"]) for path in parts)

    @property
    def parts(self) -> Path:
        """The folder of what was measured."""
        return self.folder / "parts"

    def finish(
        self, content: dict[str, Any], table: str, figure: Figure, words: str, shown: bool = True
    ) -> None:
        """Write the results.

        Args:
            content: The numbers.
            table: The same as Markdown.
            figure: The same as a picture.
            words: What it shows, as Markdown: how to read the table.
            shown: Whether the page has the picture, too.
        """
        base = self.folder / self.name
        command = f"python experiments/{self.name}.py --scale={self.scale}"
        about: dict[str, Any] = {"experiment": self.name, "scale": self.scale, "command": command}
        about["cpu_seconds"] = self.taken
        save_json(base.with_suffix(".json"), {**about, **content, **provenance()})
        _write(base.with_suffix(".md"), table + "\n")
        _save(figure, base.with_suffix(".png"))
        print(f"Wrote {base}.json, {self.name}.md and {self.name}.png")
        if self.publish:
            total = f"Total time: {minutes(self.taken)} of CPU time, training included."
            section = f"```bash\n{command}\n```\n\n{words}\n\n{total}\n\n{table}"
            if shown:
                picture = ROOT / "docs" / "images" / f"paper_{self.name}.png"
                _save(figure, picture)
                name = self.name.replace("_", " ")
                section += f"\n\n![{name}](../images/{picture.name})"
            page = with_section(PAPER.read_text(encoding="utf-8"), self.name, section)
            _write(PAPER, with_time(page, self.name, minutes(self.taken)))
            print(f"Wrote its section of {PAPER.relative_to(ROOT)}")


def experiment(
    measure: Callable[..., None],
    name: str,
    words: str | None,
    *more: Callable[..., Callable[..., None]],
) -> click.Command:
    """The command of an experiment.

    Args:
        measure: Takes a lab, and by their names the values of further options.
        name: Of the experiment, and of its script.
        words: What it is.
        more: Further options, as click makes them.
    """

    def asked(scale: str, out: Path, publish: bool, **others: Any) -> None:
        try:
            measure(Lab(name, scale, out.resolve(), publish), **others)
        except DataError as error:
            raise click.ClickException(str(error)) from error
        except subprocess.CalledProcessError as error:
            raise click.ClickException(f"{error.cmd[1]} failed, as it says above") from error

    places = click.Path(path_type=Path)
    command: Callable[..., None] = asked
    for add in (
        *more,
        click.option(
            "--publish", is_flag=True, help="Write the results into docs/measurements/paper.md."
        ),
        click.option("--out", type=places, default="out/experiments", show_default=True),
        click.option("--scale", type=click.Choice(SCALES), default="cpu", show_default=True),
    ):
        command = add(command)
    return click.command(help=words)(command)


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


def with_time(page: str, name: str, time: str) -> str:
    """A page in whose table of experiments the last cell of one's row is replaced.

    Raises:
        DataError: There is no row with its script.
    """
    row = re.compile(rf"^(\|.*`experiments/{name}\.py`.*\|)[^|\n]*\|$", re.M)
    if not row.search(page):
        raise DataError(f"the page has no row with `experiments/{name}.py`, to write the time into")
    return row.sub(rf"\1 {time} |", page)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is words and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    return sum(os.times()[:4])


def minutes(seconds: float) -> str:
    """A time for people to read."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def run(script: str, *options: str, threads: int | None = None) -> float:
    """Runs a script of ours; what it says is lost, but for its mistakes.

    Args:
        script: The script, perhaps with a command.
        options: Of the script.
        threads: It computes with; None for as many as cores are idle.

    Returns:
        Seconds of the CPU, or where that is not told, by the clock.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    command = [sys.executable, *script.split(), *options]
    limited = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, **limited}
    )
    try:
        code, seconds = _waited_for(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code:
        raise subprocess.CalledProcessError(code, command)
    return time.perf_counter() - began if seconds is None else seconds


def _waited_for(process: "subprocess.Popen[bytes]") -> tuple[int, float | None]:
    """The exit status of a process, and its seconds of the CPU, which Windows does not tell."""
    if sys.platform == "win32":
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _save(figure: Figure, path: Path) -> None:
    """Writes a picture in 256 colors, which are a third of the bytes."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        few.save(temporary, format="PNG", optimize=True)
