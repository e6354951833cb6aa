"""Training, densities and imputation of tables with many columns, against the exact answers.

    OMP_NUM_THREADS=1 python benchmarks/wide_tables.py --columns=200 --minutes=1 [--missing]

The rows are Gaussian: ten factors and noise. With ``--missing``, 5 % of the training cells are
missing, and a network for conditional queries is trained, which imputes half of the cells of 200
new rows.
"""

import argparse
import resource
from time import process_time
from typing import Any

import numpy as np
import pandas
import torch
from numpy.linalg import cholesky, slogdet, solve

from training import Table

FACTORS, SCORED, FILLED = 10, 50, 200


def log_density(rows: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Log densities of Gaussian rows ``[N, D]`` of mean 0."""
    white = solve(cholesky(covariance), rows.T)
    constant = slogdet(covariance).logabsdet + len(covariance) * np.log(2 * np.pi)
    return -(np.square(white).sum(axis=0) + constant) / 2


def error_of_medians(filled: np.ndarray, holes: np.ndarray, covariance: np.ndarray) -> float:
    """Root mean square error of imputed cells, in standard deviations given the others."""
    errors = []
    for row, hole in zip(filled, holes, strict=True):
        across = solve(covariance[np.ix_(~hole, ~hole)], covariance[np.ix_(~hole, hole)]).T
        variance = covariance[np.ix_(hole, hole)] - across @ covariance[np.ix_(~hole, hole)]
        errors.append((row[hole] - across @ row[~hole]) / np.sqrt(np.diag(variance)))
    return float(np.sqrt(np.square(np.concatenate(errors)).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--missing", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    random, names = np.random.default_rng(0), [f"x{at}" for at in range(given.columns)]
    weights = random.normal(size=(FACTORS, given.columns))
    covariance = weights.T @ weights + np.eye(given.columns)

    def rows(count: int) -> np.ndarray:
        hidden = random.normal(size=(count, FACTORS))
        return hidden @ weights + random.normal(size=(count, given.columns))

    def frame(values: np.ndarray) -> Any:
        return pandas.DataFrame(values, columns=names)

    train, new = rows(given.rows), rows(FILLED)
    options: dict[str, Any] = {}
    if given.missing:
        train[random.random(train.shape) < 0.05] = np.nan
        options = {"any": True}
    start = process_time()
    table = Table.open(frame(train), held_out=0.05, seed=0)
    opened, start = process_time() - start, process_time()
    model = table.train(minutes=given.minutes, **options)
    trained, start = process_time() - start, process_time()
    if given.missing:
        scores = model.score(frame(new[:SCORED]))
        density, error = scores["log_prob"].to_numpy(), scores["log_prob_error"].to_numpy()
    else:
        density, error = model.log_prob_with_error(new[:SCORED])
    scored = process_time() - start
    lost = log_density(new[:SCORED], covariance) - density
    print(
        f"{given.columns} columns: opening {opened:.1f}, training {trained:.1f} CPU s; nats lost "
        f"{lost.mean():.2f} ± {lost.std() / SCORED**0.5:.2f}, stated error of a row "
        f"{error.mean():.2f}; {1000 * scored / SCORED:.1f} ms a row"
    )
    if given.missing:
        holes = random.random(new.shape) < 0.5
        start = process_time()
        filled = model.fill(frame(np.where(holes, np.nan, new)))[names].to_numpy()
        print(
            f"imputation: {1000 * (process_time() - start) / holes.sum():.2f} ms a cell, error of "
            f"medians {error_of_medians(filled, holes, covariance):.3f} exact standard deviations"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
