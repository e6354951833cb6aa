"""Time and memory of ``toy_pfODE_int.py discrete`` with 2000 points and 100 steps.

    python benchmarks/discrete_memory.py

Prints the seconds of the three simulations, and the peak memory at growing numbers of points: the
denoiser's own scratch space is bounded by a chunk, so memory must not grow as points x samples.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

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
        child = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
            "stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [sys.executable, "-c", child, *script, *options, "--save_freq=1000"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        facts = json.loads(next(Path(folder).glob("*_sim_params.json")).read_text())
    seconds = sum(simulation["seconds"] for simulation in facts["simulations"].values())
    return seconds, int(done.stdout) / 1024


@click.command(help=__doc__)
def main() -> None:
    print("| points | steps (rk4) | seconds | peak MiB |\n| ---: | ---: | ---: | ---: |")
    for points, steps in ((2000, 100), (10, 2), (4000, 2), (16000, 2)):
        seconds, memory = run(points, steps)
        print(f"| {points} | {steps} | {seconds:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
