"""Embeddings of conditions: of numbers, a series, and images."""

from math import prod

import pytest
import torch

from tests.support.draws import seeded
from training.networks.mlp import FEATURES, ConditionEmbedding


@pytest.mark.parametrize("shape", [(100,), (2, 37), (1, 3, 3), (3, 9, 5)])
def test_features_of_a_point_depend_on_all_its_conditions_and_on_no_others(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    embedding = ConditionEmbedding(shape)
    conditions = torch.randn(4, prod(shape), generator=seeded(1), requires_grad=True)
    features = embedding(conditions)
    assert features.shape == (4, FEATURES)
    [slopes] = torch.autograd.grad(features[1].square().sum(), conditions)
    assert (slopes[1] != 0).all()
    assert (slopes[[0, 2, 3]] == 0).all()
    # As many numbers for a large image as for a small one.
    assert sum(parameter.numel() for parameter in embedding.parameters()) < 40_000
