"""Time and memory of ``toy_pfODE_int.py discrete`` with 2000 points and 100 steps.

    python benchmarks/discrete_memory.py

Prints the seconds of the three simulations, and the peak memory at growing numbers of points: the
denoiser's own scratch space is bounded by a chunk, so memory must not grow as points x samples.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import psutil

ROOT = Path(__file__).parent.parent


def run(points: int, steps: int) -> tuple[float, float]:
    """Seconds of the simulations and the peak memory in MiB of a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        script = [
            sys.executable,
            str(ROOT / "toy_pfODE_int.py"),
            "discrete",
            f"--save_dir={folder}",
        ]
        options = [
            "--data_name=circles",
            f"--total_samples={points}",
            f"--steps={steps}",
            "--solver=rk4",
        ]
        command = [*script, *options, "--save_freq=1000"]
        peak = 0
        with psutil.Popen(command, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                with suppress(psutil.Error):  # it may have ended just now
                    peak = max(peak, process.memory_info().rss)
                time.sleep(0.01)
        if process.returncode != 0:
            raise SystemExit(process.returncode)
        facts_file = next(Path(folder).glob("*_sim_params.json"))
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
    seconds = sum(simulation["seconds"] for simulation in facts["simulations"].values())
    return seconds, peak / 2**20


@click.command(help=__doc__)
def main() -> None:
    print("| points | steps (rk4) | seconds | peak MiB |\n| ---: | ---: | ---: | ---: |")
    for points, steps in ((2000, 100), (10, 2), (4000, 2), (16000, 2)):
        seconds, memory = run(points, steps)
        print(f"| {points} | {steps} | {seconds:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
