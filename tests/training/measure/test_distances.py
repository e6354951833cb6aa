"""Distances of images: features, Frechet and kernel distances, against closed forms and loops."""

import errno
import hashlib
import os
import socket
from functools import cache
from inspect import signature
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import linalg
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from dnnlib.errors import DataError, UsageError
from tests.support.draws import normal, seeded
from tests.support.running import refusal
from torch_utils import distributed
from torch_utils.distributed import process_group
from training.measure import detector as module
from training.measure import feature_distances as kernel
from training.measure.detector import InceptionDetector, expected_shapes, find_detector
from training.measure.feature_distances import frechet_distance, kernel_distance, subset_distances

SHARES = {"uneven": ([30, 11], 0.0), "far": ([20, 21], 1e3), "one has none": ([41, 0], 0.0)}
known_shapes = cache(expected_shapes)
one_network = cache(module._Inception)


def gaussian(dim, seed, rank=None):
    """A mean and a covariance, of full rank or of the given one, with unequal eigenvalues."""
    factor = normal(dim, rank or dim, seed=seed) * torch.linspace(0.2, 2, rank or dim)
    return normal(dim, seed=seed + 1), factor @ factor.T / dim


def moments_of(batches):
    statistics = kernel.FeatureStatistics(batches[0].shape[1])
    for batch in batches:
        statistics.add(batch)
    return statistics.moments()


def test_streamed_moments_are_those_of_numpy():
    points = normal(41, 5) * torch.logspace(0, -4, 5)
    # The points themselves are rounded when they are moved, and their products by as much.
    for offset, rounding in ((0.0, 1e-15), (1e6, 1e-9)):
        for batch in (1, 4, 100):
            got = moments_of(list((points + offset).split(batch)))
            assert got.count == 41
            assert got.mean.dtype == got.covariance.dtype == torch.float64
            mean = points.mean(dim=0) + offset
            np.testing.assert_allclose(got.mean, mean, rtol=0, atol=10 * rounding)
            covariance, atol = np.cov(points.T), 30 * rounding
            np.testing.assert_allclose(got.covariance, covariance, rtol=1e-12, atol=atol)
            assert torch.equal(got.covariance, got.covariance.T)
    single = (1000 + normal(3000, 2)).float()
    got = moments_of(list(single.split(7)))
    np.testing.assert_allclose(got.covariance, np.cov(single.double().T), rtol=1e-9, atol=1e-9)


def test_moments_can_be_taken_again_after_more_was_added():
    points = normal(9, 3)
    statistics = kernel.FeatureStatistics(3)
    statistics.add(points[:5])
    before = statistics.moments()
    statistics.add(points[:0])
    statistics.add(points[5:])
    np.testing.assert_allclose(before.covariance, np.cov(points[:5].T), atol=1e-14)
    np.testing.assert_allclose(statistics.moments().covariance, np.cov(points.T), atol=1e-14)


def test_points_without_a_covariance_are_an_error():
    for count in (0, 1):
        with pytest.raises(DataError, match=f"^{count} images or points have no covariance"):
            moments_of([normal(count, 3)])
    for value in (float("nan"), float("inf")):
        points = normal(5, 3)
        points[3, 1] = value
        assert "not finite" in refusal(moments_of, [points])


def of_a_rank(name, rank):
    sizes, distance = SHARES[name]
    return list((normal(41, 4).split(sizes)[rank] + distance * rank).split(6))


def moments_of_shares():
    with process_group("cpu"):
        return {name: moments_of(of_a_rank(name, distributed.rank())) for name in SHARES}


def test_ranks_together_have_the_moments_of_one(two_ranks):
    first, second = two_ranks.call(moments_of_shares)
    for name in SHARES:
        points = torch.cat([*of_a_rank(name, 0), *of_a_rank(name, 1)])
        got = first[name]
        assert got.count == second[name].count == 41
        np.testing.assert_allclose(got.mean, points.mean(dim=0), rtol=1e-13)
        np.testing.assert_allclose(got.covariance, np.cov(points.T), rtol=1e-12)
        assert torch.equal(got.mean, second[name].mean)
        assert torch.equal(got.covariance, second[name].covariance)


