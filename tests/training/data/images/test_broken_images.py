"""Data sets as a stranger could make them: refused in a line, at once."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.hostile import zip_of

from dnnlib.errors import DataError
from training.data.images.codec import encode_png
from training.data.images.dataset import ImageDataset


def stranger(tmp_path: Path, **members: bytes) -> Path:
    path = tmp_path / "set.zip"
    path.write_bytes(zip_of({"a.png": encode_png(np.zeros((4, 4, 1), np.uint8)), **members}))
    return path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        ImageDataset(path, cache=True, **options)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert len(message) < 800
    return message


def test_entries_without_a_name_are_refused(tmp_path: Path) -> None:
    assert "unsafe name ''" in refused(stranger(tmp_path, **{"": b"x"}))


def test_long_names_are_cut_in_errors(tmp_path: Path) -> None:
    assert "xxx..." in refused(stranger(tmp_path, **{"x" * 60_000 + ".png": b"x"}))


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 100_000])
def test_labels_that_lie_deep_are_refused(tmp_path: Path, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    labels = b'{"labels": [["a.png", ' + deep + b"]]}"
    refused(stranger(tmp_path, **{"dataset.json": labels}), use_labels=True)


def test_more_labels_than_images_could_have_are_refused(tmp_path: Path) -> None:
    labels = b'{"labels": [' + b"[]," * 5_000_000 + b"[]]}"
    path = stranger(tmp_path, **{"dataset.json": labels})
    assert "more labels than any" in refused(path, use_labels=True)


def test_pipes_and_devices_are_no_data_sets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "zeros.zip").symlink_to("/dev/zero")
    for name in ("pipe.zip", "zeros.zip"):
        assert "neither a folder nor" in refused(tmp_path / name)


def test_strange_names_in_a_folder_are_printable_in_errors(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[2J.png").write_bytes(b"x")
    assert "not an image" in refused(tmp_path)
