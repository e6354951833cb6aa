"""Runs every reader of files on its hostile files and on mutants, and prints what came of it.

    .venv/bin/python tests/fuzz [--cases=2000] [--reader=NAME] [--seed=0] [--keep=FOLDER]

Ends with 1 if there was a violation.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.harness import Harness
from tests.fuzz.readers import READERS

COLUMNS = "{:<20} {:>6} {:>8} {:>8} {:>10} {:>7}  {:<28} {:>6}  {:<28} {:>6}"


def main() -> int:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--cases", type=int, default=2000, help="mutants of each reader")
    parser.add_argument("--reader", choices=list(READERS), action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the mutants")
    parser.add_argument("--keep", type=Path, help="where the files of violations are copied")
    options = parser.parse_args()
    names = ("reader", "cases", "refused", "accepted", "violations")
    print(COLUMNS.format(*names, "CPU s", "slowest", "MiB", "largest", "wall s"))
    violations = 0
    with tempfile.TemporaryDirectory() as folder, Harness(Path(folder), options.keep) as harness:
        for reader in options.reader or READERS:
            report = harness.run(reader, options.cases, options.seed)
            violations += len(report.violations)
            numbers = (report.cases, report.refused, report.accepted, len(report.violations))
            (seconds, slowest), (mib, largest) = report.slowest, report.largest
            extremes = (f"{seconds:.2f}", slowest, f"{mib:.0f}", largest)
            row = COLUMNS.format(reader, *numbers, *extremes, f"{report.seconds:.0f}")
            told = [f"    {case}: {why}" for case, why in report.violations.items()]
            print(row, *told, sep="\n", flush=True)
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