def test_the_frechet_distance_is_that_of_scipys_root_and_of_closed_forms():
    for dim in (1, 2, 30):
        (mean1, cov1), (mean2, cov2) = gaussian(dim, 0), gaussian(dim, 10)
        root = linalg.sqrtm(cov1.numpy() @ cov2.numpy()).real
        expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace()
        got = frechet_distance(mean1, cov1, mean2, cov2)
        assert got == pytest.approx(float(expected), rel=1e-9)
    axes, _ = torch.linalg.qr(normal(7, 7))
    stds1, stds2 = torch.linspace(0, 3, 7).double(), torch.tensor([2, 0, 0.1, 1, 5, 0, 1]).double()
    covs = [(axes * stds.square()) @ axes.T for stds in (stds1, stds2)]
    shift = normal(7, seed=3)
    got = frechet_distance(normal(7), covs[0], normal(7) + shift, covs[1])
    expected = shift.square().sum() + (stds1 - stds2).square().sum()
    assert got == pytest.approx(float(expected), rel=1e-12)
    few = moments_of([normal(50, 400)])
    got = frechet_distance(few.mean, few.covariance, few.mean, few.covariance)
    # The root of the product of the covariances would leave 1e-7 of the trace.
    assert 0 <= got < 1e-12 * float(few.covariance.trace())
    nothing, (mean, cov) = torch.zeros(4, 4), gaussian(4, 0)
    assert frechet_distance(torch.zeros(4), nothing, torch.ones(4), nothing) == 4
    expected = float(mean.square().sum() + cov.trace())
    got = frechet_distance(torch.zeros(4), nothing, mean, cov)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", [(10, 10), (10, 300), (200, 15)])
def test_singular_covariances_of_few_points_lose_no_digits(sizes):
    scale = torch.logspace(0, -2, 256)
    first, second = normal(sizes[0], 256) * scale, normal(sizes[1], 256, seed=1) * scale
    (_, mean1, cov1), (_, mean2, cov2) = (vars(moments_of([x])).values() for x in (first, second))
    expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()
    # The last trace from the points: no ``d x d`` matrix.
    first, second = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (first, second))
    expected -= 2 * torch.linalg.svdvals(first @ second.T).sum()
    got = frechet_distance(mean1, cov1, mean2, cov2)
    assert got == pytest.approx(float(expected), rel=1e-12)


def test_moments_rounded_to_float32_give_its_digits():
    (mean1, cov1), (mean2, cov2) = gaussian(200, 0, 50), gaussian(200, 10, 50)
    rounded = mean1.float(), cov1.float()
    assert torch.linalg.eigvalsh(rounded[1].double())[0] < -1e-9  # of noise, as in a file
    exact = frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(*rounded, mean2, cov2) == pytest.approx(exact, rel=1e-3)
    assert frechet_distance(*rounded, *rounded) < 1e-6 * float(cov1.trace())


def test_what_is_no_gaussian_is_refused():
    good = gaussian(4, 0)
    for spoil, message in (
        (lambda mean, cov: (mean * float("nan"), cov), "not finite"),
        (lambda mean, cov: (mean, cov * float("inf")), "not finite"),
        (lambda mean, cov: (mean, cov + torch.ones(4, 4).triu(1)), "not symmetric"),
        (lambda mean, cov: (mean, cov - 2 * torch.eye(4) * cov.trace()), "negative eig"),
        (lambda mean, cov: (mean[None], cov), r"shape \[1, 4\]"),
        (lambda mean, cov: (mean, cov[:3]), r"shape \[3, 4\]"),
        (lambda mean, cov: (mean[:0], cov[:0, :0]), r"shape \[0\]"),
    ):
        with pytest.raises(DataError, match=f"the first Gaussian.*{message}"):
            frechet_distance(*spoil(*good), *good)
        with pytest.raises(DataError, match=f"the second Gaussian.*{message}"):
            frechet_distance(*good, *spoil(*good))
    assert "Gaussians of 4 and 5 dimensions" in refusal(frechet_distance, *good, *gaussian(5, 0))


def test_it_is_the_sum_over_pairs_that_defines_it():
    first, second = normal(7, 3), 0.5 + normal(5, 3, seed=1)

    def kernels(x, y):
        return (x @ y.T / 3 + 1) ** 3

    expected = -2 * kernels(first, second).mean()
    for points in (first, second):
        of_pairs = kernels(points, points).fill_diagonal_(0)
        expected += of_pairs.sum() / (len(points) * (len(points) - 1))
    assert kernel_distance(first, second) == pytest.approx(float(expected), rel=1e-10)


def test_neither_blocks_nor_order_nor_float32_change_it(monkeypatch):
    first, second = (normal(8, 4), normal(7, 4, seed=1))
    whole = kernel_distance(first, second)
    assert kernel_distance(second.flip(0), first) == pytest.approx(whole, rel=1e-12)
    first, second = first.float(), second.float()
    assert kernel_distance(first, second) == kernel_distance(first.double(), second.double())
    for block in (1, 3, 8):
        monkeypatch.setattr(kernel, "BLOCK", block)
        assert kernel_distance(first, second) == pytest.approx(whole, rel=1e-6)


