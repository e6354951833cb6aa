"""Claim 1: the effects that the paper publishes are found at the scale of a CPU.

    python benchmarks/paper.py [--only='coverage*']

The experiments are in ``experiments/``. Networks stay in ``out/evidence``.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.evidence import SEEDS, Claim, Figures, Results, figure, mean_and_error, table
from experiments import images, toys
from experiments.images import EDM, GAP, GAPS, PLANS
from training.names import TOY_NAMES

CONTAINED, MIXED = ("circles", "moons", "s_curve"), ("circles", "moons")
RESIDUALS = (("circles", "PRP"), ("circles", "PRR"), ("s_curve", "PRP"), (toys.IMAGES, "PRR"))
FEW = 2
"""Kept dimensions at larger gaps, as in the paper."""
LARGER = {"digits": GAPS, "patches": GAPS[-1:]}
"""Larger gaps, by data set."""
RATIO_OFF, PART, DRIFT, OFF, CORRELATED, HARDLY = 0.25, 0.1, 1.0, 1.25, 0.25, 1.69
"""Limits: relative error of participation ratios at T; energy distance of generated points, as a
part of that of a Gaussian; change of coverage in percentage points; error of weights in standard
deviations; correlation of residuals at half of T; largest by smallest Fréchet distance over kept
dimensions (the FID of CIFAR-10 has this ratio in the paper)."""
NAMES = {"net_residuals": "residual D − e", "exact_residuals": "error D − exact D"}
NOISES = {"fresh": "fresh noise", "path": "along the path"}
Cells = dict[str, Callable[[], Figures]]
Effect = tuple[bool, str] | None
"""Whether an effect has the published direction, and its size; None without cells."""


def flows_of(name: str) -> list[tuple[int | str, float]]:
    """Return the kept dimensions and gaps of the flows of images, and an isotropic model."""
    kept: list[tuple[int | str, float]] = [(each, GAP) for each in PLANS[name].kept]
    return kept + [(FEW, gap) for gap in LARGER[name]] + [(EDM, GAP)] * (name == "digits")


def key_of(name: str, kept: int | str, gap: float) -> str:
    return f"quality {name} {kept} {gap:g}"


def seeded(function: Callable[..., Figures], *words: str, seeds: tuple[int, ...] = SEEDS) -> Cells:
    """Return the cells of an experiment, by its name, its words and a seed."""
    key = " ".join([function.__name__, *words])
    return {f"{key} {seed}": partial(function, *words, seed) for seed in seeds}


CELLS: Cells = {
    f"participation {name} once": partial(toys.participation, name) for name in toys.KEPT
}
CELLS |= {f"held_out {name} once": partial(images.held_out, name) for name in PLANS}
for flow in product(CONTAINED, toys.SCHEDULES):
    CELLS |= seeded(toys.coverage, *flow)
for flow in RESIDUALS:
    CELLS |= seeded(toys.residuals, *flow)
for flow in product(MIXED, toys.SCHEDULES):
    CELLS |= seeded(toys.mixture, *flow)
for flow in product(TOY_NAMES, toys.SCHEDULES):
    CELLS |= seeded(toys.gallery, *flow, seeds=SEEDS[:1])
for data in PLANS:
    for seed, (kept, gap) in product(SEEDS, flows_of(data)):
        quality = partial(images.quality, data, kept, gap, seed)
        CELLS[f"{key_of(data, kept, gap)} {seed}"] = quality


def groups(results: Results, experiment: str) -> dict[str, list[Figures]]:
    """Return the figures of all seeds of an experiment, by the words of their keys."""
    keys = [key for key in CELLS if key in results and key.split()[0] == experiment]
    names = dict.fromkeys(key.partition(" ")[2].rpartition(" ")[0] for key in keys)
    starts = {name: f"{experiment} {name} " for name in names}
    return {name: [results[key] for key in keys if key.startswith(starts[name])] for name in names}


def average(cells: list[Figures], key: str) -> float:
    return mean(cell[key] for cell in cells)


def at_last_time(results: Results) -> Effect:
    off = {
        name: max(abs(cell["PRP"] / cell["dim"] - 1), abs(cell["PRR"] / cell["kept"] - 1))
        for name, (cell,) in groups(results, "participation").items()
    }
    worst = max(off, key=off.__getitem__, default=None)
    if worst is None:
        return None
    return off[worst] <= RATIO_OFF, f"off by at most {100 * off[worst]:.0f} % ({worst})"


def generated(results: Results) -> Effect:
    found = groups(results, "gallery")
    parts = {
        name: average(each, "generated") / average(each, "gaussian") for name, each in found.items()
    }
    worst = max(parts, key=parts.__getitem__, default=None)
    if worst is None:
        return None
    back = max(average(cells, "roundtrip") for cells in found.values())
    return parts[worst] <= PART, (
        f"generated points are at most {100 * parts[worst]:.1f} % as far from the data as a "
        f"Gaussian ({worst}); round trips are off by at most {back:.0e}"
    )


def contained(results: Results) -> Effect:
    found = groups(results, "coverage").values()
    change = max((average(cells, "change") for cells in found), default=None)
    if change is None:
        return None
    fresh = max(abs(average(cells, "fresh")) for cells in found)
    return change <= DRIFT, (
        f"test points: changes of at most {change:.2f} percentage points; new data: off by up to "
        f"{fresh:.2f}"
    )


def weights(results: Results) -> Effect:
    off = [average(cells, "off") for cells in groups(results, "mixture").values()]
    if not off:
        return None
    return max(off) <= OFF, f"off by at most {max(off):.2f} posterior standard deviations"


def uncorrelated(results: Results) -> Effect:
    found = groups(results, "residuals").values()
    if not found:
        return None
    fresh, path = (
        max(abs(mean(cell[noise]["net_residuals"]["at"][1] for cell in cells)) for cells in found)
        for noise in NOISES
    )
    return fresh <= CORRELATED, (
        f"at half of T: up to {fresh:.2f} with fresh noise, as in the paper, but up to {path:.2f} "
        "along the paths on which errors add up"
    )


def by_kept(results: Results) -> Effect:
    found, ratios = groups(results, "quality"), dict[str, float]()
    for name, plan in PLANS.items():
        keys = [key_of(name, kept, GAP).partition(" ")[2] for kept in plan.kept]
        sizes = [average(found[key], "frechet") for key in keys if key in found]
        if len(sizes) > 1:
            ratios[name] = max(sizes) / min(sizes)
    if not ratios:
        return None
    listed = ", ".join(f"{ratio:.2f} ({name})" for name, ratio in ratios.items())
    return max(ratios.values()) <= HARDLY, f"largest by smallest Fréchet distance: {listed}"


def by_gap(results: Results) -> Effect:
    grown = dict[str, tuple[float, float]]()
    for name in PLANS:
        keys = [key_of(name, FEW, gap) for gap in (GAP, GAPS[-1])]
        both = [[results.get(f"{key} {seed}") for key in keys] for seed in SEEDS]
        apart = [last["frechet"] - first["frechet"] for first, last in both if first and last]
        if apart:
            grown[name] = mean_and_error(apart)
    if not grown:
        return None
    listed = ", ".join(
        f"{more:+.3f} ± {error:.3f} ({name})" for name, (more, error) in grown.items()
    )
    lowest = min(more for more, _ in grown.values())
    return lowest > 0, f"Fréchet distance at 1.5 minus at 1.02: {listed}"


EFFECTS: dict[str, Callable[[Results], Effect]] = {
    "participation ratios at T are D (PRP) and d (PRR)": at_last_time,
    "toys become Gaussians, and are generated from them": generated,
    "regions keep their probability": contained,
    "weights of a mixture over latents are recovered": weights,
    "residuals are uncorrelated between distant times": uncorrelated,
    "quality hardly depends on the kept dimensions": by_kept,
    "quality falls as the inflation gap grows": by_gap,
}
"""The published effects, and functions that judge them."""


def judged(results: Results) -> dict[str, tuple[bool, str]]:
    """Return the judgments of all effects that have cells."""
    every = {words: effect(results) for words, effect in EFFECTS.items()}
    return {words: found for words, found in every.items() if found}


def judge(results: Results) -> tuple[bool, str]:
    """Return whether all published effects are found, and which are not."""
    found = judged(results)
    lacking = [words for words, (holds, _) in found.items() if not holds]
    listed = f"; not found: {'; '.join(lacking)}" if lacking else ""
    return not lacking, (
        f"{len(found) - len(lacking)} of {len(found)} published effects have the published "
        f"direction{listed}."
    )


def rows_of(results: Results, experiment: str, **digits: str) -> list[list[str]]:
    """Return rows of a table: words of the key, and means ± standard errors by format."""
    return [
        [name, *(figure((cell[key] for cell in cells), form) for key, form in digits.items())]
        for name, cells in groups(results, experiment).items()
    ]


def correlations(results: Results) -> list[list[str]]:
    """Return the rows of the table of residuals."""
    rows = []
    for name, cells in groups(results, "residuals").items():
        for (noise, words), quantity in product(NOISES.items(), cells[0]["fresh"]):
            own = [cell[noise][quantity] for cell in cells]
            at = [figure((each["at"][place] for each in own), ".2f") for place in range(3)]
            lasting = figure((each["time"] for each in own), ".2f")
            rows.append([f"{name}, {words}: {NAMES[quantity]}", *at, lasting])
    return rows


def recovered(results: Results) -> list[list[str]]:
    """Return the rows of the table of mixtures."""
    rows = []
    for name, cells in groups(results, "mixture").items():
        off = [figure((cell["mean"][place] for cell in cells), ".2f") for place in range(3)]
        inside = [
            f"{100 * mean(cell['inside'][place] for cell in cells):.0f}" for place in range(4)
        ]
        exact = max(cell["exact"] for cell in cells)
        rows.append([name, *off, figure((cell["off"] for cell in cells), ".2f")])
        rows[-1] += [" ".join(inside), f"{exact:.4f}"]
    return rows


def body(results: Results) -> str:
    """Return the tables of the page."""
    found = [
        [words, size, "yes" if holds else "no"] for words, (holds, size) in judged(results).items()
    ]
    ratios = rows_of(
        results, "participation", dim=".0f", data=".2f", PRP=".2f", kept=".0f", PRR=".2f"
    )
    clouds = rows_of(
        results,
        "gallery",
        end=".2f",
        generated=".1e",
        gaussian=".1e",
        latents=".1e",
        roundtrip=".0e",
    )
    regions = rows_of(results, "coverage", change=".2f", moved=".2f", fresh="+.2f", chance=".2f")
    quality = rows_of(results, "quality", energy=".3f", frechet=".3f", mse=".2g", mse_float=".1e")
    real = rows_of(results, "held_out", energy=".3f", frechet=".3f")
    quality += [[f"{name}, held-out images", *values, "", ""] for name, *values in real]
    distances = ["energy distance", "Fréchet distance"]
    return f"""
{table(["published effect", "here", "found"], found, words=2)}

