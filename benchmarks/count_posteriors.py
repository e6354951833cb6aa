"""Seconds of posteriors from a few counts each, under a likelihood that a network has learned.

    OMP_NUM_THREADS=1 python benchmarks/count_posteriors.py [--people=1,20,200]

A person has five counts. In the first model they are Poisson numbers with a rate; in the second the
rate of each count is drawn from a gamma distribution, whose mean and shape are the parameters. The
likelihood of one count is learned from 3,000 simulations. The pool of prior draws is the same for
all people, so that many people take less time each than one.
"""

from time import process_time

import click
import numpy as np
import pandas

from training import Simulations

COUNTS, SIMULATIONS = 5, 3000


@click.command()
@click.option("--people", default="1,20,200", show_default=True)
def main(people: str) -> None:
    """Print a line for each model and number of people."""
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.5, 10, (SIMULATIONS, 1))
    shapes = rng.uniform(0.5, 5, (SIMULATIONS, 1))
    models = {
        "rate": (rates, rng.poisson(rates)),
        "mean and shape": (
            np.hstack([rates, shapes]),
            rng.poisson(rng.gamma(shapes, rates / shapes)),
        ),
    }
    print("| parameters | people | CPU s each | converged, % |")
    print("| --- | ---: | ---: | ---: |")
    for name, (parameters, counts) in models.items():
        ends = dict(zip(["theta1", "theta2"], [(0.5, 10), (0.5, 5)], strict=True))
        bounds = {key: ends[key] for key in list(ends)[: parameters.shape[1]]}
        simulations = Simulations(parameters, counts.astype(float), bounds=bounds)
        posterior = simulations.train(likelihood=True, seed=0).posterior(prior="uniform")
        for number in map(int, people.split(",")):
            own = np.random.default_rng(1)
            observed = own.poisson(np.repeat(own.uniform(1, 9, number), COUNTS)).astype(float)
            who = np.repeat(np.arange(number), COUNTS)
            frame = pandas.DataFrame({"dataset": who, "y1": observed})
            began = process_time()
            draws = posterior.sample(frame)
            seconds = (process_time() - began) / number
            converged = 100 * float(np.mean(draws.converged))
            print(f"| {name} | {number} | {seconds:.2f} | {converged:.0f} |")


if __name__ == "__main__":
    main()
