import pytest
import torch
import torch.nn.functional as F

from torch_utils import linear as module
from torch_utils.linear import Linear, linear


@pytest.mark.skipif(module.onednn() is None, reason="here PyTorch's own products are as fast")
def test_products_and_their_gradients_are_those_of_pytorch(monkeypatch):
    calls, one = [], module.onednn()
    monkeypatch.setattr(module, "onednn", lambda: lambda *given: calls.append(1) or one(*given))
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 256, 40), (64, 40), (64,)
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]

    def results(product, given):
        out = product(*given).sin()
        slopes = torch.autograd.grad(out.square().sum(), given, create_graph=True)
        further = torch.autograd.grad(slopes[0].square().sum(), given[:2])
        apart = torch.stack([given[2], 0 * given[2]], dim=1)[:, 0]
        return [out, *slopes, *further, product(*given[:2]), product(*given[:2], apart)]

    exact = results(F.linear, [value.detach().double().requires_grad_() for value in given])
    for ours, right in zip(results(linear, given), exact, strict=True):
        torch.testing.assert_close(
            ours.double(), right, rtol=1e-5, atol=1e-4 * float(right.detach().std())
        )
    assert len(calls) > 5


def test_what_is_not_for_it_is_left_to_pytorch():
    for dtype, rows in ((torch.float64, 4096), (torch.float32, 0), (torch.float32, 3)):
        layer = Linear(32, 16).to(dtype)
        values = torch.ones(rows, 32, dtype=dtype)
        assert torch.equal(layer(values), F.linear(values, layer.weight, layer.bias))
