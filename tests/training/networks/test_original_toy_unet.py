"""The original's toy network against the same computation written out layer by layer."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import seeded
from tests.support.original_files import randomized
from training.networks.original_toy_unet import OriginalToyConvUNet

CHANNELS = (32, 64, 32, 96)


def written_out(weights: dict[str, Tensor], z: Tensor, c_noise: Tensor) -> Tensor:
    """From the tensors alone: resampling by windows, four levels by hand."""

    def apply(layer: str, x: Tensor) -> Tensor:
        return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

    def embed(name: str) -> Tensor:
        phase = 2 * torch.pi * c_noise[:, None] * weights[f"{name}.0.frequencies"]
        h = apply(f"{name}.1", torch.cat([phase.sin(), phase.cos()], dim=1))
        return h / (1 + (-h).exp())

    def down(x: Tensor, stride: int) -> Tensor:
        return x.unfold(2, 2, stride).unfold(3, 2, stride).mean(dim=(-1, -2))

    def up(x: Tensor, stride: int) -> Tensor:
        size = stride * (x.shape[-1] - 1) + 2
        out = x.new_zeros(*x.shape[:2], size, size)
        for i, j in product(range(x.shape[-1]), repeat=2):
            rows, columns = (slice(stride * k, stride * k + 2) for k in (i, j))
            out[..., rows, columns] += x[..., i, j][..., None, None]
        return out

    def block(name: str, x: Tensor, groups: int) -> Tensor:
        h = F.conv2d(x, weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"], padding=1)
        h = h + apply(f"{name}.modulation", conv_embedding)[:, :, None, None]
        scale, shift = weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        return F.silu(F.group_norm(h, groups, scale, shift, eps=1e-5))

    layer_embedding, conv_embedding = embed("layer_embedding"), embed("block_embedding")

    def layer(name: str, h: Tensor) -> Tensor:
        return apply(f"{name}.linear", h) + apply(f"{name}.modulation", layer_embedding)

    h = z
    for index in range(4):
        h = F.silu(layer(f"lift.{index}", h))
    image = h.reshape(-1, 1, 8, 8)
    at7 = block("down.0", down(image, 1), 4)
    at6 = block("down.1", down(at7, 1), 32)
    at5 = block("down.2", down(at6, 1), 32)
    at2 = block("down.3", down(at5, 2), 32)
    assert at2.shape[1:] == (CHANNELS[3], 2, 2)
    x = block("up.0", up(at2, 3), 32)
    x = block("up.1", up(torch.cat([x, at5], dim=1), 1), 32)
    x = block("up.2", up(torch.cat([x, at6], dim=1), 1), 32)
    x = block("up.3", up(torch.cat([x, at7], dim=1), 1), 1)
    h = layer("lower.0", x.reshape(-1, 64))
    h = F.silu(layer("lower.1", h))
    h = F.silu(layer("lower.2", h))
    return apply("last", h)


@pytest.mark.parametrize("dim", [2, 3])
def test_it_is_what_it_says(dim: int) -> None:
    network = randomized(OriginalToyConvUNet(dim, channels=CHANNELS, block_embedding_dim=16))
    z = torch.randn(5, dim, generator=seeded(1))
    c_noise = torch.linspace(0, 30, 5)
    with torch.no_grad():
        known = written_out(dict(network.state_dict()), z, c_noise)
        torch.testing.assert_close(network(z, c_noise), known, rtol=1e-4, atol=1e-5)
        one_time = network(z, c_noise[2])
    torch.testing.assert_close(one_time[2], known[2], rtol=1e-4, atol=1e-5)


def test_sizes_that_make_no_image_are_refused() -> None:
    for sizes in ({"widths": (4, 32)}, {"widths": (64,)}, {"widths": ()}, {"channels": (32, 32)}):
        with pytest.raises(UsageError, match="must be two or more up to 64"):
            OriginalToyConvUNet(2, **sizes)
