"""The network that answers questions, against autograd."""

import pytest
import torch
from torch import Tensor

from training.networks.questions import QuestionNetwork


@pytest.mark.parametrize("condition", [-1.0, 0.0, 1.1])
def test_traces_are_those_of_the_jacobian(condition: float) -> None:
    torch.manual_seed(0)
    at = torch.tensor(condition, dtype=torch.float64)
    dim, components, rows = 5, 4, 64
    network = QuestionNetwork(dim, (-1.15, 1.15), [2, 3], width=32, depth=3, components=components)
    network = network.double().eval()
    factor = torch.randn(components, dim, dim, dtype=torch.float64)
    network.covariances = factor @ factor.mT / dim + 0.1 * torch.eye(dim)
    network.means = torch.randn(components, dim, dtype=torch.float64)
    for weight in network.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    labels = torch.randint(-1, 2, (rows, network.question_dim)).double()
    labels[:, :dim] = torch.randn(rows, dim)
    z, factors = torch.randn(rows, dim, dtype=torch.float64), torch.rand(dim).double()

    def total(z: Tensor) -> Tensor:
        return network(z, at, labels).sum(dim=0)

    out, trace = network.with_trace(z, at, factors.diag(), labels)
    exact = torch.einsum("ibi,i->b", torch.autograd.functional.jacobian(total, z), factors)
    torch.testing.assert_close(trace, exact, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(out, network(z, at, labels))
