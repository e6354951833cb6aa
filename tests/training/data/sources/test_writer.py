"""Data sets of images appear whole or not at all, in a zip and in a folder."""

from pathlib import Path

import numpy as np
import pytest

from dnnlib.errors import DataError
from training.data.sources.writer import image_writer

PIXELS = np.zeros((4, 4, 1), np.uint8)


def write(path: Path, labels: list[int | None]) -> None:
    with image_writer(path) as writer:
        for label in labels:
            writer.add(PIXELS, label)


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_a_set_without_sense_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no images that can be read"):
        write(tmp_path / name, [])
    for labels in ([1, None], [None, 1]):
        with pytest.raises(DataError, match="not all of the first 2"):
            write(tmp_path / name, labels)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_take_its_place_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "before").touch()
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        write(folder, [None])
    assert [path.name for path in folder.iterdir()] == ["before"]
    assert list(tmp_path.iterdir()) == [folder]
