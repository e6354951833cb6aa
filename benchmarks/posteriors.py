"""Posteriors of toys against the exact ones, and their calibration, with the toy's own points as
truths that are to be found again.

    python benchmarks/posteriors.py [--toys=circles,moons] [--runs=1000] [--folder=out/posteriors]

Flows keep all dimensions (PRP) or lose one (PRR, with its learned law of latents): trained networks
that ``toy_train.py`` makes in the folder if they are not there, or the exact denoiser. The exact
posterior is that of the toy, a Gaussian mixture: observations are linear with Gaussian noise, so it
is a mixture too.

mean, std     median over observations and coordinates of the error of posterior means, in posterior
              standard deviations, and of these, in percent
worst p       smallest p-value of ranks, central intervals, highest-density regions and TARP, the
              number of them accounted for (Holm)
coverage      largest deviation of central intervals of all coordinates, at 50, 80, 90 and 95 %, in
              points; in brackets that of the exact posterior's intervals, at the same truths and
              observations, which is all chance
worth         median of what weights are worth in draws, in the end
refined       percent of observations for which the pool was worth too little and was refined, and
              for which populations were annealed
converged     percent of observations that are said to have
seconds       of the CPU
"""

import sys
import time
from collections import Counter
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.latent_law import exact_flow, learned, trained
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.streams import Stream
from training.data.toys import Toy
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import get_solver
from training.inference.checking import check_runs, simulated, true_points_of_data
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior, integrations_of
from training.inference.samplers.populations import Pool
from training.inference.sampling import Problem, SamplingPlan
from training.inference.summary import Summary
from training.inference.target import Target
from training.measure.posterior.calibration import (
    RunValues,
    calibrate,
    central_values,
    coverage_curve,
)
from training.models.checkpoint import GROUP

LEVELS = (0.5, 0.8, 0.9, 0.95)
POOLS = {2: 2**17, 3: 2**18}
CHAINS, DRAWS = 4, 2000
ROWS = 256
DURATION = 6.0


def likelihoods(dim: int) -> dict[str, Gaussian]:
    """What is observed, by name."""
    direction = torch.ones(1, dim, dtype=torch.float64) / dim**0.5
    return {
        "point, 0.1": Gaussian(torch.tensor(0.1)),
        "point, 0.3": Gaussian(torch.tensor(0.3)),
        "one coordinate, 0.1": Gaussian(torch.tensor(0.1), torch.tensor([0])),
        "linear, 0.3": Gaussian(torch.tensor(0.3), operator=direction),
    }


def flows_of(toy: Toy, folder: Path, exact: bool) -> dict[str, ProbabilityFlow]:
    """The priors, by schedule."""
    if not exact:
        return {
            name: trained(toy, kept, DURATION, folder)
            for name, kept in (("PRP", toy.dim), ("PRR", toy.dim - 1))
        }
    reduced, _ = learned(toy, exact_flow(toy))
    return {"PRP": exact_flow(toy, toy.dim), "PRR": reduced}


def prior_of(flow: ProbabilityFlow, use: str, deblurred: bool) -> Prior:
    """Along the courses of a trained network, as ``posterior.py`` goes."""
    if use not in flow.integrations:
        return Prior(flow, flow.times(24), get_solver("exp_ab2"), deblurred)
    return Prior(flow, *flow.integration(use), deblurred, integrations=integrations_of(flow))


