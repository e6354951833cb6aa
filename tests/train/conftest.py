"""What tests of ``train.py`` share: data, and runs that are not to be written to."""

from pathlib import Path

import numpy as np
import pytest
from image_runs import CLASSES, IMAGES, LONG, SIDE, TINY, TWELVE, Run, write_images

import train


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy gray images around one pattern a class, with labels."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(CLASSES, SIDE, SIDE, 1))
    labels = [index % CLASSES for index in range(IMAGES)]
    noise = random.normal(size=(IMAGES, SIDE, SIDE, 1))
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    return write_images(path, 127.5 + 40 * patterns[labels] + 15 * noise, labels)


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGB images without labels."""
    images = 127.5 + 30 * np.random.default_rng(1).normal(size=(40, SIDE, SIDE, 3))
    return write_images(tmp_path_factory.mktemp("data") / "colors.zip", images)


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few gray images as a quick calibration wants."""
    images = 127.5 + 60 * np.random.default_rng(2).normal(size=(12, SIDE, SIDE, 1))
    return write_images(tmp_path_factory.mktemp("data") / "few.zip", images)


@pytest.fixture
def fit(run_script: Run, blobs: Path, tmp_path: Path) -> Run:
    """Trains for four steps and gives the run's folder."""

    def start(*arguments: object, data: Path = blobs) -> Path:
        before = set(tmp_path.glob("out/*"))
        place = (f"--outdir={tmp_path / 'out'}", f"--data={data}")
        result = run_script(train, *place, *TINY, *arguments)
        assert (result.code, result.err) == (0, ""), result.err
        (folder,) = set(tmp_path.glob("out/*")) - before
        return folder

    return start


@pytest.fixture(scope="session")
def twelve(run_script: Run, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run, not to be written to."""
    folder = tmp_path_factory.mktemp("twelve")
    result = run_script(train, f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *TWELVE)
    assert (result.code, result.err) == (0, "")
    return folder


@pytest.fixture(scope="session")
def unbroken(run_script: Run, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer unbroken run, not to be written to."""
    folder = tmp_path_factory.mktemp("unbroken")
    result = run_script(train, f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG)
    assert (result.code, result.err) == (0, "")
    return folder
