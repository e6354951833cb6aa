"""Valid images and data sets, as small as they come."""

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.cases import Write, written
from tests.fuzz.mutations import tar
from training.data.sources.writer import image_writer


def pixels(count: int, channels: int = 1, size: int = 8) -> np.ndarray:
    generator = np.random.default_rng(channels)
    return generator.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def png(size: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(1, 3, size)[0]).save(file, "png")
    return file.getvalue()


def image_set(name: str, channels: int, vectors: bool = False) -> Write:
    """A zip or folder of four images with labels."""

    def save(path: Path) -> None:
        with image_writer(path) as writer:
            for index, image in enumerate(pixels(4, channels)):
                writer.add(image, [0.5, float(index)] if vectors else index % 3)

    return written(name, save)


def image_file(name: str, mode: str = "RGB", **options: Any) -> Write:
    """An image in a format that its name tells."""
    image = Image.fromarray(pixels(1, 3)[0]).convert(mode)
    return written(name, lambda path: image.save(path, **options))


def mnist(side: int) -> Write:
    def write(folder: Path) -> Path:
        images = pixels(4, 1, side)[..., 0]
        for name, values in (("images-idx3", images), ("labels-idx1", np.arange(4))):
            header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            content = gzip.compress(header + values.astype(np.uint8).tobytes(), mtime=0)
            (folder / f"train-{name}-ubyte.gz").write_bytes(content)
        return folder / "train-images-idx3-ubyte.gz"

    return write


def cifar_batch(protocol: int, keys: tuple[Any, Any] = (b"data", b"labels")) -> bytes:
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    content = {keys[0]: rows, keys[1]: [3, 7], "batch_label": "training batch 1 of 5"}
    return pickle.dumps(content, protocol=protocol)


def cifar(protocol: int) -> Write:
    members = {f"cifar-10-batches-py/data_batch_{n}": cifar_batch(protocol) for n in (1, 2)}
    content = gzip.compress(tar({**members, "cifar-10-batches-py/readme.html": b"<p>"}), 1, mtime=0)
    return written("cifar-10-python.tar.gz", lambda path: path.write_bytes(content))


def pickle_of_a_batch(protocol: int) -> Write:
    return written("batch.pickle", lambda path: path.write_bytes(cifar_batch(protocol)))


def lsun(count: int) -> Write:
    """An LMDB of images; with many, of some pages."""

    def write(folder: Path) -> Path:
        import lmdb

        with (
            lmdb.open(str(folder), map_size=1 << 22, lock=False) as store,
            store.begin(write=True) as to,
        ):
            for index in range(count):
                to.put(f"key{index:04d}".encode(), png(8 if index % 2 else 48))
        return folder

    return write
