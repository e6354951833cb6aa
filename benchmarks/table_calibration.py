"""What a calibration does to networks of tables: densities, and the radii of latents.

    OMP_NUM_THREADS=1 python benchmarks/table_calibration.py [--tables=diabetes,wine] [--seeds=5]

A table is split as in ``tables.py``: 70 % of the rows are trained on, 15 % choose the weights, 15 %
judge. The network is that of ``train.py``, and each calibration is fitted to the best weights: to
the rows that chose them (held out), or to those that they were trained on.

gain of nats    mean log density of the rows that judge, over that without a calibration (in
                brackets that without)
of own rows     the same of the rows that the calibration was fitted to
squared radius  mean of the squared radii of their latents, over D: 1 is right
KS p            of the radii against chi-squared, the median over the seeds

Means over the seeds, with standard errors.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.table_methods import Rows, prepare, split
from benchmarks.tables import SUM_ROWS, TABLES
from torch_utils.stats import RunningMeans
from training.data.tables.formats import TableChoices, open_table
from training.data.tables.making import make_table
from training.data.tables.table import DataTable
from training.flow.denoisers import fit_calibration
from training.learning.finishing import node_times
from training.learning.held_out import Validation
from training.learning.trainer import Trainer
from training.measure.held_out_ranks import latent_coverage
from training.names import AUTO, METHODS
from training.subjects.table_spaces import MOST_CALIBRATED, Space, choose_space
from training.trained.network import TrainedNetwork

DEFAULT = "wine,diabetes,breast_cancer,phoneme,toy:circles"
MOST_JUDGED = 1000


class Judgment(NamedTuple):
    """Figures of a model."""

    nats: float
    own_nats: float
    radius: float
    p_value: float


def read_table(name: str) -> DataTable:
    """Toys, which have no end, have as many rows as ``sum``."""
    foreign = TABLES[name][0]() if name in TABLES else open_table(name, None)
    most = SUM_ROWS if name.startswith("toy:") else None
    return make_table(foreign, TableChoices(held_out=0.0, max_rows=most))[0]


def trained(rows: Rows, seed: int) -> TrainedNetwork:
    """The network of ``train.py`` with its best weights, the validation rows being held out."""
    preparation = prepare(rows, seed)
    coordinates = preparation.coordinates(choose_space(preparation, Space(AUTO, AUTO)))
    model, loss = preparation.build(coordinates)
    held_out = preparation.held_out(coordinates, loss)
    assert held_out is not None
    watch = Validation(held_out, True, patience=15)
    recipe = preparation.recipe
    trainer, means = Trainer(model, loss, recipe), RunningMeans(torch.device("cpu"))
    batches = preparation.source(coordinates).batches(0)
    while trainer.step < recipe.steps and not watch.exhausted:
        trainer.train_step(next(batches), means)
        if recipe.is_reported(trainer.seen) or trainer.step == recipe.steps:
            watch.look(trainer.averaged, trainer.seen)
    watch.put_best(trainer.averaged)
    return trainer.averaged


def judged(model: TrainedNetwork, rows: Tensor, own: Tensor) -> Judgment:
    """Figures of rows that judge ``[N, D]``, beside those ``[M, D]`` that were fitted to."""
    flow = model.flow
    latents, distribution = flow.encode(rows), flow.latent
    squared = (latents.square() / distribution.variance).mean()
    p_value = latent_coverage(distribution.whiten(latents))["ks_p_value"]
    nats, own_nats = (float(flow.log_prob(part).mean()) for part in (rows, own))
    return Judgment(nats, own_nats, float(squared), p_value)


def compare(name: str, seed: int) -> dict[str, tuple[Judgment, Judgment]]:
    """By calibration, the figures without and with it."""
    rows, _ = split(read_table(name), seed)
    model, judges, found = trained(rows, seed), rows.test[:MOST_JUDGED], {}
    for fitted_to, points in (("held out", rows.validation), ("training", rows.train)):
        clean, own = model.flow.to_eigen(points[:MOST_CALIBRATED]), points[:MOST_JUDGED]
        model.denoiser.calibration = None
        without = judged(model, judges, own)
        for method in METHODS:
            model.denoiser.calibration = None
            fit = fit_calibration(model.denoiser, clean, node_times(model), seed, method)
            model.denoiser.calibration = fit
            found[f"{method}, {fitted_to}"] = (without, judged(model, judges, own))
    return found


def line(name: str, how: str, gain: str, own: str, figures: Sequence[Judgment]) -> str:
    """A row of a table in Markdown."""
    radius = cell([one.radius for one in figures])
    p_value = median(one.p_value for one in figures)
    return f"| {name} | {how} | {gain} | {own} | {radius} | {p_value:.2g} |"


def cell(values: Sequence[float]) -> str:
    """A mean and its standard error."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{error}"


@click.command(help=__doc__)
@click.option("--tables", default=DEFAULT, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
def main(tables: str, seeds: int) -> None:
    torch.set_num_threads(1)
    print("| table | calibration, fitted to | gain of nats | of own rows | squared radius | KS p |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in tables.split(","):
        found = [compare(name, seed) for seed in range(seeds)]
        for how in found[0]:
            pairs = [one[how] for one in found]
            if how == next(iter(found[0])):
                nats = f"({mean(before.nats for before, _ in pairs):.3f})"
                print(line(name, "none", nats, "", [before for before, _ in pairs]), flush=True)
            gain = cell([after.nats - before.nats for before, after in pairs])
            own = cell([after.own_nats - before.own_nats for before, after in pairs])
            print(line(name, how, gain, own, [after for _, after in pairs]), flush=True)


if __name__ == "__main__":
    main()