## Participation ratios

{table(["data", "D", "of the data", "PRP, at T", "d", "PRR, at T"], ratios)}

In closed form. The paper has 30.69 for MNIST, 7.90 for Fashion-MNIST, 2.90 for SVHN and 9.24 for
CIFAR-10.

## Toys

{table(["toy", "T", "generated", "Gaussian", "latents", "round trip"], clouds)}

Unbiased energy distances of 2,000 points (0: chance): generated from new data, a Gaussian with the
moments of the data from data, latents from a normal distribution. Round trips: root mean squares.

## Coverage

{table(["toy", "change", "moved", "new data", "± chance"], regions)}

Largest values over seven spheres and both directions, in percentage points. Only *new data* tests
the network: any smooth flow keeps points inside.

## Mixture over latents

{table(["toy", "0.5", "0.25", "0.25", "off", "inside 50 80 90 95 %", "exact"], recovered(results))}

Posterior means of the paper's weights, from 200 points. Then 40 runs with other weights: error in
standard deviations, coverage in percent, and largest difference from quadrature.

## Residuals

{table(["residuals", "0.1 T", "0.5 T", "T", "time / T"], correlations(results))}

Correlations with the first time, and correlation times. With fresh noise, residuals of the exact
denoiser are uncorrelated, too, so the effect does not show that errors of a network average out.

