"""Where the seconds of ten uses go: to the network, forwards and backwards, and to what else.

    OMP_NUM_THREADS=1 python benchmarks/profiles.py --folder=out/cost [--only=pool,check]

Networks and data are those that ``benchmarks/cost.py`` makes in the folder, and a small U-Net of
digits of 8 x 8 pixels, hardly trained, which is made here. Each use is the command that people
type, run in this process: once, so that nothing is imported meanwhile, and once under the profiler.

seconds   of the CPU, under the profiler, which makes Python slower and operations hardly
calls     of the network
network   percent of the seconds in its forward passes, and in products with its Jacobian
next      the two functions that have most of what is left, with the operations that they call,
          without other functions, in percent
"""

import cProfile
import importlib
import logging
import pstats
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cost import ROOT, run
from training.data.toys import Toy
from training.files.table import load_table

NETWORKS, OURS = "training/networks/", "training/"
LAYERS = ("torch/nn/", "torch/autograd/", "torch/_ops", "torch_utils/linear")
BACKWARD, TRACES = "run_backward", "with_trace"
OPERATION = "~"
"""The file of what is not Python."""
SEEN, ROWS = 16, 1900
USES = (
    *("sample", "log_prob", "roundtrip", "pool", "refined", "annealed", "twisted"),
    *("amortized", "check", "coverage", "images"),
)


def network(folder: Path, name: str) -> str:
    return f"--network={max((folder / name).glob('network-snapshot-*.pkl'))}"


def prepare(folder: Path) -> None:
    """Makes what is observed, and the network of images, unless they are there."""
    points = Toy("circles").sample(SEEN, torch.Generator().manual_seed(1)).numpy()
    np.savetxt(folder / "points.csv", points, delimiter=",", header="x1,x2", comments="")
    table = load_table(folder / "breast_cancer.npz")
    np.save(folder / "rows.npy", table.points[table.held_out][:4].numpy())
    np.save(folder / "noise.npy", table.points.std(dim=0).numpy() / 2)
    seen = [[0.0, 0.0], [-0.3, 0.4]]
    np.savetxt(folder / "seen.csv", seen, delimiter=",", header="y1,y2", comments="")
    if not (folder / "digits").exists():
        digits = folder / "digits.zip"
        run("dataset_tool.py", "--source=digits", f"--dest={digits}", "--max-images=500")
        short = ("--duration=0.002", "--cbase=32", "--cres=1,2", "--blocks=1", "--nosubdir")
        run("train.py", f"--data={digits}", f"--outdir={folder / 'digits'}", *short)


def command(use: str, folder: Path) -> list[str]:
    """What people type, without the folder of results."""
    magic = [network(folder, "magic"), f"--data_root={folder / 'magic.npz'}"]
    sampled = ["posterior.py", "sample"]
    of_circles = [*sampled, network(folder, "circles"), f"--observation={folder / 'points.csv'}"]
    of_circles += ["--noise_std=0.1", f"--sampler={use}"]
    return {
        "sample": ["pfODE_int.py", *magic[:1], "--sim_type=gen", f"--bs={10 * ROWS}"],
        "log_prob": ["pfODE_int.py", *magic, "--sim_type=melt", "--log_prob", f"--bs={ROWS}"],
        "roundtrip": ["calc_roundtrip_mse.py", *magic, f"--total_samples={ROWS}"],
        "pool": of_circles,
        "refined": of_circles,
        "annealed": of_circles,
        "twisted": [
            *(*sampled, network(folder, "breast_cancer"), f"--noise_std={folder / 'noise.npy'}"),
            *(f"--observation={folder / 'rows.npy'}", "--sampler=twisted"),
        ],
        "amortized": [
            *(*sampled, network(folder, "moons"), f"--condition={folder / 'seen.csv'}"),
        ],
        "check": [
            *("posterior.py", "check", network(folder, "moons"), "--truth=data"),
            f"--data_root={folder / 'moons.npz'}",
        ],
        "coverage": ["toy_mesh_exps.py", network(folder, "circles")],
        "images": ["gen_fid_samples.py", network(folder, "digits"), "--seeds=0-127"],
    }[use]


def profiled(script: str, arguments: list[str]) -> tuple[float, pstats.Stats]:
    """Seconds of the CPU of a command, and where they went."""
    main = importlib.import_module(script.removesuffix(".py")).main
    profile = cProfile.Profile(time.process_time)
    began = time.process_time()
    profile.runcall(main, arguments, standalone_mode=False)
    return time.process_time() - began, pstats.Stats(profile)


def line(use: str, folder: Path) -> str:
    script, *arguments = command(use, folder)
    results = Path(tempfile.mkdtemp())
    for turn in ("first", "second"):
        seconds, stats = profiled(script, [*arguments, f"--save_dir={results / turn}"])
    shutil.rmtree(results)
    entries = stats.stats.items()  # type: ignore[attr-defined]
    forward = max(
        (total, calls)
        for (file, _, name), (calls, _, _, total, _) in entries
        if NETWORKS in file and name == "forward"
    )
    backward = sum(entry[2] for (_, _, name), entry in entries if BACKWARD in name)
    backward += sum(
        entry[3] for (file, _, name), entry in entries if NETWORKS in file and name == TRACES
    )
    rest: Counter[str] = Counter()
    for function, (_, _, own, _, callers) in entries:
        # The time of an operation is its callers'.
        shares = {who: times[2] for who, times in callers.items()}
        for (file, _, name), part in (
            shares.items() if function[0] == OPERATION else [(function, own)]
        ):
            if NETWORKS not in file and not any(layer in file for layer in LAYERS):
                rest[f"{Path(file).stem}.{name}"] += part
    percent = 100 / seconds
    most = ", ".join(f"{name} {percent * part:.0f}" for name, part in rest.most_common(2))
    return (
        f"| {use} | {seconds:.1f} | {forward[1]} | {percent * forward[0]:.0f}, "
        f"{percent * backward:.0f} | {most} |"
    )


@click.command(help=__doc__)
@click.option("--folder", type=Path, default=ROOT / "out" / "cost", show_default=True)
@click.option("--only", default=",".join(USES), show_default=True)
def main(folder: Path, only: str) -> None:
    logging.disable(logging.INFO)
    prepare(folder)
    print("| use | seconds | calls | network, % | next, % |")
    print("| --- | ---: | ---: | ---: | --- |")
    for use in only.split(","):
        print(line(use, folder), flush=True)


if __name__ == "__main__":
    main()
