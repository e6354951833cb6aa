"""Questions that are drawn for a training, and the mixture that it starts from."""

from itertools import islice

import pytest
import torch

from torch_utils.seeds import seeded_generator
from training.learning import mixture_start
from training.learning.mixture_start import completed, fit_mixture
from training.learning.questions import OneQuestion, QuestionBatches, draw_states
from training.model.questions import EncodedRows
from training.networks.questions import ABSENT, ASKED, KNOWN

GENERATOR = seeded_generator("cpu", 3)


@pytest.fixture(autouse=True)
def _start_over() -> None:
    GENERATOR.manual_seed(3)


def test_what_is_missing_is_neither_asked_nor_known() -> None:
    present = torch.rand(5000, 6, generator=GENERATOR) > 0.3
    states = draw_states(present, GENERATOR)
    assert bool((states[~present] == ABSENT).all())
    asked = (states == ASKED).sum(dim=1)
    single = float((asked == 1).double().mean())
    assert 0.4 < single < 0.65, "near half of the questions are about one cell"
    assert bool(((states == KNOWN).sum(dim=1)[asked == 1] > 2).any())
    half = draw_states(present, GENERATOR, OneQuestion([2], 0.5))
    alone = (half == ASKED).sum(dim=1) == (half[:, 2] == ASKED).long()
    rest = torch.arange(6) != 2
    own = alone & (half[:, rest] == torch.where(present[:, rest], KNOWN, ABSENT)).all(dim=1)
    assert 0.5 < float(own.double().mean()) < 0.65, "half of the questions, and some by chance"


def test_to_be_absent_says_nothing_though_what_is_missing_does() -> None:
    """The second number is missing where the first is large, but what is asked is of all rows."""
    first = torch.randn(4000, 1, generator=GENERATOR, dtype=torch.float64)
    rows = torch.cat([first, first + 0.5 * torch.randn(first.shape, generator=GENERATOR)], dim=1)
    rows[(rows[:, 0] > 0.3) & (torch.rand(4000, generator=GENERATOR) < 0.9), 1] = torch.nan
    known = EncodedRows(rows, torch.zeros(4000, 0, dtype=torch.long))
    mixture, _ = fit_mixture(known, known.at(slice(0, 0)), [], seed=0)

    def complete(cells: EncodedRows, generator: torch.Generator) -> EncodedRows:
        return completed(mixture, cells, [], generator)

    source = QuestionBatches(lambda _: known, known, [], 4000, 0, None, complete)
    batches = list(islice(source.batches(0), 8))
    points = torch.cat([batch.points for batch in batches])
    states = torch.cat([batch.labels[:, 2:4] for batch in batches if batch.labels is not None])
    for asked in (0, 1):
        alone = (states[:, asked] == ASKED) & (states[:, 1 - asked] == ABSENT)
        assert abs(float(points[alone, asked].mean())) < 0.12
    both = (states == ASKED).all(dim=1)
    assert float(points[both].mean(dim=0).abs().max()) < 0.1


def test_a_mixture_is_right_where_cells_are_missing_given_others() -> None:
    """Rows lose their second number where the first is large: means of what is left are off."""
    count = 8000
    first = torch.randn(count, generator=GENERATOR, dtype=torch.float64)
    noise = torch.randn(count, generator=GENERATOR, dtype=torch.float64)
    second = 0.8 * first + 0.6 * noise
    second[first > 0.3] = torch.nan
    level = (first + 0.5 * noise > 0).long()
    rows = EncodedRows(torch.stack([first, second], dim=1), level[:, None])
    none = rows.at(slice(0, 0))
    mixture, _ = fit_mixture(rows, none, [2], seed=0)
    assert abs(float(rows.numbers[:, 1].nanmean())) > 0.2
    assert mixture.weights[0] > 0.9
    assert abs(float(mixture.covariances[0, 0, 1]) - 0.8) < 0.05
    assert abs(float(mixture.shares[0, 1]) - 0.5) < 0.03


def test_as_many_components_as_held_out_rows_want() -> None:
    centers = torch.tensor([[-1.2, -1.2], [1.2, 1.2], [-1.2, 1.2]], dtype=torch.float64)
    which = torch.randint(3, (6000,), generator=GENERATOR)
    numbers = centers[which] + 0.3 * torch.randn(6000, 2, generator=GENERATOR).double()
    rows = EncodedRows(numbers, torch.zeros(6000, 0, dtype=torch.long))
    mixture, nats = fit_mixture(rows.at(slice(0, 5000)), rows.at(slice(5000, None)), [], seed=0)
    assert len(mixture.weights) in (4, 5), "three, perhaps one more, and the wide one"
    entropy = torch.log(torch.tensor(3.0)) + 2 * torch.log(torch.tensor(0.3)) + 1 + 1.8379
    assert abs(nats + float(entropy)) < 0.06


def test_whole_rows_are_fitted_as_rows_with_holes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """By sums of products, or cell by cell."""
    which = torch.randint(3, (600,), generator=GENERATOR)
    numbers = which[:, None] + torch.randn(600, 3, generator=GENERATOR, dtype=torch.float64)
    rows = EncodedRows(numbers, which[:, None] % 2)
    parts, fits = (rows.at(slice(0, 500)), rows.at(slice(500, 600))), []
    for most in (mixture_start.MOST_NUMBERS, 0):
        monkeypatch.setattr(mixture_start, "MOST_NUMBERS", most)
        fits.append(fit_mixture(*parts, [2], seed=0))
    (mixture, score), (other, of_other) = fits
    assert len(mixture.weights) > 2
    torch.testing.assert_close([*mixture, score], [*other, of_other], atol=1e-8, rtol=0)
