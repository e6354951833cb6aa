"""Hierarchical models of 10 to 10,000 members, against exact populations.

    OMP_NUM_THREADS=1 python benchmarks/many_members.py [--members=10,100,1000,10000]

Members have three parameters, ``theta_i ~ N(0.3, 0.53^2)`` each; each is measured with Gaussian
noise whose standard deviation is 0.2, 0.5 and 1, so that posteriors under a wide prior are normal.
A member has as many draws as ``posterior.py population`` uses. The exact posterior of mean and
standard deviation is a sum over a grid.

mean, spread   error of the posterior mean of the population mean and standard deviation, in exact
               posterior standard deviations, for the three noises
ratio          posterior standard deviation over the exact one
noise          stated error of the finite number of draws, in posterior standard deviations
"""

import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.inference.population import PopulationPlan, sample_population
from training.models.hierarchical import FEWEST_DRAWS, MOST_WEIGHTS

NOISES = torch.tensor([0.2, 0.5, 1.0]).double()
MEAN, SPREAD, PRIOR = 0.3, 0.53, 3.0


def exact(seen: Tensor, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the population mean and spread, given data ``[M]``."""
    count = len(seen)
    width = 8 / count**0.5
    means = torch.linspace(-width, width, 241).double() + seen.mean()
    spreads = torch.linspace(1e-3, 0.53 + width, 400).double()
    variance = (spreads.square() + noise**2)[:, None]
    # Sums of squares around any mean follow from the mean and the variance of the data.
    squares = count * (seen.var(correction=0) + (seen.mean() - means).square())
    density = -squares / (2 * variance) - count * variance.log() / 2
    hyper = -(means / PRIOR).square() / 2 - (spreads[:, None] / PRIOR).square() / 2
    share = (density + hyper).flatten().softmax(dim=0).view_as(density)
    pairs = [(means, share.sum(dim=0)), (spreads, share.sum(dim=1))]
    center = [float(weight @ values) for values, weight in pairs]
    std = [
        float(weight @ (values - middle).square()) ** 0.5
        for (values, weight), middle in zip(pairs, center, strict=True)
    ]
    return np.array(center), np.array(std)


@click.command(help=__doc__)
@click.option("--members", default="10,100,1000,10000", show_default=True)
@click.option("--seeds", type=int, default=3, show_default=True)
def main(members: str, seeds: int) -> None:
    torch.set_num_threads(1)
    print("| members | draws each | mean | spread | ratio: mean | spread | noise | R-hat | CPU s |")
    print("| ---: | ---: | --- | --- | --- | --- | ---: | ---: | ---: |")
    for count in map(int, members.split(",")):
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            truth = MEAN + SPREAD * torch.randn(count, 3, generator=generator).double()
            seen = truth + NOISES * torch.randn(count, 3, generator=generator).double()
            size = max(MOST_WEIGHTS // count, FEWEST_DRAWS)
            # The posterior under the prior N(0, PRIOR^2) of a member.
            precision = NOISES**-2 + PRIOR**-2
            center, std = seen * NOISES**-2 / precision, precision.rsqrt()
            normal = torch.randn(count, size, 3, generator=generator)
            draws = center[:, None] + std * normal.double()
            log_prior = -(draws / PRIOR).square().sum(dim=2) / 2
            began = time.process_time()
            result = sample_population(
                draws,
                log_prior,
                torch.zeros(3).double(),
                torch.full((3,), PRIOR).double(),
                PopulationPlan(seed=seed),
            )
            seconds = time.process_time() - began
            errors, ratios = [], []
            for place, noise in enumerate(NOISES.tolist()):
                own = [
                    values[..., place].flatten().numpy() for values in (result.mean, result.spread)
                ]
                middle, width = exact(seen[:, place], noise)
                errors.append((np.array([each.mean() for each in own]) - middle) / width)
                ratios.append(np.array([each.std() for each in own]) / width)
            columns = [
                " ".join(f"{each[kind]:.2f}" for each in rows)
                for rows in (errors, ratios)
                for kind in (0, 1)
            ]
            cells = " | ".join(columns)
            print(
                f"| {count:,} | {size:,} | {cells} | {result.noise:.2f} | "
                f"{float(result.r_hat.max()):.3f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
