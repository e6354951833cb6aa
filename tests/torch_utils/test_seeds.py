"""Seeds as a function of their keys: repeatable, and different for different keys."""

from itertools import permutations, product

import pytest
import torch

from torch_utils.seeds import hash_seed, seeded_generator


def test_a_seed_is_the_same_every_time() -> None:
    assert hash_seed(1, 2, 3) == hash_seed(1, 2, 3)


@pytest.mark.parametrize("keys", [(0,), (2**63 - 1, 5), (1, 2, 3, 4, 5, 6)])
def test_a_seed_is_one_that_torch_takes(keys: tuple[int, ...]) -> None:
    assert 0 <= hash_seed(*keys) < 2**63
    torch.Generator().manual_seed(hash_seed(*keys))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_different_keys_give_different_seeds(length: int) -> None:
    side = {1: 10_000, 2: 100, 3: 22}[length]
    seeds = {hash_seed(*keys) for keys in product(range(side), repeat=length)}
    assert len(seeds) == side**length


def test_the_order_of_keys_matters() -> None:
    assert len({hash_seed(*keys) for keys in permutations((1, 2, 3, 4))}) == 24


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((5,), (5, 0)),
        ((5, 0), (5, 0, 0)),
        ((2**32,), (0, 1)),
        ((2**32, 7), (0, 1, 7)),
        ((2**33 + 3, 0, 9), (3, 2, 0, 9)),
    ],
)
def test_keys_do_not_run_into_each_other(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert hash_seed(*one) != hash_seed(*other)


def test_negative_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"non-negative|>= 0|negative"):
        hash_seed(-1)


def test_generators_of_the_same_keys_draw_the_same() -> None:
    one, same, other = (
        torch.randn(100, generator=seeded_generator("cpu", *keys))
        for keys in ((1, 2), (1, 2), (2, 1))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.5


def test_generators_do_not_touch_the_global_one() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    torch.rand(5, generator=seeded_generator("cpu", 1))
    assert torch.equal(torch.rand(2), expected)


def test_the_device_is_the_one_asked_for() -> None:
    assert seeded_generator(torch.device("cpu"), 1).device == torch.device("cpu")
