"""Rows among their neighbors: what is said of a new one is what is said of all."""

import numpy as np
import torch
from scipy.stats import norm

from training.measure.neighbors import NONE, Neighbors


def test_the_new_row_counts_as_a_neighbor_of_the_others() -> None:
    draw = np.random.default_rng(0)
    known, new = (torch.from_numpy(draw.normal(size=(n, 2))) for n in (30, 7))
    of_known, of_new = Neighbors.of(known, 4).relative(new)
    for row, (others, own) in enumerate(zip(of_known, of_new, strict=True)):
        every = torch.cat([known, new[row : row + 1]])
        apart = torch.cdist(every, every).fill_diagonal_(torch.inf).topk(4, largest=False)
        mean = apart.values.mean(dim=1)
        expected = (mean + NONE) / (mean[apart.indices].mean(dim=1) + NONE)
        torch.testing.assert_close(torch.cat([others, own[None]]), expected)


def test_levels_of_neighbors_hold_on_average_for_few_truths_whatever_the_network_is_worth() -> None:
    """A posterior is too narrow by a factor that grows with the one condition."""
    draw = np.random.default_rng(3)

    def made(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = draw.beta(1, 2, size=count)
        scores = 2 * norm.cdf(np.abs(draw.normal(size=count)) * (1 + 4 * y)) - 1
        return torch.from_numpy(y)[:, None], torch.from_numpy(scores)[:, None]

    for truths, count, repetitions in ((30, 10, 300), (1000, 100, 1)):
        held, wide = [], []
        for _ in range(repetitions):
            (y, scores), (fresh, new) = made(truths), made(3000 // repetitions)
            contents, _ = Neighbors.of(y, count).asked(scores, fresh, (0.5, 0.9))
            held.append((new[:, None] <= contents)[..., 0].double().mean(dim=0))
            wide.append((new <= contents[:, 1])[fresh > 0.6])
        mean, error = torch.stack(held).mean(dim=0), 0.03 if repetitions == 1 else 0.02
        assert (mean > torch.tensor([0.5, 0.9]) - error).all()
        assert (mean < torch.tensor([0.5, 0.9]) + 2 / count + error).all()
    assert abs(float(torch.cat(wide).double().mean()) - 0.9) < 0.05
