"""Hidden pixels of digits by writers that the prior never saw: do populations or chains agree, and
do intervals hold what they say?

    OMP_NUM_THREADS=2 python benchmarks/digit_posteriors.py [--seen=upper,random,all]
        [--priors=plain,blurred] [--claims=1,2] [--digits=297] [--particles=2048]
        [--folder=out/digits]

Priors are networks of scikit-learn's first 1,500 digits as a table, by train.py with the options
below, made in the folder if they are not there; truths are the last 297, or drawn from the flow
itself. Seen are the upper half, a random half, or all pixels, with noise of 0.3 steps of gray.
Levels are spread over their steps, as in the training. A likelihood may claim more noise than there
is (``--claims``), which tempers it. Each row of the table says

R-hat     median and 90th percentile of the pixels of all digits
worth     effective draws for 1,000 network calls, in the median over pixels and digits; a gradient
          counts as four calls for each of its steps
coverage  of central intervals of hidden pixels (of all, if all are seen) at 50, 80, 90 and 95 %;
          also with draws moved away from their mean by a factor, which is the one that gave 90 % on
          the other half of the digits
width     of the 90 % interval of pixels, in steps of gray; CRPS likewise
seconds   of the CPU
"""

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tables import from_array
from torch_utils.seeds import seeded_generator
from training.data.tables.formats import TableChoices
from training.data.tables.making import make_table
from training.data.tables.schema import Column
from training.files.table import save_table
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior, integrations_of
from training.inference.sampling import KERNELS, Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.measure.posterior.calibration import central_values, crps, fractional_ranks
from training.measure.posterior.convergence import convergence
from training.names import SAMPLERS
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
TRAINED, HALF, NOISE = 1500, 32, 0.3
LEVELS = (0.5, 0.8, 0.9, 0.95)
PRIORS = {
    "plain": [],
    "augmented": [],
    "blurred": ["--gamma0=0.03"],
    "dropout": ["--dropout=0.3"],
    "ensemble": ["--ensemble=4"],
    "PRR": ["--dims_to_keep=20"],
    "PRR-closed": ["--dims_to_keep=20", "--latent_law=gaussian"],
    "calibrated": ["--calibrate"],
    "straight": ["--marginals=none"],
}
"""Options of ``train.py``, by the name of a prior. ``augmented`` has ten copies of each digit,
slightly turned, sheared and moved; ``straight`` has columns as they are, not curved; ``PRR`` has
the learned law of the latents of 20 kept dimensions, or the closed form of it, and ``calibrated``
is corrected on rows that were held out of the training."""
COPIES, HELD_OUT = 9, 150
ROWS, GROUP = 256, 27
"""Points of a network call, but of chains no more than move at once; digits that are asked of at
once."""


