"""Seeds as a function of their keys: repeatable, and different for different keys."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torch_utils.seeds import hash_seed, seeded_generator

keys = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6).map(tuple)


@given(one=keys, other=keys)
def test_a_seed_follows_from_its_keys_their_order_and_number(
    one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    assert 0 <= hash_seed(*one) < 2**63
    torch.Generator().manual_seed(hash_seed(*one))
    assert (hash_seed(*one) == hash_seed(*other)) == (one == other)
    assert hash_seed(*one) != hash_seed(*one, 0)


def test_different_keys_give_different_seeds() -> None:
    for length, side in ((1, 10_000), (2, 100), (3, 22)):
        seeds = {hash_seed(*keys) for keys in product(range(side), repeat=length)}
        assert len(seeds) == side**length
    # Words of 32 bits do not run into each other.
    for one, other in (((2**32,), (0, 1)), ((2**33 + 3, 0, 9), (3, 2, 0, 9))):
        assert hash_seed(*one) != hash_seed(*other)
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
    before = torch.get_rng_state()
    generator = seeded_generator(torch.device("cpu"), 1)
    torch.rand(5, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert generator.device == torch.device("cpu")
