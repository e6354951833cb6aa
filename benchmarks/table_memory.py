"""Time and memory that dataset_tool.py takes for a large CSV, beside the numbers in it.

The numbers are an array of rows times columns of float64. One column is constant and one is the sum
of two others: both are found and left out, which must not cost a copy of the rest either. What a
table of a hundred rows takes is the program's own.

    OMP_NUM_THREADS=1 python benchmarks/table_memory.py --folder=out/table_memory --size=1000
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.table_story import run

NAMES = ("a", "b", "sum", "count", "price", "fixed", "c", "d", "e", "f")
MB = 10**6


def make_rows(count: int, draw: np.random.Generator) -> list[list[str]]:
    a, b, *rest = draw.normal(size=(6, count)).round(6)
    whole, price = draw.poisson(4, count), draw.lognormal(3, 1, count).round(2)
    rows = np.stack([a, b, a + b, whole, price, np.full(count, 3), *rest], axis=1)
    return [[f"{value:.9g}" for value in row] for row in rows.tolist()]


def write_csv(path: Path, size: int) -> int:
    """Writes at least so many bytes, but few rows if that is 0. Returns the number of rows."""
    draw, rows = np.random.default_rng(0), 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        while not rows or file.tell() < size:
            block = make_rows(100 if size == 0 else 10_000, draw)
            writer.writerows(block)
            rows += len(block)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="Where the tables go.")
    parser.add_argument("--size", type=int, default=20, help="Of the CSV, in MB.")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    peaks, rows, seconds, written = [], 0, 0.0, 0.0
    for name, size in (("few", 0), ("many", options.size * MB)):
        source = options.folder / f"{name}.csv"
        rows, written = write_csv(source, size), source.stat().st_size / MB
        seconds, gib = run(
            "dataset_tool.py", f"--source={source}", f"--dest={source.with_suffix('.npz')}"
        )
        peaks.append(gib * 2**30 / MB)
    array = rows * len(NAMES) * 8 / MB
    print(
        "| rows | CSV, MB | seconds | MB/s | array, MB | peak, MB | over the array | less the own |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    own, peak = peaks
    print(
        f"| {rows:,} | {written:.0f} | {seconds:.0f} | {written / seconds:.1f} | {array:.0f} "
        f"| {peak:.0f} | {peak / array:.2f} | {(peak - own) / array:.2f} |"
    )


if __name__ == "__main__":
    main()
