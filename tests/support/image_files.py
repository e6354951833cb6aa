"""Image files, and sets of them as they are published, made with nothing of the project."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels, suffix="png", **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format=suffix, **options)
    return file.getvalue()


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def idx(values):
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def write_mnist(folder, images, labels):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images), mtime=0))
    if labels is not None:
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels), mtime=0))
    return path


def write_store(folder, batches, removed=()):
    lmdb = pytest.importorskip("lmdb", reason="stores are read by the package of LMDB")
    with lmdb.open(str(folder), map_size=1 << 28, lock=False) as store:
        for batch in batches:
            with store.begin(write=True) as transaction:
                for key, value in batch.items():
                    transaction.put(key, value)
        with store.begin(write=True) as transaction:
            for key in removed:
                transaction.delete(key)
    return folder
