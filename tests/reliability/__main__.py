"""Kills every script at random moments, and prints what came of it.

    .venv/bin/python tests/reliability [--kills=100] [--job=NAME] [--seed=0]

Ends with 1 if there was a violation.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reliability.kills import Runner, kill_often, make_jobs

COLUMNS = "{:<36} {:>6} {:>9} {:>8} {:>10} {:>6} {:>7}"


def main() -> int:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--kills", type=int, default=175, help="over all scripts")
    parser.add_argument("--job", help="only jobs whose names begin so")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    print(COLUMNS.format("script", "kills", "too late", "resumed", "violations", "left", "wall s"))
    kills = violations = 0
    with tempfile.TemporaryDirectory() as name, Runner(Path(name)) as runner:
        jobs = make_jobs(runner, Path(name))
        chosen = [job for job in jobs if job.name.startswith(options.job or "")]
        each = -(-options.kills // len(chosen))
        for number, job in enumerate(chosen):
            table = kill_often(runner, job, Path(name) / f"job{number}", each, options.seed)
            kills, violations = kills + table.kills, violations + len(table.violations)
            numbers = (table.kills, table.too_late, table.resumed, len(table.violations))
            row = COLUMNS.format(job.name, *numbers, table.left, f"{table.seconds:.0f}")
            print(row, *(f"    {what}" for what in table.violations), sep="\n", flush=True)
    print(f"{kills} kills, {violations} violations")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
