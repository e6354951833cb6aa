"""Toys of the original code: which of ours they are, and networks of them in our coordinates."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError
from tests.support import original_files as files
from tests.support.draws import seeded
from tests.support.refusals import refusal
from training.data.toys import Toy
from training.model.model import Model
from training.networks import NETWORKS
from training.networks.original_toy_unet import OriginalToySongUNet
from training.original.flow import original_embedding
from training.original.model import Imported, import_original

SIZES = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.13}
N = 5


@pytest.fixture
def imported(tmp_path: Path) -> Any:
    def imported(content: Any, **options: Any) -> Imported:
        path = tmp_path / "original.pkl"
        path.write_bytes(files.dumps(content))
        return import_original(path, **options)

    return imported


def embedded(points: Tensor) -> Tensor:
    """Points as the original embeds them in N dimensions."""
    return points @ original_embedding(N, points.shape[1]).T


@pytest.mark.parametrize("name", ["alt_s_curve", "alt_swirl"])
def test_a_toy_that_was_not_scaled_is_not_taken_for_one_that_was(
    imported: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    content = files.toy_content(name, points=files.toy_points(f"unscaled_{name}"))
    with caplog.at_level(logging.INFO):
        model = imported(content, data_name=name).model
    assert model.about["data_name"] == f"unscaled_{name}"
    assert f"is unscaled_{name} here" in caplog.text
    assert imported(files.toy_content(name)).model.about["data_name"] == name
    content = files.toy_content(name, points=1.5 * files.toy_points(name))
    told = rf"are 2\.\d+, [12]\.\d+, 0\.5.* here .*, 0\.25 of {name} and"
    with pytest.raises(DataError, match=told):
        imported(content)


def test_the_original_makes_columns_orthonormal_one_after_the_other() -> None:
    gaussian = np.random.RandomState(42).randn(7, 3)
    for column in range(3):
        for before in range(column):
            gaussian[:, column] -= gaussian[:, column] @ gaussian[:, before] * gaussian[:, before]
        gaussian[:, column] /= np.linalg.norm(gaussian[:, column])
    np.testing.assert_allclose(original_embedding(7, 3), gaussian, atol=1e-14)


@pytest.mark.parametrize("name", ["circles", "moons", "s_curve"])
@pytest.mark.parametrize("space", ["ES", "IS"])
def test_networks_of_embedded_toys_denoise_our_own(imported: Any, name: str, space: str) -> None:
    content = files.toy_content(name, space, points=embedded(files.toy_points(name)))
    content["dataset_kwargs"]["augment_to"] = N
    model = imported(content).model
    assert (model.about["augment_to"], model.about["data_dim"]) == (N, N)
    pca, basis = content["dataset_kwargs"]["pca_trf"], model.denoiser.basis
    # The same points have the same coordinates along its axes and along ours.
    toy = Toy(name, N)
    ours, theirs = (t.sample(20, seeded(1)) for t in (toy, Toy(name)))
    x = basis.to_eigen(ours)
    np.testing.assert_allclose(x, pca.transform(embedded(theirs).numpy()), atol=1e-9)
    # In these the denoiser is the original's.
    t = torch.linspace(0.5, 7, 20)
    network, axes = files.small_toy_network(N), torch.from_numpy(pca.components_.T)
    xi = torch.from_numpy(pca.explained_variance_).clamp(min=0)
    gamma = 5e-4 * t.double().exp()[:, None]
    z = x / (xi + gamma).sqrt()
    with torch.no_grad():
        out = network((z @ axes.T if space == "IS" else z).float(), 999 * t).double()
    out = out @ axes if space == "IS" else out
    known = (xi * x + (xi * gamma * (xi + gamma)).sqrt() * out) / (xi + gamma)
    torch.testing.assert_close(model.denoiser(x, t), known, rtol=1e-4, atol=2e-5)


def song(dim: int, **kwargs: Any) -> tuple[OriginalToySongUNet, Any]:
    """A network with random weights, and as it is written."""
    ours = {"attention_resolutions": [4], "float32_frequencies": True}
    network = files.randomized(NETWORKS["OriginalToySongUNet"](dim, **SIZES, **ours))
    return network, files.toy_song_network(network, **SIZES, attn_resolutions=[4], **kwargs)


def test_a_song_network_of_a_toy_gives_what_it_gave(imported: Any, tmp_path: Path) -> None:
    network, written = song(3)
    model = imported(files.toy_content("s_curve", network=written)).model
    z, t = torch.randn(5, 3, generator=seeded(1)), torch.linspace(0, 7, 5)
    with torch.no_grad():
        known = network(z, 999 * t)
        torch.testing.assert_close(model.denoiser.network(z, 999 * t), known)
        # Written out: two layers before the U-Net, and two after it.
        h = nn.functional.silu(network.lift[1](nn.functional.silu(network.lift[0](z))))
        h = nn.functional.silu(network.lower[0](network.unet(h, 999 * t)))
        torch.testing.assert_close(network.lower[1](h), known)
    assert known.abs().max() > 1e-3
    model.save(tmp_path / "network.pkl")
    assert Model.load(tmp_path / "network.pkl").recipe.network == "OriginalToySongUNet"


def test_another_song_network_is_refused(imported: Any) -> None:
    for kwargs, message in (
        ({"img_resolution": 16}, r"lacks the weight 'enc\.16x16_block0"),
        ({"img_resolution": 2**40}, "which is no size"),
        ({"in_channels": 1.5}, "which is no size"),
        ({"data_dim": 2}, "has 2 as its 'data_dim', not 3"),
        ({"label_dim": 3}, "has 'label_dim', which is not known"),
    ):
        content = files.toy_content("s_curve", network=song(3)[1])
        content["ema"].child("model").state["_init_kwargs"] |= kwargs
        with pytest.raises(DataError, match=message):
            imported(content)


@pytest.mark.parametrize(
    ("name", "ours"), [("circles", "circles"), ("alt_swirl", "unscaled_alt_swirl")]
)
def test_an_isotropic_toy_denoises_points_as_they_are(imported: Any, name: str, ours: str) -> None:
    toy = Toy(ours)
    network = files.small_toy_network(toy.dim)
    data = {"dset_name": name, "augment_to": 0}
    content = files.edm_content("EDMToyPreCond", files.toy_network(network), data, sigma_data=1.0)
    model = imported(content).model
    assert (model.about["data_name"], model.denoiser.schedule.name) == (ours, "EDM")
    assert (model.about["tmin"], model.about["tmax"]) == (0.002, 80.0)
    u = toy.sample(10, seeded(1))
    sigma = torch.logspace(-2, 1, 10)
    with torch.no_grad():
        out = network((u / (1 + sigma**2).sqrt()[:, None]).float(), sigma.log() / 4)
    known = (u + sigma[:, None] * (1 + sigma**2).sqrt()[:, None] * out) / (1 + sigma**2)[:, None]
    basis = model.denoiser.basis
    found = basis.from_eigen(model.denoiser(basis.to_eigen(u), sigma.double()))
    torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-4)


def test_an_isotropic_toy_in_eigenspace_counts_on_each_variance(imported: Any) -> None:
    known = files.toy_content("alt_s_curve")
    pca, network = known["dataset_kwargs"]["pca_trf"], files.small_toy_network(3)
    xi = torch.from_numpy(pca.explained_variance_).float()
    data = known["dataset_kwargs"]
    content = files.edm_content("EDMToyESPreCond", files.toy_network(network), data, data_eigs=xi)
    model = imported(content).model
    points = files.toy_points("alt_s_curve")[:10]
    x = torch.from_numpy(pca.transform(points.numpy()))
    torch.testing.assert_close(model.denoiser.basis.to_eigen(points), x)
    sigma = torch.logspace(-2, 1, 10)[:, None]
    with torch.no_grad():
        out = network((x / (xi + sigma**2).sqrt()).float(), sigma[:, 0].log() / 4)
    known = (xi * x + sigma * (xi * (xi + sigma**2)).sqrt() * out) / (xi + sigma**2)
    torch.testing.assert_close(model.denoiser(x, sigma[:, 0].double()), known, rtol=1e-4, atol=1e-4)
    del content["dataset_kwargs"]["pca_trf"]
    assert "lacks the 'pca_trf'" in refusal(imported, content)


def test_an_isotropic_model_of_images_needs_no_basis(imported: Any) -> None:
    sizes = {**SIZES, "attention_resolutions": [4], "float32_frequencies": True}
    network = files.randomized(NETWORKS["ddpmpp"](image_shape=(1, 8, 8), **sizes))
    written = files.image_network("SongUNet", network, **SIZES, attn_resolutions=[4])
    shape = {"img_resolution": 8, "img_channels": 1, "sigma_data": 0.5}
    content = files.edm_content("EDMPrecond", written, {"path": "/data/set.zip"}, **shape)
    model = imported(content).model
    assert model.about["image_shape"] == [1, 8, 8]
    u = torch.randn(4, 64, generator=seeded(1))
    sigma = torch.tensor([0.01, 0.5, 3.0, 40.0])[:, None]
    total = sigma**2 + 0.25
    with torch.no_grad():
        out = network(u / total.sqrt(), sigma[:, 0].log() / 4)
    known = (0.25 * u + 0.5 * sigma * total.sqrt() * out) / total
    torch.testing.assert_close(model.denoiser(u, sigma[:, 0].double()), known, rtol=1e-4, atol=1e-5)
    for change in ({"img_resolution": 1e200}, {"img_channels": 2}, {"sigma_data": 0.0}):
        with pytest.raises(DataError, match=r"original\.pkl: its EDMPrecond"):
            imported(files.edm_content("EDMPrecond", written, {}, **(shape | change)))
