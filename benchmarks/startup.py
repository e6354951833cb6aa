"""How long scripts take to say what they are: ``--help``, a mistake in the command line, a network.

    python benchmarks/startup.py [--repeats=5 --network=network-snapshot-....pkl]

Each is a process of its own. Medians are quoted of the seconds until it ends and of those that the
processor works for it. The modules that it imports are read from one further run under
``-X importtime``, which is not timed.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from inflationary_flows.__main__ import scripts

ROOT = Path(__file__).parent.parent
MISTAKES = (
    ["train.py"],
    ["toy_train.py", "--batch=-1"],
    ["posterior.py", "sample"],
    ["posterior.py", "sample", "--network=README.md", "--save_dir=x", "--noise_std=-1"],
)
OPEN = (
    "import sys; from training.trained.network import TrainedNetwork; "
    "TrainedNetwork.load(sys.argv[1])"
)
HEAVY = ("torch", "torch._dynamo", "sympy", "scipy")


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Of one run: until it ends, and of the processor."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def imported(arguments: list[str]) -> tuple[int, str]:
    """How many modules a run imports, and whether PyTorch and its compiler are among them."""
    traced = [sys.executable, "-X", "importtime", *arguments]
    found = subprocess.run(traced, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in found.stderr.splitlines() if line.startswith("import time:")]
    names = {line.split("|")[-1].strip() for line in lines}
    return len(names), " ".join(name for name in HEAVY if name in names)


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--network", help="Network file, to be opened too.")
def main(repeats: int, network: str | None) -> None:
    helps = [[path.name, "--help"] for path in scripts().values()]
    opened = [["-c", OPEN, network]] if network else []
    print(f"{'command':<64}{'wall s':>8}{'CPU s':>8}{'modules':>9}  of these")
    for arguments in [*helps, *MISTAKES, *opened]:
        count, heavy = imported(arguments)
        runs = [seconds(arguments) for _ in range(repeats)]
        wall, used = (statistics.median(times) for times in zip(*runs, strict=True))
        shown = "open a network" if arguments[0] == "-c" else " ".join(arguments)
        print(f"{shown:<64}{wall:>8.2f}{used:>8.2f}{count:>9}  {heavy}")


if __name__ == "__main__":
    main()
