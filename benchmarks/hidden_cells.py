"""Intervals of hidden pixels and cells before and after calibration, and letters among digits.

    python benchmarks/hidden_cells.py [--data=digits,breast_cancer,diabetes] [--folder=out/hidden]

The second half of the columns (of digits: the lower half of the image) is hidden, and a flow of it
given the first is trained (``train.py --cond``). A quarter of the rows is new; of the others a
quarter is kept for ``posterior.py calibrate``. Of all hidden cells of new rows:

50/80/90/95 %   the share that central intervals hold, as the flow says and as held out
width           of the 90 % intervals, in standard deviations of the columns
off             the largest error of a single column at 90 %, in points
refused         what is given of new rows, at p < 0.05, and of noise: the same numbers, each of a
                row of its own; and of whole digits (with noise of half a gray level, under a flow
                of digits, ``posterior.py calibrate --noise_std=0.5``) and letters (DejaVu Sans)
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn import datasets
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.answers_that_hold import FALSE_ALARMS, refused_share, run
from benchmarks.estimators.flow import newest_network
from training.cli.script import run_script
from training.inference.guarantee import SHARES, HeldOutTruths, intervals
from training.models.inference import InferenceTask
from training.settings.inference import LikelihoodOptions, PriorOptions, SamplerOptions
from training.settings.posterior import CalibrateSettings

DRAWS, GROUP = 200, 50


def rows_of(name: str) -> np.ndarray:
    """Columns that vary ``[N, P]``, in their order."""
    values = np.asarray(getattr(datasets, f"load_{name}")().data, dtype=np.float64)
    return values[:, values.std(axis=0) > 0.05 * values.std(axis=0).max() * (name == "digits")]


def letters() -> np.ndarray:
    """Capital and small letters ``[52, 8, 8]`` as large as digits, in their gray levels."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, images = ImageFont.truetype(str(path), 34), []
    for letter in map(chr, [*range(65, 91), *range(97, 123)]):
        page = Image.new("L", (64, 64))
        ImageDraw.Draw(page).text((14, 8), letter, 255, font)
        left, top, right, bottom = page.getbbox() or (0, 0, 32, 32)
        middle = (left + right) // 2, (top + bottom) // 2
        box = (middle[0] - 16, middle[1] - 16, middle[0] + 16, middle[1] + 16)
        images.append(np.asarray(page.crop(box).resize((8, 8), Image.Resampling.BOX)) / 255 * 16)
    return np.stack(images).round()


