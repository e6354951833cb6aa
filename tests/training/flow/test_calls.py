"""How denoisers are called: with their conditions, and in blocks of one shape."""

from math import ceil

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import random_basis
from training.flow.calls import BlockwiseDenoiser, ConditionedDenoiser
from training.flow.denoisers import NetworkDenoiser
from training.flow.schedules import InflationSchedule
from training.networks.mlp import ToyMLP

T = double(2.0)
Call = tuple[Tensor, Tensor, dict[str, Tensor]]


class Spy:
    """The sum of a point, its time and the first number of each condition; notes every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        self.calls.append((x.clone(), t, conditions))
        return x + t + sum(rows[:, :1] for rows in conditions.values())


@pytest.fixture
def points() -> Tensor:
    return normal(11, 3)


@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_blocks_have_one_shape_and_give_what_one_call_gives(points: Tensor, rows: int) -> None:
    labels = torch.arange(22.0).view(11, 2)
    # One time for all, or one for each point.
    for t in (T, torch.linspace(1, 2, 11, dtype=torch.float64)):
        spy = Spy()

        def denoiser(x: Tensor, t: Tensor, spy: Spy = spy, **conditions: Tensor) -> Tensor:
            return spy(x, t[..., None], **conditions)

        out = BlockwiseDenoiser(denoiser, rows)(points, t, labels=labels, more=10 * labels)
        assert torch.equal(out, points + t[..., None] + 11 * labels[:, :1])
        assert len(spy.calls) == ceil(11 / rows)
        for x, times, conditions in spy.calls:
            assert x.shape == (rows, 3)
            shapes = {name: condition.shape for name, condition in conditions.items()}
            assert shapes == {"labels": (rows, 2), "more": (rows, 2)}
            assert times.shape == (*(rows,) * t.ndim, 1)
            # What fills the last block up has a time of the block: a schedule need not have 0.
            assert (times >= 1).all()
        if rows == 4:
            last, _, conditions = spy.calls[-1]
            assert torch.equal(last, torch.cat([points[8:], torch.zeros(1, 3)]))
            assert torch.equal(conditions["labels"], torch.cat([labels[8:], torch.zeros(1, 2)]))


@pytest.mark.parametrize("rows", [None, 4, 100])
@pytest.mark.parametrize("given", [1, 11])
def test_conditions_are_embedded_once_for_all_calls(points: Tensor, rows: int, given: int) -> None:
    network = ToyMLP(3, (-4.0, 4.0), label_dim=12, condition_shape=(2, 6)).eval()
    nn.init.normal_(network.output.weight)
    embedded: list[int] = []
    network.embedding.register_forward_hook(lambda *_: embedded.append(1))
    denoiser = NetworkDenoiser(network, random_basis(3), InflationSchedule.to_dimension(3, 3))
    labels = normal(given, 12, seed=3)
    expected = [denoiser(points, t, labels=labels.expand(11, -1)) for t in (T, 2 * T)]
    embedded.clear()
    calls = ConditionedDenoiser(
        BlockwiseDenoiser(denoiser, rows) if rows else denoiser, {"labels": labels}
    )
    for t, right in zip((T, 2 * T), expected, strict=True):
        torch.testing.assert_close(calls(points, t), right, rtol=0, atol=1e-6)
    assert len(embedded) == (ceil(given / rows) if rows else 1)


def test_no_points_make_no_call() -> None:
    spy, none = Spy(), torch.zeros(0, 3, dtype=torch.float64)
    out = BlockwiseDenoiser(spy, 4)(none, T, labels=torch.zeros(0, 2))
    assert (out.shape, out.dtype) == ((0, 3), torch.float64)
    assert spy.calls == []


@torch.no_grad()
def test_a_row_has_the_same_bits_whatever_comes_with_it() -> None:
    network = nn.Sequential(nn.Linear(192, 300), nn.SiLU(), nn.Linear(300, 192))
    points = torch.randn(40, 192, generator=seeded())
    blocks = BlockwiseDenoiser(lambda x, t: network(x), 8)
    whole = blocks(points, T)
    for size in (1, 5, 8, 13):
        assert torch.equal(torch.cat([blocks(part, T) for part in points.split(size)]), whole)
    torch.testing.assert_close(network(points), whole)


def test_conditions_are_the_same_at_every_call_also_in_blocks(points: Tensor) -> None:
    spy, labels = Spy(), torch.arange(22.0).view(11, 2)
    for inner in (spy, BlockwiseDenoiser(spy, 4)):
        denoiser = ConditionedDenoiser(inner, {"labels": labels})
        for t in (T, 2 * T):
            assert torch.equal(denoiser(points, t), points + t + labels[:, :1])
    assert [len(conditions["labels"]) for _, _, conditions in spy.calls] == [11] * 2 + [4] * 6
    assert torch.equal(spy.calls[3][2]["labels"], labels[4:8])
