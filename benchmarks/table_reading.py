"""Seconds and memory to read a CSV, and to make a data set of it.

    python benchmarks/table_reading.py [--rows=100000,1000000] [--folder=out/table_reading]

The table has 17 columns: 12 numbers, some with all digits and some with few decimals, two whole
numbers, and three category columns, one of them with 40 levels. Three columns lack a tenth of their
cells. The first time is that of pandas with pyarrow, which keeps types as it finds them; the others
are those of ``dataset_tool.py``, with the start of Python (about 1.5 s).
"""

import resource
import subprocess
import sys
from pathlib import Path
from time import process_time

import click
import numpy as np
import pandas

ROOT = Path(__file__).resolve().parents[1]


def write_table(path: Path, rows: int) -> None:
    """Write the table with a number of rows."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, 6))
    columns = {
        "age": np.clip((40 + 12 * z[:, 0]).round(), 18, 95).astype(int),
        "visits": rng.poisson(np.exp(1 + 0.4 * z[:, 1])),
        **{f"x{at}": (z[:, at] * (at + 1) + rng.normal(size=rows)).round(6) for at in range(6)},
        **{f"x{at}": z[:, at - 6] + 0.1 * rng.normal(size=rows) for at in (6, 7)},
        "price": np.exp(5 + z[:, 2]).round(2),
        "town": np.array([f"town{at:02d}" for at in range(40)])[
            np.minimum(rng.geometric(0.1, rows) - 1, 39)
        ],
        "group": np.where(z[:, 0] + rng.normal(size=rows) > 0, "treated", "control"),
        "kind": np.array(list("abcde"))[rng.integers(0, 5, rows)],
        "grade": np.clip((3 + z[:, 3]).round(), 1, 5).astype(int),
        "income": np.exp(10 + 0.5 * z[:, 4]).round(0),
        "score": (50 + 10 * z[:, 5]).round(1),
    }
    frame = pandas.DataFrame(columns)
    for name in ("x0", "town", "income"):
        frame[name] = frame[name].astype(object).where(rng.random(rows) > 0.1, "")
    frame.to_csv(path, index=False)


def used_by_children() -> float:
    """Return the CPU seconds of all finished processes that were started here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@click.command()
@click.option("--rows", default="100000,1000000", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/table_reading")
def main(rows: str, folder: Path) -> None:
    """Print a line for each number of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    print("| rows | MB | pandas, CPU s | dataset_tool.py, CPU s | largest memory so far, GiB |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count in map(int, rows.split(",")):
        path, dest = folder / f"{count}.csv", folder / f"{count}.npz"
        write_table(path, count)
        began = process_time()
        pandas.read_csv(path, engine="pyarrow")
        parsed, before = process_time() - began, used_by_children()
        command = [sys.executable, f"{ROOT}/dataset_tool.py", f"--source={path}", f"--dest={dest}"]
        subprocess.run([*command, "--overwrite"], check=True, stdout=subprocess.DEVNULL)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(
            f"| {count:,} | {path.stat().st_size / 1e6:.0f} | {parsed:.1f} | "
            f"{used_by_children() - before:.1f} | {memory:.2f} |"
        )


if __name__ == "__main__":
    main()