def calibrated(name: str, folder: Path) -> Path:
    """A calibrated network, in a folder that also has the new rows."""
    done = folder / "calibrated.pkl"
    if done.exists():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.random.default_rng(0).permutation(rows_of(name))
    seen = rows.shape[1] // 2
    names = [f"y{k + 1}" if k < seen else f"x{k + 1}" for k in range(rows.shape[1])]
    parts = {"new": rows[: len(rows) // 4], "old": rows[len(rows) // 4 :]}
    for part, options in (("new", ["--held-out=0"]), ("old", ["--kept=0.25"])):
        source = folder / f"{part}.csv"
        np.savetxt(source, parts[part], delimiter=",", header=",".join(names), comments="")
        made = [f"--source={source}", f"--dest={folder / part}.npz", "--overwrite"]
        run("dataset_tool.py", *made, f"--conditions={','.join(names[:seen])}", *options)
    data = f"--data={folder / 'old.npz'}"
    run("train.py", "--cond", data, f"--outdir={folder}", "--device_name=cpu")
    options = [f"--network={newest_network(folder)}", f"--data_root={folder / 'old.npz'}"]
    options += [f"--draws={DRAWS // 4}", f"--dest={done}", "--overwrite", "--device_name=cpu"]
    run("posterior.py", "calibrate", *options)
    return done


def asked_of(network: Path) -> InferenceTask:
    """A question to the network."""
    prior, sampler = PriorOptions(network=str(network)), SamplerOptions(draws=DRAWS // 4)
    return InferenceTask.open(CalibrateSettings(prior=prior, sampler=sampler))


def held(asked: InferenceTask, guarantee: HeldOutTruths, path: Path) -> tuple[Tensor, Tensor]:
    """Whether intervals hold hidden cells of new rows ``[2, n, L, D]``, as the flow says and as
    held out, and their widths of the same shape."""
    rows = asked.subject.unseen(path, 10_000, 0)
    assert rows.conditions is not None
    amortized = asked.amortized(asked.fine, rows.conditions)
    stated = torch.tensor(SHARES).double()[:, None].expand(-1, rows.points.shape[1])
    ends = []
    for places in torch.split(torch.arange(len(rows)), GROUP):
        for points in amortized.sample(places).points.flatten(1, 2):
            integrations = (stated, guarantee.levels().intervals)
            ends.append(torch.stack([intervals(points, way) for way in integrations]))
    low, high = torch.stack(ends, dim=1).unbind(dim=-1)
    truths = rows.points[None, :, None]
    return (low <= truths) & (truths <= high), high - low


@click.command(help=__doc__)
@click.option("--data", "names", default="digits,breast_cancer,diabetes")
@click.option("--folder", type=Path, default=Path("out/hidden"))
def main(names: str, folder: Path) -> None:
    torch.set_num_threads(1)
    print("| data | hidden | truths | | 50 % | 80 % | 90 % | 95 % | width | off |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    lines = []
    for name in names.split(","):
        place = (folder / name).resolve()
        asked = asked_of(calibrated(name, place))
        assert asked.subject.network is not None
        assert asked.subject.network.held_out is not None
        guarantee = HeldOutTruths(asked.subject.network.held_out)
        inside, widths = held(asked, guarantee, place / "new.npz")
        spread = asked.subject.unseen(place / "new.npz", 10_000, 0).points.std(dim=0)
        at = SHARES.index(0.9)
        for way, words in enumerate(("as the flow says", "as held out")):
            shares = inside[way].double().mean(dim=(0, 2)).tolist()
            off = float((inside[way, :, at].double().mean(dim=0) - 0.9).abs().max())
            width = float((widths[way, :, at] / spread).mean())
            cells = [name, str(len(spread)), str(guarantee.held_out.truths), words]
            cells += [f"{100 * share:.1f}" for share in shares]
            print(
                "| " + " | ".join([*cells, f"{width:.2f}", f"{100 * off:.1f}"]) + " |", flush=True
            )
        lines.append(f"{name}: {refusals(asked, guarantee, place)}")
    if "digits" in names.split(","):
        lines.append(f"whole digits: {of_letters((folder / 'whole').resolve())}")
    print(f"\nRefused at {FALSE_ALARMS:.0%}, %:\n\n" + "\n".join(f"- {line}" for line in lines))


def refusals(asked: InferenceTask, guarantee: HeldOutTruths, place: Path) -> str:
    """Shares that are refused of what is given, in words."""
    new = np.loadtxt(place / "new.csv", delimiter=",", skiprows=1)[:, : asked.subject.label_dim]
    return in_words(guarantee, asked, {"new rows": new})


def in_words(guarantee: HeldOutTruths, asked: InferenceTask, sets: dict[str, np.ndarray]) -> str:
    """Shares that are refused of sets of rows, and of the first with its numbers exchanged."""
    first = next(iter(sets.values()))
    sets = {**sets, "noise": np.random.default_rng(1).permuted(first, axis=0)}
    shares = {kind: refused_share(guarantee, asked, rows) for kind, rows in sets.items()}
    return ", ".join(f"{100 * share:.0f} of {kind}" for kind, share in shares.items())


def of_letters(folder: Path) -> str:
    """Shares of new digits and of letters that are refused under a flow of digits, in words."""
    rows, done = np.random.default_rng(0).permutation(rows_of("digits")), folder / "calibrated.pkl"
    noise = ["--noise_std=0.5", "--sampler=elliptical", "--chains=2", "--draws=4", "--warmup=2"]
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = ",".join(f"x{k + 1}" for k in range(rows.shape[1]))
        np.savetxt(folder / "y.csv", rows[450:], delimiter=",", header=names, comments="")
        made = [f"--source={folder / 'y.csv'}", f"--dest={folder / 'y.npz'}", "--overwrite"]
        run("dataset_tool.py", *made, "--kept=0.25")
        data = f"--data={folder / 'y.npz'}"
        run("train.py", data, f"--outdir={folder}", "--device_name=cpu")
        options = [f"--network={newest_network(folder)}", f"--data_root={folder / 'y.npz'}"]
        run("posterior.py", "calibrate", *options, *noise, f"--dest={done}", "--device_name=cpu")
    likelihood = LikelihoodOptions(noise_std="0.5", given=frozenset({"noise_std"}))
    prior = PriorOptions(network=str(done))
    asked = InferenceTask.open(CalibrateSettings(prior=prior, likelihood=likelihood))
    assert asked.subject.network is not None
    assert asked.subject.network.held_out is not None
    values = datasets.load_digits().data
    varies = values.std(axis=0) > 0.05 * values.std(axis=0).max()
    sets = {"new digits": rows[:450], "letters": letters().reshape(-1, 64)[:, varies]}
    draw = np.random.default_rng(2)
    noisy = {kind: each + 0.5 * draw.normal(size=each.shape) for kind, each in sets.items()}
    return in_words(HeldOutTruths(asked.subject.network.held_out), asked, noisy)


if __name__ == "__main__":
    run_script(main)
