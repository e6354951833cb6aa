"""Tests of raw data on their way to features: summary statistics and networks."""

import pytest
import torch
from torch import nn

from dnnlib.errors import UsageError
from training.data.tables.raw_shape import RawShape
from training.flow.coordinates.raw import RawScale, half_octaves
from training.networks.raw import RawEmbedding

SETS = RawShape("sets", (7, 2), varies=True)
SHAPES = [
    RawShape("series", (9, 2)),
    RawShape("series", (9, 2), varies=True),
    RawShape("images", (6, 5, 1)),
    SETS,
]


def fitted(raw):
    """Rows, their standardization, and a network of random weights in double precision."""
    torch.manual_seed(0)
    values = torch.randn(20, *raw.shape, dtype=torch.float64)
    if raw.varies:
        lengths = torch.arange(20)[:, None] % raw.shape[0] + 1
        values[torch.arange(raw.shape[0]) >= lengths] = torch.nan
    scale = RawScale(**raw.plain)
    scale.fit(values.flatten(1))
    network = RawEmbedding(**raw.plain, summaries=scale.width).double().eval()
    return values.flatten(1), scale, network


@pytest.mark.parametrize("raw", SHAPES, ids=str)
def test_features_depend_on_all_present_values_and_not_on_other_rows(raw):
    rows, scale, network = fitted(raw)
    inputs, moved = scale(rows), rows.clone().requires_grad_()
    present = ~rows.isnan()
    assert abs(inputs[:, : raw.size][present].mean()) < 1e-9
    assert scale.predictors(rows).mean(dim=0).abs().max() < 1e-9
    network(scale(moved)).square().sum().backward()
    assert torch.equal(moved.grad != 0, present)
    torch.testing.assert_close(scale(rows[3:4]), inputs[3:4], rtol=0, atol=1e-12)
    single, floats = network.float(), inputs.float()  # as in models
    assert torch.equal(single(floats), torch.cat([single(row[None]) for row in floats]))


def test_order_and_padding_of_a_set_change_nothing():
    rows, scale, network = fitted(SETS)
    shuffled = rows.view(-1, *SETS.shape)[:, torch.randperm(7)].flatten(1)
    torch.testing.assert_close(network(scale(shuffled)), network(scale(rows)), rtol=0, atol=1e-12)
    small, row = RawShape.of([rows[2, :6].view(3, 2)], "sets")
    assert torch.equal(network(scale(SETS.widened(row, small, ""))), network(scale(rows[2:3])))


@pytest.mark.parametrize("size", [(8,), (9,), (6, 5), (4, 8)])
def test_bands_of_half_octaves_average_the_power_of_all_waves(size):
    torch.manual_seed(0)
    field = torch.randn(*size, dtype=torch.float64)
    powers = torch.fft.rfftn(field).abs().square().flatten() @ half_octaves(size)
    # By the full transform, which contains each wave and its conjugate.
    lines = [torch.fft.fftfreq(n, 1 / max(size), dtype=torch.float64) for n in size]
    radius = sum(part.square() for part in torch.meshgrid(*lines, indexing="ij")).sqrt().flatten()
    whole = torch.fft.fftn(field).abs().square().flatten()
    band = (2 * radius.log2() + 1e-9).floor()
    wanted = [whole[band == at].mean() for at in band[radius > 0].unique()]
    torch.testing.assert_close(powers, torch.stack(wanted))


def test_networks_of_the_user_get_arrays_as_they_are_and_keep_no_statistics():
    raw, rows = RawShape("arrays", (2, 3)), torch.rand(5, 6, dtype=torch.float64)
    embedding = RawEmbedding(**raw.plain, learned=6, module=nn.Flatten()).eval()
    assert torch.equal(embedding(RawScale(**raw.plain)(rows)), rows)
    with pytest.raises(UsageError, match="BatchNorm1d keeps running statistics"):
        RawEmbedding(**raw.plain, learned=6, module=nn.BatchNorm1d(2))
