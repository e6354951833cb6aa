"""What samplers of posteriors give for a network call: effective draws, and their errors.

    OMP_NUM_THREADS=1 python benchmarks/posterior_samplers.py [--toys=circles,s_curve]

Networks that keep all dimensions, which ``toy_train.py`` makes in the folder if they are not there,
and points of the toy, observed with noise of 0.1: whole, or their first coordinate.

worth    median over observations of effective draws, of the coordinate with the fewest, for 1,000
         network calls; a gradient counts as four. The pool's calls are shared by all observations:
         here so many as --observations says; more of them make each call worth as much more.
R-hat    largest over coordinates, 90th percentile over observations
mean     median of the error of posterior means, in standard deviations of the exact posterior
seconds  of the CPU, for all observations
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.latent_law import trained
from benchmarks.posteriors import DURATION, likelihoods
from torch_utils.seeds import seeded_generator
from training.data.toys import Toy
from training.flow.solvers import get_solver
from training.inference.draws import POOLED
from training.inference.exact import ExactPosterior
from training.inference.prior import Prior
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target

OBSERVED = ("point, 0.1", "one coordinate, 0.1")
PLAN = SamplingPlan(chains=4, draws=250, pool=2**16)
SAMPLERS = ("pool", "refined", "annealed", "elliptical", "hmc")


@click.command(help=__doc__)
@click.option("--toys", default="circles,s_curve", show_default=True)
@click.option("--samplers", default=",".join(SAMPLERS), show_default=True)
@click.option("--observations", type=int, default=16, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/benchmarks/latent_law")
def main(toys: str, samplers: str, observations: int, folder: Path) -> None:
    torch.set_num_threads(1)
    print("| toy | observed | sampler | worth | R-hat | mean | seconds |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for name in toys.split(","):
        toy = Toy(name)
        flow = trained(toy, toy.dim, DURATION, folder)
        fine, coarse = (Prior(flow, flow.times(steps), get_solver("exp_ab2")) for steps in (24, 10))
        truth = toy.sample(observations, seeded_generator("cpu", 0))
        for observed in OBSERVED:
            likelihood = likelihoods(toy.dim)[observed]
            seen = likelihood.simulate(truth, seeded_generator("cpu", 1))
            exact = ExactPosterior.from_components(*toy.mixture[:3], likelihood, seen)
            for sampler in samplers.split(","):
                target = Target(fine, likelihood, seen, 64)
                problem = Problem(target, coarse, list(range(observations)))
                begin = time.process_time()
                draws = sample_posteriors(problem, replace(PLAN, sampler=sampler))
                seconds = time.process_time() - begin
                summary = Summary.from_draws(draws, PLAN.pool)
                worth = (1000 * summary.ess_bulk.amin(dim=1) / draws.calls).median()
                r_hat = summary.r_hat.amax(dim=1).quantile(0.9)
                gap = draws.points.flatten(1, 2).mean(dim=1) - exact.mean
                off = (gap / exact.std).abs().median()
                mixed = f"{float(r_hat):.3f}" if sampler not in POOLED else ""
                print(
                    f"| {name} | {observed} | {sampler} | {float(worth):.2f} | {mixed} | "
                    f"{float(off):.3f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
