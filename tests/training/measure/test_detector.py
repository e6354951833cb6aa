"""The detector: torch-fidelity's features, of each image alone; weights from files not trusted."""

import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from dnnlib.errors import DataError, UsageError
from tests.support.draws import seeded
from tests.support.running import refusal
from training.measure import detector as module
from training.measure.detector import InceptionDetector, expected_shapes, find_detector

State = dict[str, Any]


def random_state() -> State:
    """Weights of unit gain, as a stand-in for the trained ones, which need a download."""
    generator = seeded()

    def weight(name: str, shape: tuple[int, ...]) -> Tensor:
        if len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        noise = 0.1 * torch.rand(shape, generator=generator)
        return noise + (1.0 if name.endswith((".bn.weight", ".running_var")) else 0.0)

    return {name: weight(name, shape) for name, shape in known_shapes().items()}


known_shapes = cache(expected_shapes)
one_network = cache(module._Inception)


def small_state() -> State:
    """Weights of the right shapes that take no room in a file."""
    return {name: torch.zeros(1).expand(shape) for name, shape in known_shapes().items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "weights.pth"
    torch.save(random_state(), path)
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> InceptionDetector:
    return InceptionDetector(weights)


def noise(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    generator = seeded(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator).to(torch.uint8)


def test_features_are_torch_fidelitys(weights: Path, detector: InceptionDetector) -> None:
    assert module.DEFAULT_URL == URL_INCEPTION_V3
    assert URL_INCEPTION_V3.startswith("https://")
    # Its constructor may open this file, since it is ours.
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(weights))
    pixels = noise(2)
    features = detector(pixels)
    assert (features.shape, features.dtype) == ((2, detector.dim), torch.float32)
    torch.testing.assert_close(features, theirs(pixels)[0], rtol=1e-5, atol=1e-6)
    assert features.std(dim=0).mean() > 1e-3  # and tell images apart
    assert detector.identity == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_a_feature_depends_on_its_image_alone(detector: InceptionDetector) -> None:
    before = torch.get_rng_state()
    settings = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    gray = noise(2, channels=1)
    whole = detector(gray)
    rgb = gray.repeat(1, 3, 1, 1)
    parts = torch.cat([detector(rgb[:1]), detector(rgb[1:])])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == settings


def with_counts(state: State) -> State:
    layers = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    return {**state, **{f"{layer}num_batches_tracked": torch.tensor(7) for layer in layers}}


@pytest.mark.parametrize("zipped", [True, False])
def test_files_with_and_without_counts_of_batches_are_read(tmp_path: Path, zipped: bool) -> None:
    state = small_state() if zipped else with_counts(small_state())
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    before = torch.get_rng_state()
    assert not InceptionDetector(tmp_path / "w.pth")(noise(1)).any()
    assert torch.equal(torch.get_rng_state(), before)


def refused(path: Path) -> str:
    # Laying a network out takes half a second, and before a refusal it gets no weights.
    with (
        mock.patch.object(module, "expected_shapes", known_shapes),
        mock.patch.object(module, "_Inception", one_network),
    ):
        return refusal(InceptionDetector, path)


def replaced(name: str, value: Any) -> Callable[[], State]:
    """The state with another value of that name, or none."""
    return lambda: {k: v for k, v in {**small_state(), name: value}.items() if v is not None}


KERNEL, BIAS = "Mixed_7c.branch_pool.conv.weight", "Conv2d_1a_3x3.bn.bias"
FOREIGN: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: [torch.zeros(3)], "not a dictionary of tensors by name"),
    "a tensor": (lambda: torch.zeros(3), "not a dictionary of tensors by name"),
    "numbered": (lambda: {0: torch.zeros(3)}, "not a dictionary of tensors by name"),
    "nothing": (dict, "it has no 'Conv2d_1a_3x3.bn.bias'"),
    "nested": (lambda: {"state_dict": small_state()}, "it has no 'Conv2d_1a_3x3.bn.bias'"),
    "one missing": (replaced(KERNEL, None), f"it has no '{KERNEL}'"),
    "one more": (replaced("AuxLogits.weight", torch.zeros(1)), "an unknown 'AuxLogits.weight'"),
    "a number": (replaced(BIAS, 1.5), f"'{BIAS}' is not a tensor"),
    "a shape": (replaced(BIAS, torch.zeros(31)), f"'{BIAS}' is of shape [31], not [32]"),
    "a type": (replaced(BIAS, torch.zeros(32).half()), f"'{BIAS}' is of type torch.float16, not"),
    "a NaN": (replaced(BIAS, torch.zeros(32) / 0), f"'{BIAS}' has values that are not finite"),
}


def test_other_contents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    for content, message in FOREIGN.values():
        torch.save(content(), path)
        error = refused(path)
        assert f"{path} is not the FID Inception-v3: " in error
        assert message in error
    torch.save({**small_state(), BIAS: torch.zeros(32, device="meta")}, path)
    assert "never loaded" in refused(path)


def test_what_is_no_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.pth"
    torch.save([print], path)
    assert "never loaded" in refused(path)
    for zipped, message in ((True, "cut short"), (False, "broken")):
        torch.save(small_state(), path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:10_000])
        assert message in refused(path)
    path.write_bytes(b"not weights")
    assert "the detector" in refused(path)
    assert "cannot be read: No such file" in refused(tmp_path / "missing.pth")
    assert "cannot be read: Is a directory" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "device or pipe" in refused(tmp_path / "pipe")
    monkeypatch.setattr(module, "MAX_BYTES", 3 << 20)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    assert refused(path).endswith("is larger than 3 MiB: it is another")


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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


def test_without_the_default_an_error_says_how_to_supply_it(unreachable: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_detector(None)
    assert str(caught.value) == (
        f"the Inception weights are not here: cannot download {module.DEFAULT_URL}: "
        f"[Errno {errno.ECONNREFUSED}] Connection refused; download it elsewhere and give "
        f"--detector=PATH, or put it at {unreachable}"
    )
    unreachable.parent.mkdir(exist_ok=True)
    unreachable.write_bytes(b"the default weights")
    assert find_detector(None) == unreachable


@pytest.mark.parametrize("placed", [True, False])
def test_another_file_in_place_of_the_default_is_refused(
    unreachable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: bool
) -> None:
    path = unreachable if placed else tmp_path / "downloaded"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"something else")
    if not placed:
        monkeypatch.setattr(module, "local_file", lambda url, max_bytes: path)
    digits = hashlib.sha256(b"something else").hexdigest()[:8]
    with pytest.raises(DataError) as caught:
        find_detector(None)
    assert str(caught.value).startswith(
        f"{path} is not the file of {module.DEFAULT_URL}: its SHA-256 starts with {digits}; remove "
    )


def test_a_given_detector_is_a_path_or_an_https_url(unreachable: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.touch()
    assert find_detector(str(path)) == path
    with pytest.raises(UsageError, match="http:// is not supported"):
        find_detector("http://127.0.0.1/w.pth")
    with pytest.raises(DataError, match=r"^cannot download https://127\.0\.0\.1"):
        find_detector(module.DEFAULT_URL)
