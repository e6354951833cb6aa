"""Fit of the scale of a trained posterior's errors to simulations; see ``training.flow.widths``."""

import torch

from dnnlib.logs import logger
from training.data.tables.table import DataTable
from training.flow.widths import Widths
from training.inference.amortized import Amortized
from training.model.trained_network import TrainedNetwork
from training.names import MOST_DEBLURRED
from training.subjects.tables import TableFlow

SIMULATIONS, DRAWS = 2000, 100
"""Largest number of simulations for fitting widths, and of posterior draws for each.

Held-out simulations come first. With 100 draws, the error of a standard deviation is 7 %.
"""
FEWEST = 200
"""Smallest number of simulations for fitting widths."""


def fit_widths(table: DataTable, seed: int, model: TrainedNetwork) -> None:
    """Fit the error scale (widths) of a model of parameters given data; store it in the model.

    Args:
        table: Simulations that trained the model.
        seed: Random seed of the draws.
        model: Trained model.
    """
    held_out, order = table.held_out, torch.arange(len(table))
    chosen = torch.cat([order[held_out], order[~held_out]])[:SIMULATIONS]
    if len(chosen) < FEWEST or table.conditions is None or table.dim > MOST_DEBLURRED:
        return
    subject = TableFlow.of(model, {})
    device = subject.flow.device
    posterior = Amortized(
        subject.sharpened(subject.neural_posterior()),
        table.conditions[chosen].to(device),
        subject.amortized_block(device),
        chains=1,
        draws=DRAWS,
        seed=seed,
        fewer=True,
    )
    points = posterior.sample(torch.arange(len(chosen))).points[:, 0].cpu()
    mean, std, trained = points.mean(dim=1), points.std(dim=1), ~held_out[chosen]
    model.widths = Widths(table.dim).fit(mean, std, table.points[chosen], trained)
    logger.info(f"Fitted the scale of posterior errors to {len(chosen)} simulations")
