"""The hidden half of digits by writers that the prior never saw: do chains agree, and do intervals
hold what they say?

    OMP_NUM_THREADS=1 python benchmarks/digit_posteriors.py [--digits=16] [--folder=out/digits]

The prior is a network of scikit-learn's first 1,500 digits as a table, by train.py's defaults, made
in the folder if it is not there; truths are drawn from the last 297. The upper half is
seen, with noise of 0.3 steps of gray. Levels are spread over their steps, as in the training.

R-hat     at the median and the 90th percentile of pixels
worth     effective draws, at the median and the 10th percentile of pixels
coverage  of central intervals of hidden pixels at 50, 80, 90 and 95 %
CRPS      of hidden pixels, in steps of gray
"""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from sklearn.datasets import load_digits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.tables import from_array
from torch_utils.seeds import seeded_generator
from training.data.tables.making import Choices, make_table
from training.files.table import save_table
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target
from training.measure.posterior.coverage import central_values
from training.measure.posterior.crps import crps
from training.measure.posterior.ranks import fractional_ranks
from training.model.model import Model

ROOT = Path(__file__).parent.parent
TRAINED, HIDDEN_FROM, NOISE = 1500, 32, 0.3
LEVELS = (0.5, 0.8, 0.9, 0.95)


def prior_network(folder: Path) -> Model:
    """A network of the first digits as a table."""
    if not list(folder.glob("prior/network-snapshot-*.pkl")):
        folder.mkdir(parents=True, exist_ok=True)
        levels = load_digits().data[:TRAINED]
        table, _ = make_table(from_array("digits", levels.copy()), Choices(dequantize=False))
        steps = torch.ones_like(table.columns.steps)
        data = folder / "digits.npz"
        save_table(data, replace(table, columns=replace(table.columns, steps=steps)))
        options = [f"--data={data}", f"--outdir={folder / 'prior'}", "--nosubdir"]
        command = [sys.executable, str(ROOT / "train.py"), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return Model.load(sorted(folder.glob("prior/network-snapshot-*.pkl"))[-1])


def unseen(model: Model, count: int) -> tuple[Tensor, Tensor]:
    """Columns ``[count, D]`` of held-out digits, spread over their steps, and their pixels."""
    pixels = torch.tensor([int(name[1:]) - 1 for name in model.about["columns"]])
    levels = torch.from_numpy(load_digits().data[TRAINED:])
    generator = seeded_generator("cpu", 0)
    chosen = levels[torch.randperm(len(levels), generator=generator)[:count]][:, pixels]
    spread = torch.rand(chosen.shape, generator=generator, dtype=torch.float64) - 0.5
    return chosen + spread, pixels


@click.command(help=__doc__)
@click.option("--digits", type=int, default=16, show_default=True)
@click.option("--warmup", type=int, default=400, show_default=True)
@click.option("--draws", type=int, default=600, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/benchmarks/digits")
def main(digits: int, warmup: int, draws: int, folder: Path) -> None:
    torch.set_num_threads(1)
    model = prior_network(folder)
    truth, pixels = unseen(model, digits)
    seen, hidden = pixels < HIDDEN_FROM, pixels >= HIDDEN_FROM
    likelihood = Gaussian(torch.tensor(NOISE), seen.nonzero()[:, 0])
    observed = likelihood.simulate(truth, seeded_generator("cpu", 1))
    fine, coarse = (
        Prior(model.flow, model.flow.times(steps), get_solver("exp_ab2")) for steps in (24, 8)
    )
    problem = Problem(Target(fine, likelihood, observed, 64), coarse, list(range(digits)))
    begin = time.process_time()
    found = sample_posteriors(problem, SamplingPlan("hmc", warmup=warmup, draws=draws))
    seconds = time.process_time() - begin
    summary = Summary.of(found, 0)
    points = found.points.flatten(1, 2)[:, :, hidden]
    ranks = fractional_ranks(points, truth[:, hidden], seeded_generator("cpu", 2))
    held = [float((central_values(ranks) <= level).double().mean()) for level in LEVELS]
    r_hat, worth = (values.flatten() for values in (summary.r_hat, summary.ess_bulk))
    print(f"{digits} digits, {warmup} + {draws} steps of 4 chains, {seconds:.0f} s of the CPU")
    print(f"R-hat     {float(r_hat.median()):.3f}, {float(r_hat.quantile(0.9)):.3f}")
    print(f"worth     {float(worth.median()):.0f}, {float(worth.quantile(0.1)):.0f}")
    print("coverage  " + " ".join(f"{100 * value:.1f}" for value in held))
    print(f"CRPS      {float(crps(points, truth[:, hidden]).mean()):.2f}")


if __name__ == "__main__":
    main()
