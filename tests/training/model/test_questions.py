"""Any question: an untrained network is the mixture that it starts from, given what is known."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from torch_utils.seeds import seeded_generator
from training.data.records.records import NUMBER, RecordColumn, Records
from training.flow.eigenbasis import EigenBasis
from training.flow.solvers import get_solver
from training.learning.building import Choices
from training.model.questions import EncodedRows, QuestionFlow
from training.names import LOG
from training.networks.questions import ABSENT, ASKED, EXACT, KNOWN
from training.subjects.record_spaces import choose_space

DIM, COUNTS = 4, [3, 2]
GENERATOR = seeded_generator("cpu", 7)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


ROOTS = 0.4 * drawn(2, DIM, DIM) + 0.7 * torch.eye(DIM)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS, COVARIANCES = 0.8 * drawn(2, DIM), ROOTS @ ROOTS.mT / 2
SHARES = torch.tensor([[0.6, 0.3, 0.1, 0.2, 0.8], [0.1, 0.2, 0.7, 0.5, 0.5]], dtype=torch.float64)


def untrained() -> QuestionFlow:
    arguments = {"level_counts": COUNTS, "width": 16, "depth": 1, "components": 2}
    choices = Choices("ifs", {"gamma0": 1e-4}, "questions", arguments, "ES", "log", t_max=20.7)
    ones = torch.ones(DIM, dtype=torch.float64)
    model, _ = choices.build(EigenBasis(0 * ones, ones, ones.diag()))
    network = model.denoiser.eval().requires_grad_(False).network
    network.hold_mixture(WEIGHTS, MEANS, COVARIANCES, SHARES, 100 * ones)
    return QuestionFlow(model.flow, network, model.flow.times(40), get_solver("exp_rk5"))


def rows(count: int) -> tuple[EncodedRows, Tensor]:
    """Rows, and states of a question about each."""
    which = torch.randint(2, (count,), generator=GENERATOR)
    noise = (torch.linalg.cholesky(COVARIANCES)[which] @ drawn(count, DIM, 1))[..., 0]
    levels = [torch.randint(number, (count,), generator=GENERATOR) for number in COUNTS]
    states = torch.randint(-1, 2, (count, DIM + len(COUNTS)), generator=GENERATOR)
    return EncodedRows(MEANS[which] + noise, torch.stack(levels, dim=1)), states


def log_mixture(row: Tensor, levels: Tensor, states: Tensor, least: int) -> Tensor:
    """Log density ``[]`` of cells of one row whose state is at least this, under the mixture."""
    total = WEIGHTS.log()
    which, level_which = (states >= least).split([DIM, len(COUNTS)])
    at = which.nonzero()[:, 0]
    if len(at):
        noise = torch.where(states[at] == ASKED, 1e-4, EXACT)  # of the first time, or of known ones
        covariances = COVARIANCES[:, at][:, :, at] + noise.diag()
        total = total + MultivariateNormal(MEANS[:, at], covariances).log_prob(row[at])
    for place, first in enumerate((0, COUNTS[0])):
        if level_which[place]:
            total = total + SHARES[:, first + levels[place]].log()
    return total.logsumexp(dim=0)


def test_densities_are_those_of_the_mixture_given_what_is_known() -> None:
    flow, (cells, states) = untrained(), rows(40)
    of_numbers, of_levels = flow.log_prob(cells, states)
    for at in range(len(cells)):
        number, level = cells.numbers[at], cells.levels[at]
        joint = log_mixture(number, level, states[at], ASKED)
        given = log_mixture(number, level, states[at], KNOWN)
        assert abs(of_numbers[at] + of_levels[at] - (joint - given)) < 0.02


def test_absent_cells_and_other_rows_change_nothing() -> None:
    flow, (cells, states) = untrained(), rows(3)
    of_numbers, of_levels = flow.log_prob(cells, states)
    numbers = cells.numbers.clone()
    numbers[states[:, :DIM] == ABSENT] = torch.nan
    levels = cells.levels.masked_fill(states[:, DIM:] == ABSENT, -1)
    alone = [
        flow.log_prob(EncodedRows(numbers[at : at + 1], levels[at : at + 1]), states[at : at + 1])
        for at in range(3)
    ]
    assert_close(torch.cat([pair[0] for pair in alone]), of_numbers, atol=1e-4, rtol=0)
    assert_close(torch.cat([pair[1] for pair in alone]), of_levels, atol=1e-6, rtol=0)


def test_quantiles_ranks_and_draws_of_a_number_agree() -> None:
    flow, (cells, _) = untrained(), rows(1)
    many = cells.at(torch.zeros(4000, dtype=torch.long))
    states = torch.tensor([[KNOWN, ASKED, ABSENT, KNOWN, KNOWN, ABSENT]]).repeat(4000, 1)
    levels = torch.tensor([0.05, 0.5, 0.95])
    quantiles = flow.quantiles(many.at(slice(0, 1)), states[:1], 1, levels)[0]
    drawn_rows = flow.draws(many, states, seeded_generator("cpu", 1))
    below = (drawn_rows.numbers[:, 1, None] < quantiles).double().mean(dim=0)
    assert (below - levels).abs().max() < 0.02
    numbers = many.numbers[:3].clone()
    numbers[:, 1] = quantiles
    ranks = flow.ranks(EncodedRows(numbers, many.levels[:3]), states[:3], 1)
    assert_close(ranks, levels.double(), atol=1e-3, rtol=0)
    assert_close(drawn_rows.numbers[:, 0], many.numbers[:, 0])
    assert bool(drawn_rows.numbers[:, 2].isnan().all() & (drawn_rows.levels[:, 1] == -1).all())


def test_a_number_without_a_place_in_the_flow_is_impossible_and_no_error() -> None:
    """Counts over decades have logarithms, unless a row that is held out has a 0."""
    values = np.exp(3 * np.random.default_rng(0).normal(size=(400, 1))).round(3) + 0.001
    held_out = np.arange(400) % 10 == 0
    records = Records([RecordColumn("dose", NUMBER)], values, held_out)
    chosen = choose_space(records, 0)
    assert chosen.marginals == LOG
    rows = np.array([[0.0], [1.0], [-2.0]])
    assert chosen.space.impossible(rows)[:, 0].tolist() == [True, False, True]
    assert chosen.space.encoded(rows).numbers[[0, 2], 0].tolist() == pytest.approx([-6, -6])
    values[0] = 0
    chosen = choose_space(records, 0)
    assert chosen.marginals != LOG
    assert not chosen.space.impossible(values).any()
