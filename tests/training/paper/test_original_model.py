"""Files of the original code: models, their toys, and networks that give what they gave."""

import logging
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from dnnlib.errors import DataError, UsageError
from tests.support import original_files as files
from tests.support.draws import normal, seeded
from tests.support.running import refusal
from training.data.toys import Toy
from training.flow.schedules import InflationSchedule
from training.networks import NETWORKS
from training.paper.original.file import DEEPEST_MODULE, read_original
from training.paper.original.flow import original_embedding
from training.paper.original.model import import_original
from training.trained.network import TrainedNetwork

DIM = 64
SMALL = {"model_channels": 4, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
SIZES = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.13}
N = 5


@pytest.fixture
def write(tmp_path):
    def write(content, protocol=4):
        path = tmp_path / "original.pkl"
        path.write_bytes(files.dumps(content, protocol))
        return path

    return write


def small_content(exponents=(0.0,) * DIM):
    ours = {"model_channels": 4, "channel_mult": [1], "num_blocks": 1, "attention_resolutions": []}
    network = NETWORKS["ddpmpp"](image_shape=(1, 8, 8), dropout=0.1, **ours)
    return files.image_content("SongUNet", network, exponents, **SMALL)


SCHEDULES = {
    "PRP": {"dims_to_keep": DIM},
    "PRRto10D": {"dims_to_keep": 10, "g_type": "orig"},
    "PRRto1D": {"dims_to_keep": 1, "g_type": "constant_inflation_gap", "inflation_gap": 1.02},
    "PRRto2D": {"dims_to_keep": 2, "g_type": "constant_inflation_gap", "inflation_gap": 1.35},
    "PRRto63D": {"dims_to_keep": 63, "g_type": "orig", "g_rescaling": 0.5},
    "PRRto9D": {"dims_to_keep": 9, "g_type": "constant_inflation_gap", "g_rescaling": 0.7},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_read_from_its_exponents(write, name):
    arguments = {"rho": 2.0, **SCHEDULES[name]}
    known = InflationSchedule.to_dimension(data_dim=DIM, **arguments)
    content = small_content((known.growth_rates / 2 - 1).tolist())
    content["ema"].state["rho"] = 2
    model = import_original(write(content)).model
    schedule = model.denoiser.schedule
    torch.testing.assert_close(schedule.growth_rates, known.growth_rates, rtol=1e-7, atol=1e-7)
    assert schedule.name == name
    assert {key: model.architecture.schedule_arguments[key] for key in arguments} == arguments
    assert model.about["dims_to_keep"] == SCHEDULES[name]["dims_to_keep"]


def test_axes_are_those_of_the_constructor_or_in_float32_made_orthonormal(write):
    content = small_content()
    basis = import_original(write(content)).model.denoiser.basis
    precise = torch.from_numpy(content["ema"].state["_init_kwargs"].pop("W"))
    torch.testing.assert_close(basis.eigenvectors, precise, rtol=0, atol=1e-14)
    assert basis.eigenvalues.tolist() == content["ema"].state["data_eigs"].tolist()
    basis = import_original(write(content)).model.denoiser.basis
    gram = basis.eigenvectors.T @ basis.eigenvectors
    torch.testing.assert_close(gram, torch.eye(DIM).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(basis.eigenvectors, precise, rtol=0, atol=1e-6)
    assert not basis.mean.any()


def test_the_mean_of_a_toy_is_that_of_its_pca(write):
    points = files.toy_points("moons") + torch.tensor([0.02, -0.01])
    content = files.toy_content("moons", points=points)
    basis = import_original(write(content)).model.denoiser.basis
    assert basis.mean.tolist() == content["dataset_kwargs"]["pca_trf"].mean_.tolist()
    torch.testing.assert_close(basis.mean, points.mean(dim=0))
    # The PCA's own coordinates: those that the network was trained in.
    known = content["dataset_kwargs"]["pca_trf"].transform(points.numpy())
    np.testing.assert_allclose(basis.to_eigen(points), known, atol=1e-12)
    # Networks of which the file has no PCA: the mean of standardized toys.
    del content["dataset_kwargs"]["pca_trf"]
    assert import_original(write(content)).model.denoiser.basis.mean.abs().max() < 1e-12


def test_no_variance_is_raised(write, tmp_path):
    content = small_content()
    variances = content["ema"].state["data_eigs"] = np.geomspace(220, 3e-5, DIM)
    variances[-2:] = 0
    import_original(write(content)).model.save(tmp_path / "network.pkl")
    denoiser = TrainedNetwork.load(tmp_path / "network.pkl").denoiser
    assert denoiser.data_variance.tolist() == variances.tolist()
    assert not denoiser(normal(3, DIM), torch.tensor(1.0))[:, -2:].any()


def test_numbers_may_be_those_of_numpy_or_torch(write):
    content = small_content()
    content["ema"].state |= {"rho": torch.tensor(2.0), "gamma0": np.float64(1e-3), "M": 1000.0}
    schedule = import_original(write(content)).model.denoiser.schedule
    assert (schedule.rho, schedule.gamma0) == (2.0, 1e-3)


def test_time_and_data_are_those_of_the_file_or_the_papers_and_names_are_plain(write):
    path = write(small_content())
    about = import_original(path).model.about
    facts = {"kind": "images", "data_name": "my_set", "image_shape": [1, 8, 8]}
    facts |= {"label_dim": 0, "data_dim": DIM}
    assert about == {**facts, "dims_to_keep": DIM, "tmin": 0.0, "tmax": 12.5}
    about = import_original(path, data_name="digits", t_max=5.0).model.about
    assert (about["data_name"], about["tmax"]) == ("digits", 5.0)
    with pytest.raises(UsageError, match=r"tmax is 13, .* up to 12\.5"):
        import_original(path, t_max=13.0)
    with pytest.raises(UsageError, match="data_name"):
        import_original(path, data_name="my set")
    about = import_original(write({"ema": small_content()["ema"]})).model.about
    assert about["tmax"] == 15.01
    assert "data_name" not in about
    content = small_content()
    for place in (r"C:\data\my set.zip", "../../etc/passwd", "\n\x1b", "", "..", 3):
        content["dataset_kwargs"]["path"] = place
        name = import_original(write(content)).model.about.get("data_name", "none")
        assert name in ("my_set", "passwd", "images", "none")


def test_a_toy_is_named_by_the_file_or_asks_for_its_name_and_time(write):
    path = write(files.toy_content())
    about = import_original(path).model.about
    assert (about["data_name"], about["augment_to"], about["tmax"]) == ("circles", 0, 7.01)
    assert import_original(path, data_name="circles").model.about == about
    with pytest.raises(UsageError, match=r"data_name is moons, but .* has circles"):
        import_original(path, data_name="moons")
    path = write({"ema": files.toy_content()["ema"]})
    assert "give --data_name" in refusal(import_original, path, t_max=7.01, kind=UsageError)
    assert "give --tmax" in refusal(import_original, path, data_name="circles", kind=UsageError)
    about = import_original(path, data_name="circles", t_max=6.0).model.about
    assert (about["data_name"], about["tmax"]) == ("circles", 6.0)
    with pytest.raises(DataError, match=r"2 dimensions, but the toy s_curve has 3"):
        import_original(path, data_name="s_curve", t_max=7.0)


def test_protocols_of_older_pythons_are_read(write):
    content = files.toy_content()
    for layer in content["ema"].child("model").state["_modules"].values():
        del layer.state["_non_persistent_buffers_set"]
    assert read_original(write(content, 5)).network.class_name == "IFsToyPreCond"


def test_what_is_no_file_of_a_network_is_refused(write, tmp_path):
    contents = ({}, [], {"ema": {}}, {"ema": 3}, {"state": files.Persistent("A")})
    for content in contents:
        assert "contains no network (a dict" in refusal(read_original, write(content))
    path = write({})
    content = files.dumps(files.toy_content())
    path.write_bytes(content.replace(b"\x8c\x05class\x94", b"\x8c\x05clash\x94", 1))
    assert "the description of an object in the file is invalid" in refusal(read_original, path)
    torch.save({}, path)
    assert "is a zip" in refusal(read_original, path)
    assert "does not exist" in refusal(read_original, tmp_path / "none.pkl")
    assert "is a folder" in refusal(read_original, tmp_path)


def test_modules_are_no_maze_and_weights_are_not_made_of_few_numbers(write):
    content = files.toy_content()
    modules = content["ema"].child("model").state["_modules"]
    layer = modules["dense12"]
    modules["dense12"] = modules["dense22"]
    message = refusal(import_original, write(content))
    assert "one module twice, also as 'dense22'" in message
    modules["dense12"] = layer
    inner = deep = files.module("Linear")
    for _ in range(60):  # 2^60 ways to the innermost
        inner = files.module("Linear", {"a": inner, "b": inner})
    for _ in range(DEEPEST_MODULE + 5):
        deep = files.module("Linear", {"a": deep})
    for maze in (inner, deep):
        layer, modules["dense11"] = modules["dense11"], maze
        message = refusal(import_original, write(content))
        assert "one module twice, also as" in message or "deep: give" in message
        modules["dense11"] = layer
    few = files.View(files.Shared(torch.zeros(1)), 4, 2, stride=(0, 0))
    layer.state["_parameters"]["weight"] = few
    assert "tensor of shape [4, 2] does not fit its 1 stored values" in refusal(
        import_original, write(content)
    )


@pytest.fixture
def imported(write):
    return lambda content, **options: import_original(write(content), **options)


def embedded(points):
    return points @ original_embedding(N, points.shape[1]).T


@pytest.mark.parametrize("name", ["alt_s_curve", "alt_swirl"])
def test_a_toy_that_was_not_scaled_is_not_taken_for_one_that_was(imported, caplog, name):
    content = files.toy_content(name, points=files.toy_points(f"unscaled_{name}"))
    with caplog.at_level(logging.INFO):
        model = imported(content, data_name=name).model
    assert model.about["data_name"] == f"unscaled_{name}"
    assert f"is called unscaled_{name} here" in caplog.text
    assert imported(files.toy_content(name)).model.about["data_name"] == name
    content = files.toy_content(name, points=1.5 * files.toy_points(name))
    text = rf"are 2\.\d+, [12]\.\d+, 0\.5.*, expected .*, 0\.25 of {name} or"
    with pytest.raises(DataError, match=text):
        imported(content)


def test_the_original_makes_columns_orthonormal_one_after_the_other():
    gaussian = np.random.RandomState(42).randn(7, 3)
    for column in range(3):
        for before in range(column):
            gaussian[:, column] -= gaussian[:, column] @ gaussian[:, before] * gaussian[:, before]
        gaussian[:, column] /= np.linalg.norm(gaussian[:, column])
    np.testing.assert_allclose(original_embedding(7, 3), gaussian, atol=1e-14)


@pytest.mark.parametrize("name", ["circles", "moons", "s_curve"])
@pytest.mark.parametrize("space", ["ES", "IS"])
def test_networks_of_embedded_toys_denoise_our_own(imported, name, space):
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


def song(dim, **kwargs):
    ours = {"attention_resolutions": [4], "float32_frequencies": True}
    network = files.randomized(NETWORKS["OriginalToySongUNet"](dim, **SIZES, **ours))
    return network, files.toy_song_network(network, **SIZES, attn_resolutions=[4], **kwargs)


def test_a_song_network_of_a_toy_gives_what_it_gave(imported, tmp_path):
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
    assert (
        TrainedNetwork.load(tmp_path / "network.pkl").architecture.network == "OriginalToySongUNet"
    )


PARTS = {
    "model": (small_content, lambda content: content["ema"].state),
    "pca": (files.toy_content, lambda content: vars(content["dataset_kwargs"]["pca_trf"])),
    "data": (files.toy_content, lambda content: content["dataset_kwargs"]),
    "loss": (files.toy_content, lambda content: content["loss_fn"].state),
    "song": (
        lambda: files.toy_content("s_curve", network=song(3)[1]),
        lambda content: content["ema"].child("model").state["_init_kwargs"],
    ),
    "file": (files.toy_content, lambda content: content),
}
"""What makes a file, and a part of it that is changed."""
EXPONENTS = (
    [-0.5] * 32 + [1.0] * 32,  # the last are kept
    [1.0] * 10 + [-0.2] * 20 + [-0.3] * 34,
    [1.0] * 64,
    [-0.1] * 10 + [-0.5] * 54,
    [1.0] * 63,
    [float("nan")] * 64,
)
PCAS = (files.Persistent("PCA2", mean_=np.zeros(2)), {"mean_": np.zeros(2)}, "PCA")


def test_what_a_file_should_not_hold_is_refused(write):
    for name, changes, message in (
        *(("model", {"g": torch.tensor(exponents)}, "'g'") for exponents in EXPONENTS),
        ("model", {"W": None}, "'W'"),
        ("model", {"W": [[1.0]]}, "the attribute 'W' is list"),
        ("model", {"W": torch.eye(63)}, "shape (63, 63), not (64, 64)"),
        ("model", {"W": 1.1 * torch.eye(64), "_init_kwargs": {}}, "not orthonormal"),
        ("model", {"W": torch.eye(64)}, "constructed with another 'W'"),
        ("model", {"data_eigs": np.zeros(0)}, "must contain variances in decreasing order"),
        (
            "model",
            {"data_eigs": np.linspace(1, 2, 64)},
            "must contain variances in decreasing order",
        ),
        (
            "model",
            {"data_eigs": np.linspace(1, -1, 64)},
            "must contain variances in decreasing order",
        ),
        ("model", {"data_eigs": np.full(64, np.inf)}, "not finite"),
        ("model", {"M": 100}, "M = 100 "),
        ("model", {"M": None}, "the attribute 'M' is NoneType"),
        ("model", {"space": "PCA"}, "space = 'PCA'"),
        ("model", {"rho": 0.0}, "rho is 0"),
        ("model", {"rho": 2**2000}, "'rho' is not a finite number"),
        ("model", {"rho": torch.ones(2)}, "'rho' is not a finite number"),
        ("model", {"gamma0": -1e-4}, "gamma0 is -0.0001"),
        ("model", {"img_channels": 3}, "images of 8 x 8 pixels in 3 channel"),
        ("model", {"img_resolution": 8.5}, "images of 8.5 x 8.5 pixels"),
        ("model", {"_modules": {}}, "the attribute 'model' is nothing"),
        ("model", {"_modules": [1]}, "the attribute '_modules' is list"),
        ("pca", {"mean_": None}, "the attribute 'mean_' is NoneType"),
        ("pca", {"mean_": np.zeros(3)}, "'mean_' has the shape (3,)"),
        ("pca", {"mean_": np.array([0.0, np.nan])}, "not finite"),
        (
            "pca",
            {"components_": np.eye(2)},
            "the attribute 'components_' differs from that of",
        ),
        ("pca", {"explained_variance_": np.ones(2)}, "the attribute 'explained_variance_' differs"),
        ("pca", {"whiten": True}, "the attribute 'whiten' is 1, expected 0"),
        *(("data", {"pca_trf": other}, "'pca_trf'") for other in PCAS),
        ("data", {"dset_name": "spirals"}, "names an unknown toy, 'spirals'"),
        ("data", {"augment_to": 10}, "the attribute 'augment_to' is 10, but"),
        ("data", {"dset_name": 3}, "the attribute 'dset_name' is int"),
        ("loss", {"t_max": -1.0}, "the attribute 't_max' is -1"),
        ("loss", {"t_max": "late"}, "the attribute 't_max' is str"),
        ("song", {"img_resolution": 16}, "does not have the weight 'enc.16x16_block0"),
        ("song", {"img_resolution": 2**40}, "expected an integer from 1"),
        ("song", {"data_dim": 2}, "the attribute 'data_dim' is 2, expected 3"),
        ("song", {"label_dim": 3}, "the argument 'label_dim', which is not supported"),
        ("file", {"ema": PCA()}, "contains a 'PCA' as its 'ema'"),
    ):
        make, part = PARTS[name]
        content = make()
        part(content).update(changes)
        assert message in refusal(import_original, write(content)), (name, changes)
    content = files.toy_content()
    for kind, shown in (("VPPrecond", "VPPrecond"), ("a\nb", r"a\nb")):
        content["ema"].class_name = kind
        assert shown in refusal(import_original, write(content))


@pytest.mark.parametrize("name", ["circles", "unscaled_alt_swirl"])
def test_an_isotropic_toy_denoises_points_as_they_are(imported, name):
    toy = Toy(name)
    network = files.small_toy_network(toy.dim)
    data = {"dset_name": name.removeprefix("unscaled_"), "augment_to": 0}
    content = files.edm_content("EDMToyPreCond", files.toy_network(network), data, sigma_data=1.0)
    model = imported(content).model
    assert (model.about["data_name"], model.denoiser.schedule.name) == (name, "EDM")
    assert (model.about["tmin"], model.about["tmax"]) == (0.002, 80.0)
    u = toy.sample(10, seeded(1))
    sigma = torch.logspace(-2, 1, 10)
    with torch.no_grad():
        out = network((u / (1 + sigma**2).sqrt()[:, None]).float(), sigma.log() / 4)
    known = (u + sigma[:, None] * (1 + sigma**2).sqrt()[:, None] * out) / (1 + sigma**2)[:, None]
    basis = model.denoiser.basis
    got = basis.from_eigen(model.denoiser(basis.to_eigen(u), sigma.double()))
    torch.testing.assert_close(got, known, rtol=1e-4, atol=1e-4)


def test_an_isotropic_toy_in_eigenspace_counts_on_each_variance(imported):
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
    assert "has no 'pca_trf'" in refusal(imported, content)


def test_an_isotropic_model_of_images_needs_no_basis(imported):
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
        with pytest.raises(DataError, match=r"original\.pkl: the EDMPrecond"):
            imported(files.edm_content("EDMPrecond", written, {}, **(shape | change)))


TEN_KEPT = [1.0] * 10 + [-10 / 54] * 54
SONG = {**SIZES, "attn_resolutions": [4], "label_dim": 0}
ADM = {**SIZES, "model_channels": 32, "channel_mult": [2, 4], "attn_resolutions": [8, 4]}
FOURIER = {"embedding_type": "fourier", "channel_mult_noise": 2}
NCSNPP = {**FOURIER, "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}
OURS = {"embedding_type": "noise_features", "resample_filter": "fir_taps"}
OURS |= {"attn_resolutions": "attention_resolutions"}
# The original's class and its arguments, and the name of ours.
CASES = {
    "ddpmpp": ("SongUNet", {**SONG, "embedding_type": "positional", "channel_mult_noise": 1}),
    "ddpmpp augmented": ("SongUNet", {**SONG, "augment_dim": 9, "channel_mult_emb": 4}),
    "ddpmpp three levels": ("SongUNet", {**SONG, "channel_mult": [1, 1, 2], "num_blocks": 2}),
    "ddpmpp classes": ("SongUNet", {**SONG, "label_dim": 3, "label_dropout": 0.1}),
    "ddpmpp skips": ("SongUNet", {**SONG, "encoder_type": "skip", "decoder_type": "skip"}),
    "ncsnpp": ("SongUNet", {**SONG, **NCSNPP, "decoder_type": "standard"}),
    "adm": ("DhariwalUNet", ADM),
    "adm narrow": ("DhariwalUNet", {**ADM, "channel_mult": [1, 3, 5]}),
    "adm classes": ("DhariwalUNet", {**ADM, "label_dim": 3, "augment_dim": 9}),
}


@cache
def network_of(case):
    class_name, kwargs = CASES[case]
    name = "adm" if class_name == "DhariwalUNet" else "ddpmpp"
    left_out = ("channel_mult_noise", "channel_mult_emb", "label_dropout")
    arguments = {OURS.get(k, k): v for k, v in kwargs.items() if k not in left_out}
    arguments |= {"rounded_heads": True} if name == "adm" else {}
    network = NETWORKS[name](image_shape=(1, 8, 8), **arguments, float32_frequencies=True)
    return files.randomized(network)


def image_content(case, space="IS"):
    class_name, kwargs = CASES[case]
    return files.image_content(class_name, network_of(case), TEN_KEPT, space, **kwargs)


Z, T = torch.randn(4, 64, generator=seeded(1)), torch.tensor([0.01, 0.5, 3.0, 12.0])


@pytest.mark.parametrize("case", CASES)
def test_an_image_network_gives_what_it_gave(imported, case):
    model, network = imported(image_content(case)).model, network_of(case)
    conditions = {}
    if label_dim := CASES[case][1].get("label_dim"):
        conditions["labels"] = torch.eye(label_dim)[torch.tensor([0, 1, 2, 1])]
    with torch.no_grad():
        known = network(Z, 999 * T, **conditions)
        torch.testing.assert_close(model.denoiser.network(Z, 999 * T, **conditions), known)
    assert known.abs().max() > 1e-3
    assert model.architecture.network == case.split()[0]


@pytest.mark.parametrize("space", ["IS", "ES"])
def test_it_denoises_as_trained(imported, space):
    network, content = network_of("ddpmpp"), image_content("ddpmpp", space)
    state = content["ema"].state
    axes, exponents = torch.from_numpy(state["_init_kwargs"]["W"]), state["g"].double()
    variances = torch.from_numpy(state["data_eigs"])
    x, t = Z.double(), T.double() + 1e-9  # not in single precision
    noise = 5e-4 * ((1 + exponents) * t[:, None]).exp()
    c_skip = variances / (variances + noise)
    # The four terms of the variance of what the linear denoiser leaves.
    c_out = (variances - 2 * c_skip * variances + c_skip**2 * variances + c_skip**2 * noise).sqrt()
    z = x / (variances + noise).sqrt()
    inputs = z @ axes.T if space == "IS" else z
    with torch.no_grad():
        out = network(inputs.float(), 999 * t.float()).double()
        known = c_skip * x + c_out * (out @ axes if space == "IS" else out)
        model = imported(content).model
        torch.testing.assert_close(model.denoiser(x, t), known, rtol=1e-5, atol=1e-6)
    assert model.denoiser.space == space


def parts(content, *names):
    got = content["ema"].child("model", *names)
    return got.state if isinstance(got, files.Persistent) else got.__dict__


GONE = object()
ONES = torch.ones
# Module of the network, dictionary in it ("" for its attributes), key, new value, message. A key
# that is empty stands for the name of the class.
CHANGES = (
    ("enc 4x4_block0 affine", "_parameters", "bias", GONE, "not have the weight 'enc.4x4_block0.a"),
    (
        "map_layer0",
        "_parameters",
        "scale",
        nn.Parameter(ONES(3)),
        "weight(s), for example 'map_layer0.sc",
    ),
    ("dec", "_modules", "4x4_block9", files.module("Conv2d", weight=ONES(1)), "'dec.4x4_block9.w"),
    ("dec 8x8_aux_conv", "_parameters", "weight", ONES(1, 8, 1, 3), "(1, 8, 1, 3), not (1, 8, 3"),
    ("map_layer1", "_parameters", "weight", ONES(32, 32) * torch.nan, "values that are not finite"),
    ("map_layer1", "_parameters", "bias", ONES(32).long(), "the entry 'bias' is int64"),
    ("map_layer1", "_parameters", "bias", [0.0] * 32, "the entry 'bias' is list"),
    ("enc 8x8_block0 norm0", "", "num_groups", 1, "the attribute 'num_groups' is 1, expected 2"),
    ("enc 8x8_block0 norm1", "", "eps", 1e-5, "the attribute 'eps' is 1e-05, expected 1e-06"),
    (
        "enc 4x4_block0",
        "",
        "num_heads",
        2,
        "'enc.4x4_block0': the attribute 'num_heads' is 2, expected 1",
    ),
    (
        "enc 4x4_block0",
        "",
        "num_heads",
        GONE,
        "'enc.4x4_block0': the attribute 'num_heads' is nothing",
    ),
    ("dec 8x8_block0", "", "skip_scale", 1.0, "the attribute 'skip_scale' is 1, expected 0.707107"),
    (
        "dec 8x8_block0",
        "",
        "adaptive_scale",
        True,
        "the attribute 'adaptive_scale' is 1, expected 0",
    ),
    ("enc 4x4_down conv0", "_buffers", "resample_filter", ONES(1, 1, 2, 2), "is not the filter"),
    ("map_noise", "", "endpoint", False, "'map_noise': the attribute 'endpoint' is 0, expected 1"),
    (
        "enc 4x4_block0",
        "",
        "",
        "OtherBlock",
        "contains a OtherBlock as the module 'enc.4x4_block0'",
    ),
    ("", "", "", "VisionTransformer", "has the network 'VisionTransformer'"),
    ("", "", "_init_args", (8, 1, 1), "with positional arguments"),
)
# Arguments of the network's constructor.
ARGUMENTS = (
    ("resample_filter", [1, 3, 3, 1], "resample_filter' is not the filter"),
    ("channel_mult_emb", 2, "the attribute 'channel_mult_emb' is 2, expected 4"),
    ("channel_mult_noise", 2, "the attribute 'channel_mult_noise' is 2, expected 1"),
    ("use_wavelets", True, "'use_wavelets', which is not supported"),
    ("encoder_type", "wavelet", "unknown encoder type 'wavelet'"),
    ("num_blocks", 60000, "declares more layers"),
    ("model_channels", 60000, "has the shape (32, 32), not (240000, 240000)"),
    ("augment_dim", -3, "cannot be built ("),
    ("channel_mult", [1, 1.5], "the argument 'channel_mult' has a wrong type or length"),
    (
        "embedding_type",
        "positional" * 100,
        "the argument 'embedding_type' has a wrong type or length",
    ),
    ("img_resolution", 16, "the attribute 'img_resolution' is 16, expected 8"),
)


@pytest.mark.slow
def test_another_network_is_refused(imported):
    given = [("", "_init_kwargs", *argument) for argument in ARGUMENTS]
    for names, inside, key, value, message in (*CHANGES, *given):
        content = image_content("ddpmpp")
        state = parts(content, *names.split())
        if not key:
            content["ema"].child("model", *names.split()).class_name = value
        elif value is GONE:
            del (state[inside] if inside else state)[key]
        else:
            (state[inside] if inside else state)[key] = value
        assert message in refusal(imported, content), message
    # The noise features of ADM are not taken for those of DDPM++.
    content = image_content("adm")
    parts(content, "map_noise")["endpoint"] = True
    assert "'map_noise': the attribute 'endpoint' is 1, expected 0" in refusal(imported, content)


def test_another_toy_network_is_refused(imported):
    for names, key, value, message in (
        ("downresblock4 conv1", "stride", 1, "'downresblock4.conv1': the attribute 'stride' is 1"),
        (
            "upresblock1 conv1",
            "up",
            False,
            "'upresblock1.conv1': the attribute 'up' is 0, expected 1",
        ),
        ("upresblock4 gnorm1", "eps", 1e-6, "'upresblock4.gnorm1': the attribute 'eps' is 1e-06"),
        ("downresblock1 gnorm1", "num_groups", 8, "the attribute 'num_groups' is 8, expected 4"),
    ):
        content = files.toy_content()
        parts(content, *names.split())[key] = value
        assert message in refusal(imported, content)
    for layer in ("dense11", "dense22", "dense41", "map_fc_layer0"):
        content = files.toy_content()
        del parts(content)["_modules"][layer]
        refusal(imported, content)


def test_weights_that_share_few_values_are_refused_before_memory_is_taken(imported):
    content = files.toy_content()
    values = files.Shared(torch.zeros(1 << 18))
    for name, layer in parts(content)["_modules"].items():
        if name.startswith("dense"):
            layer.state["_parameters"]["weight"] = files.View(values, 512, 512)
    assert "declares more weights than the file contains" in refusal(imported, content)
