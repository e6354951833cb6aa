"""Inception-v3 features of images, as used for the FID (Szegedy et al. 2016; Heusel et al. 2017).

The network and its resampling are those of torch-fidelity, which reproduces the original TensorFlow
graph. Its constructor opens the weights with a pickle that can run code, so it never gets the file:
the network is built without weights, and then given tensors that were read and checked here.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from dnnlib.errors import DataError
from dnnlib.files import open_file
from dnnlib.urls import default_cache_dir, local_file
from torch_utils.inert_pickle import PickleError, shown
from torch_utils.tensor_files import BrokenFileError, load_tensors

DEFAULT_URL: str = URL_INCEPTION_V3
MAX_BYTES = 256 << 20
"""Largest size of a weights file; the network has 95 MB."""


class InceptionDetector:
    """Inception-v3 feature extractor: from images to features of the last pooling layer.

    Args:
        path: Weights file with a state dict of tensors, as published by torch-fidelity.
        device: Device of the network and of the features.

    Attributes:
        dim: Number of features of an image.
        identity: SHA-256 of the weights file, 64 hex digits, which identifies the detector.

    Raises:
        DataError: The file is missing or broken, or does not contain exactly this network's
            tensors.
    """

    dim = 2048

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        content = _read(path)
        self.identity = hashlib.sha256(content).hexdigest()
        self._network = _Inception()
        state = _checked_state(_tensors(content, path), expected_shapes(), path)
        self._network.load_state_dict(state)
        self._network.to(device)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute the features ``[n, dim]`` of images, float32.

        Gray images, C = 1, are repeated to RGB. The features of an image depend on that image
        alone, up to rounding in float32.

        Args:
            pixels: Images ``[n, C, H, W]``, uint8, on the detector's device.
        """
        colored = pixels.expand(-1, 3, -1, -1)
        # Convolutions in TF32 would have 3 digits, and autotuned ones depend on the size of the
        # batch.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            (features,) = self._network(colored)
        return features


def find_detector(location: str | None) -> Path:
    """Find the weights file for ``--detector``: a path, an https URL, or the default.

    The default file is downloaded once, or can be placed in the cache directory under its own name.
    The end of the name contains the first digits of the file's SHA-256, which are checked.

    Raises:
        UsageError: The URL is malformed or not https.
        DataError: The file is missing, the download failed, or the default has a wrong checksum.
    """
    if location is not None:
        return local_file(location, max_bytes=MAX_BYTES)
    name = DEFAULT_URL.rpartition("/")[2]
    placed = default_cache_dir() / name
    advice = f"download it on another machine and give --detector=PATH, or copy it to {placed}"
    try:
        path = placed if placed.exists() else local_file(DEFAULT_URL, max_bytes=MAX_BYTES)
    except DataError as error:
        raise DataError(f"the Inception weights are missing: {error}; {advice}") from error
    # The convention of torch.hub.
    digits = re.search(r"-([0-9a-f]{8,64})\.", name)
    digest = hashlib.sha256(_read(path)).hexdigest()
    if digits is None or not digest.startswith(digits[1]):
        raise DataError(
            f"{path} differs from {DEFAULT_URL}: its SHA-256 starts with {digest[:8]}; "
            f"remove the file to download it again, or {advice}"
        )
    return path


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Return the expected shapes of the tensors in a weights file, by name.

    The numbers of training batches that batch normalization counts are omitted.
    """
    return {
        name: tuple(value.shape)
        for name, value in _Inception().state_dict().items()
        if not _is_batch_count(name)
    }


class _Inception(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """Network without its weights, on the meta device."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        with torch.device("meta"):
            super().__init__("inception-v3-compat", ["2048"], nothing)

    def load_state_dict(self, state: Mapping[str, Any], *_: Any, **__: Any) -> None:
        # The constructor passes what it was given: an empty dictionary.
        if state:
            super().load_state_dict(state, assign=True)


def _is_batch_count(name: str) -> bool:
    # Evaluation does not use the count, and files from old PyTorch versions lack it.
    return name.endswith(".num_batches_tracked")


def _read(path: Path) -> bytes:
    with open_file(path, "the weights file of the FID Inception-v3", MAX_BYTES) as file:
        try:
            content = file.read()
        except OSError as error:
            raise DataError(
                f"the detector {path} cannot be read: {error.strerror or error}: check the path"
            ) from error
    return content


def _tensors(content: bytes, path: Path) -> Any:
    """Read the content of a file, provided that it contains nothing that could run code."""
    try:
        return load_tensors(io.BytesIO(content), legacy=True)
    except PickleError as error:
        raise DataError(
            f"the detector {path} is damaged, or contains objects other than tensors, "
            f"which are never loaded ({error}): give the state dict of the FID "
            "Inception-v3"
        ) from error
    except BrokenFileError as error:
        raise DataError(
            f"the detector {path} cannot be used ({error}): give another file"
        ) from error


def _checked_state(
    loaded: Any, expected: Mapping[str, tuple[int, ...]], path: Path
) -> dict[str, Tensor]:
    """Return the state dict of the network.

    Raises:
        DataError: The file contains anything else.
    """
    what = f"the detector {path} is not the FID Inception-v3"
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise DataError(f"{what}: it contains no dictionary of named tensors: give another file")
    given = {name: value for name, value in loaded.items() if not _is_batch_count(name)}
    for name in sorted(given.keys() ^ expected.keys()):
        has = "an unknown" if name in given else "no"
        raise DataError(f"{what}: it has {has} '{shown(name)}': give another file")
    for name, shape in expected.items():
        problem = _problem_with(given[name], shape)
        if problem:
            raise DataError(f"{what}: '{name}' {problem}: give another file")
    counts = [name for name in _Inception().state_dict() if _is_batch_count(name)]
    return {**given, **{name: torch.tensor(0) for name in counts}}


def _problem_with(value: object, shape: tuple[int, ...]) -> str | None:
    """Return why a value cannot be a weight of that shape; None if it can."""
    if not isinstance(value, Tensor):
        return "is not a tensor"
    if value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
        return "is not a plain tensor with its own values"
    if value.dtype != torch.float32:
        return f"has the type {value.dtype}, expected torch.float32"
    if tuple(value.shape) != shape:
        return f"has the shape {list(value.shape)}, expected {list(shape)}"
    if not value.isfinite().all():
        return "has values that are not finite"
    return None
