"""How denoisers are called: with their conditions, and in blocks of one shape."""

from math import ceil

import pytest
import torch
from torch import Tensor, nn

from training.data.toys import Toy
from training.flow.calls import BLOCK_ROWS, BlockwiseDenoiser, ConditionedDenoiser
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import InflationSchedule

T = torch.tensor(2.0, dtype=torch.float64)
Call = tuple[Tensor, Tensor, dict[str, Tensor]]


class Spy:
    """The sum of a point, its time and the first number of each condition; notes every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        self.calls.append((x.clone(), t, conditions))
        return x + t + sum(rows[:, :1] for rows in conditions.values())


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return torch.randn(11, 3, generator=generator, dtype=torch.float64)


def test_conditions_are_the_same_at_every_call(points: Tensor) -> None:
    spy, labels = Spy(), torch.arange(22.0).view(11, 2)
    denoiser = ConditionedDenoiser(spy, {"labels": labels})
    for t in (T, 2 * T):
        assert torch.equal(denoiser(points, t), points + t + labels[:, :1])
    assert [(float(t), set(conditions)) for _, t, conditions in spy.calls] == [
        (2.0, {"labels"}),
        (4.0, {"labels"}),
    ]


@pytest.mark.parametrize("rows", [1, 3, 10, 11, 12, 100])
def test_blocks_have_one_shape_and_give_what_one_call_gives(points: Tensor, rows: int) -> None:
    spy, labels = Spy(), torch.arange(22.0).view(11, 2)
    out = BlockwiseDenoiser(spy, rows)(points, T, labels=labels, more=10 * labels)
    assert torch.equal(out, points + T + 11 * labels[:, :1])
    assert len(spy.calls) == ceil(11 / rows)
    for x, t, conditions in spy.calls:
        assert x.shape == (rows, 3)
        assert {name: condition.shape for name, condition in conditions.items()} == {
            "labels": (rows, 2),
            "more": (rows, 2),
        }
        assert torch.equal(t, T)


def test_the_last_block_is_filled_up_with_zeros(points: Tensor) -> None:
    spy = Spy()
    BlockwiseDenoiser(spy, 4)(points, T, labels=torch.ones(11, 2))
    last, _, conditions = spy.calls[-1]
    assert torch.equal(last, torch.cat([points[8:], torch.zeros(1, 3)]))
    assert torch.equal(conditions["labels"], torch.tensor([[1.0] * 2] * 3 + [[0.0] * 2]))


def test_no_points_make_no_call() -> None:
    spy, none = Spy(), torch.zeros(0, 3, dtype=torch.float64)
    out = BlockwiseDenoiser(spy, 4)(none, T, labels=torch.zeros(0, 2))
    assert (out.shape, out.dtype) == ((0, 3), torch.float64)
    assert spy.calls == []


@torch.no_grad()
def test_a_row_has_the_same_bits_whatever_comes_with_it(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(192, 300), nn.SiLU(), nn.Linear(300, 192))
    points = torch.randn(40, 192, generator=generator)
    blocks = BlockwiseDenoiser(lambda x, t: network(x), 8)
    whole = blocks(points, T)
    for size in (1, 5, 8, 13):
        assert torch.equal(torch.cat([blocks(part, T) for part in points.split(size)]), whole)
    torch.testing.assert_close(network(points), whole)


def test_both_wrap_each_other(points: Tensor) -> None:
    spy, labels = Spy(), torch.arange(22.0).view(11, 2)
    denoiser = ConditionedDenoiser(BlockwiseDenoiser(spy, 4), {"labels": labels})
    assert torch.equal(denoiser(points, T), points + T + labels[:, :1])
    assert torch.equal(spy.calls[1][2]["labels"], labels[4:8])


def test_every_type_of_device_has_a_size_of_block() -> None:
    assert set(BLOCK_ROWS) == {"cpu", "cuda"}
    assert min(BLOCK_ROWS.values()) >= 1


@pytest.mark.parametrize("rows", [1, 3, 10, 11, 12, 100])
def test_blocks_give_each_point_its_own_time(points: Tensor, rows: int) -> None:
    spy, t = Spy(), torch.linspace(1, 2, 11, dtype=torch.float64)
    labels = torch.arange(22.0).view(11, 2)

    def denoiser(x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        return spy(x, t[:, None], **conditions)

    out = BlockwiseDenoiser(denoiser, rows)(points, t, labels=labels)
    assert torch.equal(out, points + t[:, None] + labels[:, :1])
    for x, times, _ in spy.calls:
        assert (len(x), times.shape) == (rows, (rows, 1))
        # What fills the last block up has a time of the block too: a schedule need not have 0.
        assert (times >= 1).all()


@torch.no_grad()
def test_blocks_of_an_exact_denoiser_at_times_of_their_own(points: Tensor) -> None:
    toy = Toy("circles")
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = InflationSchedule.to_dimension(1, 2)
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    t = torch.linspace(0, 4, 11, dtype=torch.float64)
    found = BlockwiseDenoiser(exact, 4)(points[:, :2], t)
    for row in range(11):
        alone = exact(points[[row], :2], t[row])
        torch.testing.assert_close(found[[row]], alone, rtol=1e-12, atol=1e-12)
