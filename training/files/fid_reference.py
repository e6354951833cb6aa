"""FID references: the features of a data set, measured once by ``fid.py ref``.

    mu, sigma     [2048], [2048, 2048], mean and unbiased covariance of the features, float64
    features      [k, 2048], features of some images, float32, for the KID
    count         [], number of images measured
    image_shape   [3], channels, height, width
    detector      [], text: SHA-256 of the weights file

Only mu and sigma are required, so that references of other programs can be read; missing entries
are not checked, and the script logs this. The options are in a ``.json`` beside it. ``fid.py calc
--dest=FILE.json`` writes fid, kid and the numbers behind them; kid.over_subsets is null if each
random subset would be the whole set.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils.results import load_arrays, save_arrays
from training.measure.feature_distances import require_moments
from training.names import script

FORMAT = "inflationary-flows fid reference 1"
DISTANCES_FORMAT = "inflationary-flows image distances 1"
_KINDS = {
    "mu": ("f", 1),
    "sigma": ("f", 2),
    "features": ("f", 2),
    "count": ("iu", 0),
    "image_shape": ("iu", 1),
    "detector": ("U", 0),
}
"""Kind of the numbers and number of axes of each array."""


@dataclass(frozen=True, eq=False)
class FIDReference:
    """Moments and features of a data set of images, with which FID and KID are computed.

    Attributes:
        mu: Mean of the d features ``[d]``.
        sigma: Covariance of the features ``[d, d]``.
        features: Features of k images ``[k, d]``, for the KID; k is 0 without a KID.
        count: Number of images; None in files of other programs that lack it.
        image_shape: Shape ``(C, H, W)`` of the images; None in files that lack it.
        detector: SHA-256 of the detector's weights file; None in files that lack it.
    """

    mu: np.ndarray
    sigma: np.ndarray
    features: np.ndarray
    count: int | None = None
    image_shape: tuple[int, ...] | None = None
    detector: str | None = None

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        known = {name: np.array(value) for name, value in vars(self).items() if value is not None}
        save_arrays(path, {**known, "format": np.array(FORMAT)})

    @classmethod
    def load(cls, path: Path) -> "FIDReference":
        """Read the reference in a file.

        Raises:
            DataError: The file is missing or broken, or an array is invalid.
        """
        arrays = load_arrays(path, ("mu", "sigma"))
        known = {name: arrays[name] for name in _KINDS.keys() & arrays.keys()}
        for name, array in known.items():
            kinds, axes = _KINDS[name]
            if array.dtype.kind not in kinds or array.ndim != axes:
                held = f"{array.dtype} {list(array.shape)}"
                raise DataError(
                    f"{path} is not a reference of {script('fid')}: its '{name}' is {held}: "
                    f"make it with {script('fid')} ref"
                )
        mu, sigma = (known[name].astype(np.float64) for name in ("mu", "sigma"))
        require_moments(torch.from_numpy(mu), torch.from_numpy(sigma), str(path))
        features = known.get("features", np.empty((0, len(mu)))).astype(np.float64)
        if len(features) and not (features.shape[1] == len(mu) and np.isfinite(features).all()):
            raise DataError(
                f"{path}: 'features' must be finite numbers of shape [k, {len(mu)}]: make it again"
            )
        return cls(
            mu,
            sigma,
            features,
            int(known["count"]) if "count" in known else None,
            tuple(known["image_shape"].tolist()) if "image_shape" in known else None,
            str(known["detector"]) if "detector" in known else None,
        )

    def require_shape(self, path: Path, images: Path, shape: tuple[int, ...]) -> None:
        """Check that the images to be compared have the image shape of the reference.

        Args:
            path: Path of the reference, for messages.
            images: Path of the images, for messages.
            shape: ``(C, H, W)`` of the images.

        Raises:
            DataError: The size or the number of channels differs.
        """
        if self.image_shape is None:
            logger.info(f"{path} does not describe its images: accepted without a check")
        elif self.image_shape != shape:
            ours, theirs = ("x".join(map(str, sizes)) for sizes in (shape, self.image_shape))
            raise DataError(
                f"{images} has images of {ours} (channels, height, width), but {path} has "
                f"{theirs}: compare images of equal shape"
            )

    def require_detector(self, path: Path, identity: str, dim: int) -> None:
        """Check that this reference was made with the same detector.

        Args:
            path: Path of the reference, for messages.
            identity: SHA-256 of the detector's weights file.
            dim: Number of the detector's features.

        Raises:
            DataError: The reference was made with another detector.
        """
        if len(self.mu) != dim:
            raise DataError(
                f"{path} has {len(self.mu)} features, but the detector has {dim}: use the same "
                "--detector for ref and calc"
            )
        if not self.detector:
            logger.info(f"{path} does not name its detector: accepted without a check")
        elif self.detector != identity:
            raise DataError(
                f"{path} was made with another detector (SHA-256 {self.detector[:12]}...) than the "
                f"present one ({identity[:12]}...): use the same --detector for ref and calc"
            )
