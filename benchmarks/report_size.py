"""Seconds and megabytes of a report: of a folder, or of a toy's run and of images of noise.

    python benchmarks/report_size.py [FOLDER...]

Without a folder: 2,000 points of circles at 20 times, by the exact denoiser, and 256 images of
32 x 32 x 3 pixels at 20 times that are noise, which no PNG makes smaller. Each is melted, brought
back and generated.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.results import save_arrays
from training.files.trajectory import TRAJECTORY

ROOT = Path(__file__).parent.parent
POINTS, TIMES, IMAGES, SHAPE = 2000, 20, 256, (3, 32, 32)


@click.command(help=__doc__.split("\n")[0] if __doc__ else None)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(folders: tuple[Path, ...]) -> None:
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        told = {str(folder): folder for folder in folders}
        if not told:
            names = (f"{POINTS} points at {TIMES} times", f"{IMAGES} images of noise")
            told = {names[0]: save_toy(place / "toy"), names[1]: save_noise(place / "images")}
        for name, folder in told.items():
            dest = place / "report.html"
            started = time.perf_counter()
            run("report.py", str(folder), f"--dest={dest}", "--overwrite")
            seconds = time.perf_counter() - started
            print(f"{name}: {seconds:.1f} s, {dest.stat().st_size / 1e6:.2f} MB")


def run(script: str, *words: str) -> None:
    subprocess.run([sys.executable, script, *words], cwd=ROOT, check=True, capture_output=True)


def save_toy(folder: Path) -> Path:
    """Simulations of circles."""
    size = (f"--total_samples={POINTS}", f"--steps={TIMES - 1}", "--save_freq=1")
    run("toy_pfODE_int.py", "exact", "--data_name=circles", f"--save_dir={folder}", *size)
    return folder


def save_noise(folder: Path) -> Path:
    """Simulations of images, as far as they are files, not flows."""
    folder.mkdir()
    dim = int(np.prod(SHAPE))
    generator = np.random.default_rng(0)
    times = np.linspace(0, 10, TIMES)
    noise = np.exp(times[:, None] - 8) * np.ones(dim)
    states = generator.normal(size=(IMAGES, dim)).astype(np.float32)
    for kind in ("melt", "roundtrip", "gen"):
        order = slice(None) if kind == "melt" else slice(None, None, -1)
        scale = 1 / np.sqrt(1 + noise[:, 0])
        shaken = generator.normal(size=(TIMES, IMAGES, dim)).astype(np.float32)
        grown = 0.4 * (states + shaken * np.sqrt(noise[:, None]).astype(np.float32))
        arrays = {
            "format": np.array(TRAJECTORY.format),
            "times": times[order],
            "tilde_xs": grown[order],
            "xs_es": (scale[:, None, None] * grown)[order].astype(np.float32),
            "mean": np.zeros(dim),
            "eigenvalues": np.ones(dim),
            "scale": scale[order],
            "noise_variance": noise[order],
            "image_shape": np.array(SHAPE),
        }
        save_arrays(folder / f"noise_PRP_{kind}.npz", arrays)
    return folder


if __name__ == "__main__":
    main()