def prior_network(folder: Path, name: str) -> TrainedNetwork:
    """A network of the first digits as a table."""
    place = folder / name
    if not list(place.glob("network-snapshot-*.pkl")):
        place.mkdir(parents=True, exist_ok=True)
        levels = load_digits().data[:TRAINED].copy()
        if name == "augmented":
            levels = with_copies(levels)
        table, _ = make_table(from_array("digits", levels), TableChoices(dequantize=False))
        held_out = table.held_out
        if name == "augmented":
            held_out = np.arange(len(levels)) >= len(levels) - HELD_OUT
        data = place / "digits.npz"
        columns = [Column.of_numbers(name, step=1.0) for name in table.names]
        save_table(data, replace(table, columns=columns, held_out=held_out))
        options = [f"--data={data}", f"--outdir={place}", "--nosubdir", *PRIORS[name]]
        command = [sys.executable, str(ROOT / "train.py"), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return TrainedNetwork.load(sorted(place.glob("network-snapshot-*.pkl"))[-1])


def with_copies(levels: np.ndarray) -> np.ndarray:
    """Digits ``[N, 64]`` and turned copies of all but the last, in the pixels that they use."""
    generator = np.random.default_rng(0)
    used = levels.min(axis=0) < levels.max(axis=0)
    rows = [levels[:-HELD_OUT]]
    for _ in range(COPIES):
        images = [turned(image, generator) for image in levels[:-HELD_OUT].reshape(-1, 8, 8)]
        rows.append(np.stack(images).reshape(len(images), -1) * used)
    return np.concatenate([*rows, levels[-HELD_OUT:]])


def turned(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An image ``[8, 8]`` through a random affine map."""
    angle, shear = generator.normal(0, 0.04, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    size = np.exp(generator.normal(0, 0.025, 2))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[size[0], shear], [0, size[1]]])
    center = np.full(2, 3.5)
    offset = center - matrix @ center + generator.normal(0, 0.125, 2)
    return np.clip(np.round(affine_transform(image, matrix, offset, order=1)), 0, 16)


@dataclass
class Question:
    """What is seen of digits.

    Attributes:
        truth: ``[M, D]``.
        seen: Pixels that are seen, of each digit ``[M, D]``.
        observed: All pixels with noise ``[M, D]``.
    """

    truth: Tensor
    seen: Tensor
    observed: Tensor

    @classmethod
    def of(cls, model: TrainedNetwork, count: int, what: str, truths: str) -> "Question":
        """The question of the last digits, or of draws of the prior."""
        pixels = torch.tensor([int(name[1:]) - 1 for name in model.about["columns"]])
        generator = seeded_generator("cpu", 0)
        if truths == "flow":
            truth = model.flow.sample(count, generator)
        else:
            levels = torch.from_numpy(load_digits().data[TRAINED:])
            chosen = levels[torch.randperm(len(levels), generator=generator)[:count]][:, pixels]
            truth = (
                chosen + torch.rand(chosen.shape, generator=generator, dtype=torch.float64) - 0.5
            )
        noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        seen = (pixels < HALF).expand(truth.shape)
        if what == "random":
            # One half for each group of digits, as observations of one likelihood see the same.
            halves = torch.rand(-(-count // GROUP), len(pixels), generator=generator) < 0.5
            seen = halves.repeat_interleave(GROUP, dim=0)[:count]
        elif what == "all":
            seen = torch.ones_like(truth, dtype=torch.bool)
        return cls(truth, seen, truth + NOISE * noise)

    @property
    def asked(self) -> Tensor:
        """Pixels that are asked for ``[M, D]``."""
        return ~self.seen if not self.seen.all() else self.seen


def sampled(model: TrainedNetwork, question: Question, plan: SamplingPlan, claimed: float) -> Draws:
    """Draws of all posteriors, by a likelihood that claims so many times the noise."""
    flow = model.flow
    fine = Prior(flow, *flow.integration("points"), integrations=integrations_of(flow))
    coarse = Prior(flow, *flow.integration("look"))
    moving = plan.chains * min(GROUP, len(question.truth))
    rows = moving if plan.sampler in KERNELS else ROWS
    parts = []
    for places in torch.split(torch.arange(len(question.truth)), GROUP):
        pick = question.seen[places[0]].nonzero()[:, 0]
        likelihood = Gaussian(torch.tensor(claimed * NOISE), pick)
        target = Target(fine, likelihood, question.observed[places][:, pick], rows)
        problem = Problem(target, coarse, places.tolist())
        draws = sample_posteriors(problem, plan)
        parts.append(replace(draws, points=draws.points.float(), w=draws.w[..., :1]))
    return Draws.joined(parts)


def levels_of(points: Tensor, question: Question) -> Tensor:
    """The central interval that each pixel ``[M, D]`` is at the end of."""
    ranks = fractional_ranks(points, question.truth, seeded_generator("cpu", 2))
    return central_values(ranks)


def held(levels: Tensor, asked: Tensor) -> str:
    """What intervals hold of the pixels that are asked for, in percent."""
    return " ".join(f"{100 * float((levels[asked] <= at).double().mean()):.1f}" for at in LEVELS)


def spread_by_other_half(points: Tensor, question: Question) -> tuple[Tensor, list[float]]:
    """Levels of pixels where draws ``[M, S, D]`` are spread by a factor that was fitted on the
    other half of the digits, and the factors."""
    center, even = points.mean(dim=1, keepdim=True), torch.arange(len(points)) % 2 == 0
    factors = [1 + step / 50 for step in range(-5, 21)]
    found = torch.stack(
        [levels_of(center + factor * (points - center), question) for factor in factors]
    )
    result, chosen = torch.empty_like(found[0]), []
    for fit in (even, ~even):
        inside = (found[:, fit] <= 0.9) & question.asked[fit]
        share = inside.double().sum(dim=(1, 2)) / question.asked[fit].sum()
        best = int((share - 0.9).abs().argmin())
        result[~fit] = found[best, ~fit]
        chosen.append(factors[best])
    return result, chosen


def measured(found: Draws, question: Question) -> str:
    """A row of the table, without its ends."""
    mixing = [convergence(one.double()) for one in found.points]
    r_hat = torch.stack([one.r_hat for one in mixing])
    worth = torch.stack([one.ess_bulk for one in mixing]) / found.calls[:, None]
    points, asked = found.points.flatten(1, 2).double(), question.asked
    spread, factors = spread_by_other_half(points, question)
    ends = points.quantile(torch.tensor([0.05, 0.95]).double(), dim=1)
    cells = (
        f"{float(r_hat.nanmedian()):.3f}, {float(r_hat.nanquantile(0.9)):.3f}",
        f"{1000 * float(worth.nanmedian()):.2f}",
        held(levels_of(points, question), asked),
        f"{factors[0]:.2f}, {factors[1]:.2f}",
        held(spread, asked),
        f"{float((ends[1] - ends[0])[asked].mean()):.2f}",
        f"{float(crps(points, question.truth)[asked].mean()):.2f}",
    )
    return " | ".join(cells)


@click.command(help=__doc__)
@click.option("--seen", default="upper", show_default=True)
@click.option("--priors", default="plain", show_default=True)
@click.option("--claims", default="1", show_default=True, help="Of noise, times the true.")
@click.option("--truths", type=click.Choice(["data", "flow"]), default="data", show_default=True)
@click.option("--digits", type=int, default=297, show_default=True)
@click.option("--sampler", type=click.Choice(SAMPLERS), default="twisted", show_default=True)
@click.option("--chains", type=int, default=4, show_default=True)
@click.option("--draws", type=int, default=500, show_default=True)
@click.option("--warmup", type=int, default=400, show_default=True, help="Of chains.")
@click.option("--particles", type=int, default=2048, show_default=True, help="Of twisted.")
@click.option("--folder", type=click.Path(path_type=Path), default="out/benchmarks/digits")
def main(
    seen: str,
    priors: str,
    claims: str,
    truths: str,
    digits: int,
    sampler: str,
    chains: int,
    draws: int,
    warmup: int,
    particles: int,
    folder: Path,
) -> None:
    plan = SamplingPlan(sampler, chains, draws, warmup, particles=particles)
    print(
        "| prior | seen | R-hat | worth | coverage | spread | coverage | width | CRPS | seconds |"
    )
    print("| --- | --- | --- | ---: | --- | --- | --- | ---: | ---: | ---: |")
    for name, what, claimed in product(priors.split(","), seen.split(","), claims.split(",")):
        model = prior_network(folder, name)
        question = Question.of(model, digits, what, truths)
        begin = time.process_time()
        found = sampled(model, question, plan, float(claimed))
        seconds = time.process_time() - begin
        row = measured(found, question)
        prior = name if claimed == "1" else f"{name}, noise times {claimed}"
        print(f"| {prior} | {what} | {row} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
