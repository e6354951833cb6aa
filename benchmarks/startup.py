"""How long scripts take to say what they are: ``--help``, and a mistake in the command line.

    python benchmarks/startup.py [--repeats=5]

Each is a process of its own. Medians are quoted of the seconds until it ends and of those that the
processor works for it. Whether PyTorch was imported is read from one further run under
``-X importtime``, which is not timed.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
MISTAKES = (["train.py"], ["toy_train.py", "--batch=-1"], ["posterior.py", "sample"])


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Of one run: until it ends, and of the processor."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system
    return wall, used - before.children_user - before.children_system


def imports_torch(arguments: list[str]) -> bool:
    traced = [sys.executable, "-X", "importtime", *arguments]
    found = subprocess.run(traced, cwd=ROOT, capture_output=True, text=True, check=False)
    return any(line.split("|")[-1].strip() == "torch" for line in found.stderr.splitlines())


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
def main(repeats: int) -> None:
    helps = [[path.name, "--help"] for path in sorted(ROOT.glob("*.py"))]
    print(f"{'command':<48}{'wall s':>8}{'CPU s':>8}  torch")
    for arguments in [*helps, *MISTAKES]:
        torch = "yes" if imports_torch(arguments) else "no"
        runs = [seconds(arguments) for _ in range(repeats)]
        wall, used = (statistics.median(times) for times in zip(*runs, strict=True))
        print(f"{' '.join(arguments):<48}{wall:>8.2f}{used:>8.2f}  {torch}")


if __name__ == "__main__":
    main()