def measured(
    toy: Toy, flow: ProbabilityFlow, plan: SamplingPlan, runs: int, deblurred: bool
) -> dict[str, str]:
    """A row of the table for each likelihood."""
    prior, coarse = prior_of(flow, "points", deblurred), prior_of(flow, "look", deblurred)
    truth = toy.sample(runs, seeded_generator("cpu", 0, Stream.TRUTHS))
    names = [f"x{index + 1}" for index in range(toy.dim)]
    begin = time.process_time()
    any_target = Target(prior, Gaussian(torch.tensor(1.0)), truth, ROWS)
    pool = Pool.draw(any_target, plan.pool, plan.seed)
    shared, rows = time.process_time() - begin, {}
    for name, likelihood in likelihoods(toy.dim).items():
        begin = time.process_time()
        errors, values, shares, worth, samplers, converged = [], [], [], [], Counter[str](), 0
        for places in torch.split(torch.arange(runs), GROUP):
            numbers = places.tolist()
            truths = true_points_of_data(any_target, truth[places], numbers, plan.seed)
            observed = simulated(likelihood, truths.points, numbers, hash_seed(plan.seed))
            target = Target(prior, likelihood, observed, ROWS)
            problem = Problem(target, coarse, numbers)
            found, draws = check_runs(problem, plan, truths, names, pool.of(places))
            points = draws.points.flatten(1, 2)
            exact = ExactPosterior.from_components(*toy.mixture[:3], likelihood, observed)
            off = (points.mean(dim=1) - exact.mean) / exact.std
            errors.append((off, points.std(dim=1) / exact.std - 1))
            values.append(found)
            shares.append(exact.below(truths.points))
            worth.append(draws.stats["effective_size"])
            samplers.update(draws.sampler)
            converged += int(Summary.from_draws(draws, plan.pool).converged.sum())
        result = calibrate(RunValues.joined(values))
        off = torch.cat([error[0] for error in errors]).abs().median()
        wide = torch.cat([error[1] for error in errors]).abs().median()
        spread = torch.cat([error[1] for error in errors]).median()
        ranks = RunValues.joined(values).ranks[:, : toy.dim]
        found_off, chance = (largest_deviation(one) for one in (ranks, torch.cat(shares)))
        refined = " ".join(f"{100 * samplers[key] / runs:.1f}" for key in ("refined", "annealed"))
        seconds = time.process_time() - begin + shared
        rows[name] = (
            f"{off:.4f} | {100 * wide:.2f} ({100 * spread:+.2f}) | "
            f"{min(result.adjusted.values()):.2g} | {found_off:.1f} ({chance:.1f}) | "
            f"{float(torch.cat(worth).median()):.0f} | {refined} | "
            f"{100 * converged / runs:.1f} | {seconds:.0f}"
        )
    return rows


def largest_deviation(ranks: Tensor) -> float:
    """Of central intervals, in points, of fractional ranks ``[R, D]``."""
    return float(coverage_curve(central_values(ranks), LEVELS).deviation.abs().max())


@click.command(help=__doc__)
@click.option("--toys", default="circles,moons,s_curve", show_default=True)
@click.option("--runs", type=int, default=1000, show_default=True)
@click.option("--sampler", type=click.Choice(["auto", "pool"]), default="auto", show_default=True)
@click.option("--draws", type=int, default=DRAWS, show_default=True, help="Of each of 4 chains.")
@click.option("--exact/--trained", default=False, help="The exact denoiser, not networks.")
@click.option("--deblur", is_flag=True, help="Posteriors of clean points.")
@click.option("--folder", type=click.Path(path_type=Path), default="out/benchmarks/latent_law")
def main(
    toys: str, runs: int, sampler: str, draws: int, exact: bool, deblur: bool, folder: Path
) -> None:
    torch.set_num_threads(1)
    print(
        "| toy | flow | observed | mean | std, % (median) | worst p | coverage | worth "
        "| refined, annealed, % | converged, % | seconds |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in toys.split(","):
        toy = Toy(name)
        size = POOLS[toy.dim]
        plan = SamplingPlan(sampler, CHAINS, draws, pool=size, first=size)
        for schedule, flow in flows_of(toy, folder, exact).items():
            for observed, row in measured(toy, flow, plan, runs, deblur).items():
                print(f"| {name} | {schedule} | {observed} | {row} |", flush=True)


if __name__ == "__main__":
    main()
