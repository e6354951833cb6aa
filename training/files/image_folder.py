"""Generated images: the folder of ``gen_fid_samples.py``.

Images are ``{seed:06d}.png``, with ``--subdirs`` a thousand to a folder ``{first seed:06d}/``.
``gen_params.json`` is written before the first image. It has

    settings    everything besides the seed that determines an image: SHA-256 of the network, latent
                distribution, solver, times, precision, rows per call, type of device; with
                --gen_source=empirical latent_sha256, the digest of the variances
    runs        for each finished run: options, the number of images made, remade and skipped,
                network_calls, seconds, versions

Images of different settings never mix: a run that would make different images is rejected.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder
from torch_utils import distributed
from torch_utils.results import load_json, save_json
from training.data.images.containers import FolderContainer, decode_exact, encode_png, image_names
from training.files.declared import Format

PARAMETERS = "gen_params.json"
FORMAT = "inflationary-flows generated images 1"
FORMATS = {"image files": Format("images", "images.content_of_files")}
IMAGES_A_FOLDER = 1000
ABSENT, BROKEN, WHOLE = 0, 1, 2
"""States of the file of an image: missing, present but unreadable, and complete."""

READERS, READ_AHEAD = 8, 256
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_NAME = re.compile(r"(?:[0-9]{6,9}/)?([0-9]{6,9})\.png")


class ImageFolder:
    """A folder of generated images ``{seed:06d}.png``, one per random seed.

    With ``subdirs``, each thousand of seeds has a folder ``{first:06d}/``, named by its first seed.

    Args:
        path: The folder, which need not exist yet.
        image_shape: Shape ``(C, H, W)`` of the images.
        subdirs: Whether each thousand of images has its own folder.
        settings: Everything besides the seed that determines an image, as plain values.
    """

    def __init__(
        self, path: Path, image_shape: tuple[int, int, int], subdirs: bool, settings: dict[str, Any]
    ):
        self.path, self._image_shape, self._subdirs = path, image_shape, subdirs
        self._settings = {**settings, "subdirs": subdirs}
        self._parameters_path = path / PARAMETERS

    def path_of(self, seed: int) -> Path:
        """Return the path of the image of a random seed."""
        return self.path / self._name_of(seed)

    def outdated(self, seeds: Tensor, overwrite: bool) -> list[Path]:
        """Return the paths of images made with other settings, which ``begin`` is to remove.

        This method does not change the folder.

        Args:
            seeds: Increasing seeds ``[N]`` of the requested images.
            overwrite: Whether images of other settings may be replaced.

        Raises:
            UsageError: The images in the folder were made with other or unknown settings, and
                either ``overwrite`` is false, or some of them are not requested and would remain.
        """
        images = image_names(FolderContainer(self.path)) if self.path.is_dir() else []
        difference = self._difference()
        if difference is None and images and not self._parameters_path.exists():
            difference = (
                f"{self.path} contains images, such as {images[0]}, but no {PARAMETERS} "
                "with their settings"
            )
        if difference is None:
            return []
        if not overwrite:
            raise UsageError(f"{difference}: give another --save_dir, or replace with --overwrite")
        matches = [_NAME.fullmatch(name) for name in images]
        numbers = torch.tensor([int(match[1]) if match else -1 for match in matches]).long()
        asked = torch.isin(numbers, seeds).tolist()
        others = [name for name, replaced in zip(images, asked, strict=True) if not replaced]
        if others:
            raise UsageError(
                f"{self.path / others[0]} was made with other settings, and its seed is not among "
                "--seeds: give another --save_dir, or remove the old images"
            )
        return [self.path / name for name in images]

    def begin(self, outdated: list[Path]) -> None:
        """Remove images made with other settings, then write the settings of this run.

        Only the main rank calls this.
        """
        require_folder(self.path)
        # In this order, so that an interrupted run leaves no mixture.
        for path in outdated:
            path.unlink()
        if self._difference() is not None or not self._parameters_path.exists():
            content = {"format": FORMAT, "settings": self._settings, "runs": []}
            save_json(self._parameters_path, content)

    def survey(self, seeds: Tensor, device: torch.device) -> Tensor:
        """Check the image file of each seed; return ``ABSENT``, ``BROKEN`` or ``WHOLE`` for each.

        Each rank checks a part of the files, and all ranks return the states of all files.

        Args:
            seeds: Random seeds of the images ``[N]``.
            device: Device on which the ranks exchange results.

        Returns:
            States ``[N]``, uint8, on the CPU.
        """
        share = seeds[distributed.shard(len(seeds))].tolist()
        files = FolderContainer(self.path)
        present = set(files.names)
        states = []
        with (
            ThreadPoolExecutor(READERS) as pool,
            distributed.progress_bar(total=len(share), desc="Looking", unit="image") as bar,
        ):
            for start in range(0, len(share), READ_AHEAD):
                names = [self._name_of(seed) for seed in share[start : start + READ_AHEAD]]
                # Threads read the files, but decoding runs here: it is not thread-safe, since it
                # sets and resets the warnings filter.
                contents = pool.map(
                    lambda name: _read(files, name) if name in present else None, names
                )
                states += [
                    ABSENT if content is None else WHOLE if self._is_whole(content) else BROKEN
                    for content in contents
                ]
                bar.update(len(names))
        local = torch.tensor(states, dtype=torch.uint8, device=device)
        return distributed.gather_rows(local, len(seeds)).cpu()

    def record(self, run: dict[str, Any]) -> None:
        """Add a finished run to the list in the parameters file; only the main rank calls this."""
        content = load_json(self._parameters_path)
        runs = content.get("runs")
        content["runs"] = [*(runs if isinstance(runs, list) else []), run]
        save_json(self._parameters_path, content)

    def _name_of(self, seed: int) -> str:
        name = f"{seed:06d}.png"
        return f"{seed - seed % IMAGES_A_FOLDER:06d}/{name}" if self._subdirs else name

    def _difference(self) -> str | None:
        """Describe the first difference between the recorded settings and this run's.

        It is None if there is no difference.
        """
        if not self._parameters_path.exists():
            return None
        try:
            recorded = load_json(self._parameters_path).get("settings")
        except DataError as error:
            return str(error)
        if not isinstance(recorded, dict):
            return f"{self._parameters_path} does not contain the settings of the images"
        for name in dict.fromkeys([*self._settings, *recorded]):
            here, there = self._settings.get(name), recorded.get(name)
            if here != there:
                return f"{name} is {here}, but {there} in {self._parameters_path}"
        return None

    def _is_whole(self, content: bytes) -> bool:
        channels, height, width = self._image_shape
        # The decoder accepts files whose last bytes are missing.
        if not content.endswith(_PNG_END):
            return False
        try:
            return decode_exact(content, "").shape == (height, width, channels)
        except DataError:
            return False


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write pixels ``[H, W, C]``, uint8, as a PNG atomically; safe to call from several threads.

    The PNG is not compressed, since images are soon read again, and a small image takes one disk
    block with or without compression.

    Raises:
        DataError: The file cannot be written.
    """
    # Always the same name, so that the next run replaces the remains of a killed one.
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            file.write(encode_png(pixels))
            file.flush()
            # Four threads do this 4000 times a second on a local disk, faster than networks sample.
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}: check the folder and its disk"
        ) from error


def _read(files: FolderContainer, name: str) -> bytes:
    """Read the content of a file; empty if it cannot be read."""
    try:
        return files.read(name)
    except DataError:
        return b""