## Quality of images

{table(["data, kept, gap", *distances, "round trip", "before rounding"], quality)}

Training: 12,000 digits, 2,000 patches (the paper: 200 million images, FID). *edm*: an isotropic
model of the same network and budget. Round trips in squared gray levels. Held-out digits are of
other writers.

## On a GPU

These commands have never been run. They follow the paper's set-up for CIFAR-10.

```bash
DATA=datasets/cifar10-32x32.zip
python train.py --outdir=out --data=$DATA --preset=published --precision=bf16 --dims_to_keep=62 \\
    --g_type=constant_inflation_gap --inflation_gap=1.02
python gen_fid_samples.py --network=$NETWORK --save_dir=out/samples --subdirs --seeds=0-49999
python fid.py ref --data=$DATA --dest=out/ref.npz
python fid.py calc --images=out/samples --ref=out/ref.npz
python calc_roundtrip_mse.py --network=$NETWORK --save_dir=out/back --data_root=$DATA \\
    --total_samples=10000 --solver=heun --n_iters=255 --disc=vp_ode
```

Not shown: any FID, images of the paper, and long trainings.
"""


CLAIM = Claim(
    "paper",
    "The paper's effects",
    "The published effects are found at the scale of a CPU.",
    CELLS,
    judge,
    body,
    ("torch", "numpy", "scikit-learn"),
)

if __name__ == "__main__":
    CLAIM.main()
