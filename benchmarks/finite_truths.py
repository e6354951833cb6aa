"""What regions hold that n held-out truths have set: the finite-sample statement, repeated.

    python benchmarks/finite_truths.py [--repetitions=500]

A Gaussian posterior that is half as wide as it should be; central intervals of 90 %. Given the
truths, what they hold is known without new ones.
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.cli.script import run_script
from training.measure.conformal import Holding, asked


@click.command(help=__doc__)
@click.option("--repetitions", default=500)
def main(repetitions: int) -> None:
    print("| truths | as the flow says | held, mean | stated: from | to | 5 % hold less | stated |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for count in (50, 200, 1000):
        draw = np.random.default_rng(count)
        scores = 2 * norm.cdf(np.abs(draw.normal(size=(count, repetitions))) * 2) - 1
        level = asked(torch.from_numpy(scores), 0.9).numpy()
        held = 2 * norm.cdf(norm.ppf((1 + level) / 2) / 2) - 1
        flow = 2 * norm.cdf(norm.ppf(0.95) / 2) - 1
        error, stated = held.std() / repetitions**0.5, Holding.by(count, 0.9)
        cells = [f"{count:,}", f"{flow:.1%}", f"{held.mean():.2%} ± {error:.2%}", "90.00%"]
        cells += [f"{0.9 + 1 / (count + 1):.2%}", f"{np.quantile(held, 0.05):.1%}"]
        print("| " + " | ".join([*cells, f"{stated.low:.1%}"]).replace("%", " %") + " |")


if __name__ == "__main__":
    run_script(main)
