"""Which conditions of a table tell something: the others are noise that a network has to learn to
leave out of account, and of few rows it learns them by heart instead."""

import torch

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.table import Rows
from training.measure.dependence import independence_p_values

MOST_ROWS = 2000
"""Drawn at random of more: their n² distances take a twentieth of a second for each condition, and
a correlation of 0.1 has a p-value of 1e-5."""
FALSE_SHARE = 0.05
"""Of conditions that are found to tell something, those that tell nothing, in the mean."""


def relevant_conditions(rows: Rows, seed: int) -> list[int]:
    """Places of the conditions that some column depends on; empty if they are all, or none is seen.

    Each condition is screened by itself, by its distance correlation with each column (Fan and Lv
    2008, "Sure independence screening"; Li, Zhong and Zhu 2012, "Feature screening via distance
    correlation learning"); the false discovery rate is that of Benjamini and Hochberg (1995). What
    tells something only together with another is not found.

    Args:
        rows: Of the training.
        seed: Of which rows are taken.
    """
    assert rows.conditions is not None
    if len(rows) > MOST_ROWS:
        generator = seeded_generator("cpu", seed, Stream.SCREENING)
        rows = rows.at(torch.randperm(len(rows), generator=generator)[:MOST_ROWS])
    assert rows.conditions is not None
    each = independence_p_values(rows.points, rows.conditions)
    least = (each.min(dim=1).values * each.shape[1]).clamp_max(1)
    if least.max() <= FALSE_SHARE:
        return []  # the procedure finds all then
    from scipy.stats import false_discovery_control  # takes most of a second to import

    telling = false_discovery_control(least.numpy()) <= FALSE_SHARE
    return [] if telling.all() else telling.nonzero()[0].tolist()
