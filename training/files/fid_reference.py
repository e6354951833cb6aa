"""FID references: the features of a data set, measured once by ``fid.py ref``.

Only mu and sigma are required, so that references of other programs can be read; missing entries
are not checked, and the script logs this. The options are in a ``.json`` beside it. ``fid.py calc
--dest=FILE.json`` writes fid, kid and the numbers behind them; kid.over_subsets is null if each
random subset would be the whole set.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import DataError
from dnnlib.logs import logger
from training.files.declared import FLOAT, WHOLE, Format, Key, ResultFile, text
from training.measure.feature_distances import require_moments
from training.names import script

DISTANCES_FORMAT = "inflationary-flows image distances 1"
REFERENCE = ResultFile(
    kind="fid reference",
    name="a reference",
    sizes="d features and k images",
    keys={
        "mu": Key("d", "mean of the features", FLOAT),
        "sigma": Key("d d", "unbiased covariance of the features", FLOAT),
        "features": Key("k d", "features of some images for the KID", FLOAT, optional=True),
        "count": Key("", "number of images measured", WHOLE, optional=True),
        "image_shape": Key("3", "channels, height, width", WHOLE, optional=True),
        "detector": text("SHA-256 of the weights file", optional=True),
    },
    least={"k": 0},
    advice=f"make it with {script('fid')} ref",
)
FORMATS = {REFERENCE.kind: Format("features of images")}


@dataclass(frozen=True, eq=False)
class FIDReference:
    """Moments and features of a data set of images, with which FID and KID are computed.

    The attributes are the arrays of ``REFERENCE``. Those that files of other programs lack are
    None; without a KID, there are features of no images.
    """

    mu: np.ndarray
    sigma: np.ndarray
    features: np.ndarray
    count: int | None = None
    image_shape: tuple[int, ...] | None = None
    detector: str | None = None

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        REFERENCE.save(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "FIDReference":
        """Read the reference in a file.

        Raises:
            DataError: The file is missing or broken, or an array is invalid.
        """
        arrays: dict[str, Any] = {"features": None, **REFERENCE.load(path)}
        mu, sigma = arrays["mu"], arrays["sigma"]
        require_moments(torch.from_numpy(mu), torch.from_numpy(sigma), str(path))
        if arrays["features"] is None:
            arrays["features"] = np.empty((0, len(mu)))
        for name in {"count", "image_shape", "detector"} & arrays.keys():
            value = arrays[name].tolist()
            arrays[name] = tuple(value) if name == "image_shape" else value
        return cls(**arrays)

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