def test_subsets_have_the_mean_of_all_draw_no_point_twice_and_follow_the_seed():
    first, second = normal(60, 4), normal(90, 4, seed=1)
    got = subset_distances(first, second, seeded(), subsets=200, size=20)
    assert (got.subsets, got.size) == (200, 20)
    assert abs(got.mean - kernel_distance(first, second)) < 4 * (got.std / 200**0.5)
    assert subset_distances(first, second, seeded(), subsets=200, size=50).std < got.std / 2
    first, second = normal(30, 4), normal(30, 4, seed=1)
    whole = subset_distances(first, second, seeded(), subsets=5, size=1000)
    assert whole.size == 30
    assert whole.mean == pytest.approx(kernel_distance(first, second), rel=1e-10)
    assert whole.std == pytest.approx(0, abs=1e-12)
    runs = [subset_distances(first, second, seeded(seed), 5, 10) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    # Sizes and numbers are the customary ones.
    parameters = signature(subset_distances).parameters
    assert (parameters["subsets"].default, parameters["size"].default) == (100, 1000)


def test_what_has_no_distance_is_refused():
    good = normal(4, 3)
    for bad, message in (
        (normal(1, 3), r"shape \[1, 3\]"),
        (normal(0, 3), r"shape \[0, 3\]"),
        (normal(6), r"shape \[6\]"),
        (normal(4, 3) / 0, "not finite"),
        (normal(4, 2), "2 and 3 dimensions|3 and 2 dimensions"),
    ):
        for pair in ((bad, good), (good, bad)):
            with pytest.raises(DataError, match=message):
                kernel_distance(*pair)
            with pytest.raises(DataError, match=message):
                subset_distances(*pair, generator=seeded())


def random_state():
    """Weights of unit gain, as a stand-in for the trained ones, which need a download."""
    generator = seeded()

    def weight(name, shape):
        if len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        noise = 0.1 * torch.rand(shape, generator=generator)
        return noise + (1.0 if name.endswith((".bn.weight", ".running_var")) else 0.0)

    return {name: weight(name, shape) for name, shape in known_shapes().items()}


def small_state():
    """Weights of the right shapes that take no room in a file."""
    return {name: torch.zeros(1).expand(shape) for name, shape in known_shapes().items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "weights.pth"
    torch.save(random_state(), path)
    return path


@pytest.fixture(scope="module")
def detector(weights):
    return InceptionDetector(weights)


def noise(count, channels=3, size=8, seed=0):
    generator = seeded(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator).to(torch.uint8)


def test_features_are_torch_fidelitys(weights, detector):
    assert module.DEFAULT_URL == fidelity.URL_INCEPTION_V3
    assert fidelity.URL_INCEPTION_V3.startswith("https://")
    # Its constructor may open this file, since it is ours.
    theirs = fidelity.FeatureExtractorInceptionV3("theirs", ["2048"], str(weights))
    pixels = noise(2)
    features = detector(pixels)
    assert (features.shape, features.dtype) == ((2, detector.dim), torch.float32)
    torch.testing.assert_close(features, theirs(pixels)[0], rtol=1e-5, atol=1e-6)
    assert features.std(dim=0).mean() > 1e-3  # and tell images apart
    assert detector.identity == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_feature_depends_on_its_image_alone(detector):
    before = torch.get_rng_state()
    settings = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    gray = noise(2, channels=1)
    whole = detector(gray)
    rgb = gray.repeat(1, 3, 1, 1)
    parts = torch.cat([detector(rgb[:1]), detector(rgb[1:])])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == settings


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_and_without_counts_of_batches_are_read(tmp_path, zipped):
    state = small_state()
    layers = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    if not zipped:
        state |= {f"{layer}num_batches_tracked": torch.tensor(7) for layer in layers}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    before = torch.get_rng_state()
    assert not InceptionDetector(tmp_path / "w.pth")(noise(1)).any()
    assert torch.equal(torch.get_rng_state(), before)


def refused(path):
    # Laying a network out takes half a second, and before a refusal it gets no weights.
    with (
        mock.patch.object(module, "expected_shapes", known_shapes),
        mock.patch.object(module, "_Inception", one_network),
    ):
        return refusal(InceptionDetector, path)


def replaced(name, value):
    return lambda: {k: v for k, v in {**small_state(), name: value}.items() if v is not None}


KERNEL, BIAS = "Mixed_7c.branch_pool.conv.weight", "Conv2d_1a_3x3.bn.bias"
FOREIGN = {
    "a list": (lambda: [torch.zeros(3)], "no dictionary of named tensors"),
    "a tensor": (lambda: torch.zeros(3), "no dictionary of named tensors"),
    "numbered": (lambda: {0: torch.zeros(3)}, "no dictionary of named tensors"),
    "nothing": (dict, "it has no 'Conv2d_1a_3x3.bn.bias'"),
    "nested": (lambda: {"state_dict": small_state()}, "it has no 'Conv2d_1a_3x3.bn.bias'"),
    "one missing": (replaced(KERNEL, None), f"it has no '{KERNEL}'"),
    "one more": (replaced("AuxLogits.weight", torch.zeros(1)), "an unknown 'AuxLogits.weight'"),
    "a number": (replaced(BIAS, 1.5), f"'{BIAS}' is not a tensor"),
    "a shape": (replaced(BIAS, torch.zeros(31)), f"'{BIAS}' has the shape [31], expected [32]"),
    "a type": (replaced(BIAS, torch.zeros(32).half()), f"'{BIAS}' has the type torch.float16, ex"),
    "a NaN": (replaced(BIAS, torch.zeros(32) / 0), f"'{BIAS}' has values that are not finite"),
}


def test_other_contents_are_refused(tmp_path):
    path = tmp_path / "foreign.pth"
    for content, message in FOREIGN.values():
        torch.save(content(), path)
        error = refused(path)
        assert f"{path} is not the FID Inception-v3: " in error
        assert message in error
    torch.save({**small_state(), BIAS: torch.zeros(32, device="meta")}, path)
    assert "never loaded" in refused(path)


def test_what_is_no_weights_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    torch.save([print], path)
    assert "never loaded" in refused(path)
    for zipped, message in ((True, "incomplete"), (False, "damaged")):
        torch.save(small_state(), path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:10_000])
        assert message in refused(path)
    path.write_bytes(b"not weights")
    assert "the detector" in refused(path)
    assert "missing.pth does not exist: give the path of the" in refused(tmp_path / "missing.pth")
    assert "is a folder: give the path of the weights file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or pipe: give the path of" in refused(tmp_path / "pipe")
    monkeypatch.setattr(module, "MAX_BYTES", 3 << 20)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    assert refused(path).endswith(
        "is larger than 3 MiB: give the path of the weights file of the FID Inception-v3"
    )


@pytest.fixture
def unreachable(tmp_path, monkeypatch):
    """The default's place in an empty cache; at the port of its server nobody answers."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    digits = hashlib.sha256(b"the default weights").hexdigest()[:8]
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{bound.getsockname()[1]}/v1/weights-2015-12-05-{digits}.pth"
        monkeypatch.setattr(module, "DEFAULT_URL", url)
        yield tmp_path / "cache" / url.rpartition("/")[2]


def test_without_the_default_an_error_says_how_to_supply_it(unreachable):
    with pytest.raises(DataError) as caught:
        find_detector(None)
    assert str(caught.value) == (
        f"the Inception weights are missing: cannot download {module.DEFAULT_URL} "
        f"([Errno {errno.ECONNREFUSED}] Connection refused): check the URL and the connection; "
        "download it on another machine "
        f"and give --detector=PATH, or copy it to {unreachable}"
    )
    unreachable.parent.mkdir(exist_ok=True)
    unreachable.write_bytes(b"the default weights")
    assert find_detector(None) == unreachable


@pytest.mark.parametrize("placed", [True, False])
def test_another_default_is_refused(unreachable, tmp_path, monkeypatch, placed):
    path = unreachable if placed else tmp_path / "downloaded"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"something else")
    if not placed:
        monkeypatch.setattr(module, "local_file", lambda url, max_bytes: path)
    digits = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(DataError) as caught:
        find_detector(None)
    assert str(caught.value).startswith(
        f"{path} differs from {module.DEFAULT_URL}: its SHA-256 starts with {digits}; remove "
    )


def test_a_given_detector_is_a_path_or_an_https_url(unreachable, tmp_path):
    path = tmp_path / "w.pth"
    path.touch()
    assert find_detector(str(path)) == path
    with pytest.raises(UsageError, match="http:// is not supported"):
        find_detector("http://127.0.0.1/w.pth")
    with pytest.raises(DataError, match=r"^cannot download https://127\.0\.0\.1"):
        find_detector(module.DEFAULT_URL)
