"""Foreign formats of images and stores of LMDB, and data sets that appear whole or never."""

import gzip
import os
import pickle
import re
import struct
import sys
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import dataset_tool
from dnnlib.errors import DataError, UsageError
from tests.support.image_files import encoded, idx, noise, tar, write_mnist, write_store
from tests.support.running import good, refusal, run_script
from training.data.images.containers import Decoder
from training.data.images.dataset import ImageDataset
from training.data.sources import lmdb_store
from training.data.sources.formats import open_source, patches, read_plain_pickle
from training.data.sources.lmdb_store import DATA_FILE, count_entries, read_entries
from training.data.sources.writer import image_writer
from training.files.observations import read_observations

IDX = "t-images-idx3-ubyte.gz"
BLACK = np.zeros((4, 4, 1), np.uint8)
LENGTHS = (0, 1, 50, 2000, 2050, 4096, 30_000)


def read_all(source):
    """All images ``[H, W, C]`` and labels of a source, whose number it knew if it said one."""
    images, total, _ = open_source(str(source))
    read = [(image.read(), image.label) for image in images]
    assert total in (None, len(read))
    return [pixels for pixels, _ in read], [label for _, label in read]


def cifar_batch(pixels, labels):
    """A batch as Python 2's cPickle wrote it: ``pixels [n, 3072]``, strings without encoding."""
    return (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03"
        + b"U\x06labelsq\x04]q\x05("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08"
        + b"K\x00\x85U\x01b\x87Rq\x09(K\x01K"
        + bytes([len(pixels)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", pixels.size)
        + pixels.tobytes()
        + b"tbU\x09filenamesq\x0c]q\x0dU\x07cat.pngq\x0eau."
    )


def written(path, data):
    path.write_bytes(data)
    return path


def archived(*batches):
    """CIFAR-10, with its batches in no order, as in the published archive."""
    names = [f"cifar-10-batches-py/data_batch_{index + 1}" for index in range(len(batches))]
    files = dict(reversed(list(zip(names, batches, strict=True))))
    other = {"cifar-10-batches-py/readme.html": b"<p>", "cifar-10-batches-py/test_batch": b"?"}
    return gzip.compress(tar(other | files))


def assert_cifar(source, pixels, labels):
    images, read = read_all(source)
    assert read == labels
    for image, row in zip(images, pixels.reshape(-1, 3, 32, 32), strict=True):
        np.testing.assert_array_equal(image, np.stack(list(row), axis=-1), strict=True)


def test_cifar_10_comes_batch_by_batch(tmp_path):
    pixels = [noise(3, 3072, seed=1), noise(2, 3072, seed=2)]
    batches = [cifar_batch(pixels[0], [6, 9, 0]), cifar_batch(pixels[1], [1, 2])]
    source = written(tmp_path / "cifar-10-python.tar.gz", archived(*batches))
    assert_cifar(source, np.concatenate(pixels), [6, 9, 0, 1, 2])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar_10_saved_again_by_python_3_is_read_too(tmp_path, protocol):
    pixels = noise(3, 3072)
    for order, keys in product("CF", ((b"data", b"labels"), ("data", "labels"))):
        content = dict(zip(keys, (np.asarray(pixels, order=order), [0, 300 - 291, 4]), strict=True))
        batch = pickle.dumps(content, protocol=protocol)
        source = written(tmp_path / "cifar-10-python.tar.gz", archived(batch))
        assert_cifar(source, pixels, [0, 9, 4])


def test_mnist_is_padded_and_takes_the_labels_beside_it(tmp_path):
    values = noise(3, 28, 28)
    images, labels = read_all(write_mnist(tmp_path, values, np.array([7, 2, 1], np.uint8)))
    assert labels == [7, 2, 1]
    for image, value in zip(images, values, strict=True):
        assert image.shape == (32, 32, 1)
        np.testing.assert_array_equal(image[2:30, 2:30, 0], value)
        assert image.sum() == value.sum()


def test_idx_of_another_size_or_without_labels_is_left_as_it_is(tmp_path):
    values = noise(2, 5, 5)
    source = write_mnist(tmp_path, values, None)
    images, labels = read_all(source)
    assert labels == [None, None]
    np.testing.assert_array_equal(np.stack(images)[..., 0], values)
    result = run_script(dataset_tool, f"--source={source}", f"--dest={tmp_path / 'a.zip'}")
    assert "no train-labels-idx1-ubyte.gz" in result.out


def test_digits_need_no_download():
    images, labels = read_all("digits")
    known = load_digits()
    assert labels == known.target.tolist()
    levels = np.stack(images)[..., 0] * (16 / 255)
    assert np.abs(levels - known.images).max() < 0.5 * 16 / 255 + 1e-9
    assert np.stack(images).max() == 255


@pytest.mark.parametrize("side", [4, 16, 64])
def test_patches_are_of_photographs_and_share_no_pixel_with_those_held_out(side):
    photographs = load_sample_images().images
    used = [np.zeros((2, *photographs[0].shape[:2]), dtype=bool) for _ in range(2)]
    for marks, held_out in zip(used, (False, True), strict=True):
        for image in patches(held_out, side, 3000).images:
            column, row, number = map(int, re.findall(r"\d+", image.where))
            place = slice(row, row + side), slice(column, column + side)
            assert image.label == number
            np.testing.assert_array_equal(image.read(), photographs[number][place])
            marks[(number, *place)] = True
    assert not (used[0] & used[1]).any()
    assert all(marks.any(axis=(1, 2)).all() for marks in used)


def test_fewer_patches_are_the_first_of_more():
    few, more = (list(patches(True, 8, count).images) for count in (10, 20))
    assert [image.where for image in few] == [image.where for image in more][:10]
    assert len({image.where for image in more}) == 20
    with pytest.raises(UsageError, match=r"there are only .* patches of 64 pixels, not 1,000,000"):
        patches(False, 64, 1_000_000)


def test_a_part_of_a_folder_has_its_classes_evenly(tmp_path):
    source = tmp_path / "source"
    for name, count in (("a", 9), ("b", 9), ("c", 2)):
        (source / name).mkdir(parents=True)
        for number in range(count):
            (source / name / f"{number}.png").write_bytes(encoded(Image.new("L", (4, 4), number)))
    labels = [image.label for image in open_source(str(source), in_part=True).images]
    for count, expected in ((6, [2, 2, 2]), (10, [4, 4, 2]), (20, [9, 9, 2])):
        assert [labels[:count].count(label) for label in range(3)] == expected
    dest = tmp_path / "few.zip"
    made = (f"--source={source}", f"--dest={dest}", "--max-images=6")
    good(run_script(dataset_tool, *made))
    assert ImageDataset(dest).labels_in_words() == "3 classes, images per class 0: 2, 1: 2, 2: 2"
    few, rest = source / "c" / "0.png", tmp_path / "rest.zip"
    good(run_script(dataset_tool, f"--source={source}", f"--dest={rest}", "--first-image=6"))
    assert len(ImageDataset(rest)) == 14, "parts have no image in common"
    observed = read_observations(few, (1, 4, 4))
    assert observed.tolist() == [[0.0] * 16]
    assert "[1, 4, 4], expected [1, 8, 8]" in refusal(read_observations, few, [1, 8, 8])
    assert "give the path of an image" in refusal(read_observations, tmp_path / "no.png", [1, 4, 4])


IMAGES = noise(2, 5, 5)
GOOD_BATCH = cifar_batch(noise(2, 3072), [1, 2])
BAD_SOURCES = [
    ("a.zip", b"PK?", "not a readable zip"),
    ("a.tar.gz", gzip.compress(b"?" * 600), "not a readable .tar.gz"),
    ("a.tar.gz", archived(GOOD_BATCH)[:-300], "not a readable .tar.gz"),
    ("a.tgz", gzip.compress(tar({"train": b""})), "no data_batch_1"),
    ("a.tar.gz", archived(GOOD_BATCH[:-2]), "data_batch_1"),
    ("a.tar.gz", archived(cifar_batch(noise(2, 3072), [1])), "no 'labels'"),
    ("a.tar.gz", archived(cifar_batch(noise(2, 3072), [1, 10])), "no 'labels'"),
    ("a.tar.gz", archived(b"\x80\x02]."), "not a dict"),
    ("a.tar.gz", archived(b"\x80\x02}."), "no 'data'"),
    (IDX, b"?", "not a readable .gz"),
    (IDX, gzip.compress(b"?" * 99), "not an idx file"),
    (IDX, gzip.compress(idx(IMAGES)[:-1]), "ends after 1 of 2 images"),
    (IDX, gzip.compress(idx(IMAGES) + b"?"), "has more data than its 2 declared images"),
    (IDX, gzip.compress(struct.pack(">I3I", 0x803, 1, 2**31, 2**31)), "declares images of 2147"),
]


def test_a_bad_source_is_one_line(tmp_path):
    for name, data, message in BAD_SOURCES:
        assert message in refusal(read_all, written(tmp_path / name, data))
    assert "does not exist" in refusal(read_all, tmp_path / "nothing.zip")
    unknown = written(tmp_path / "a.txt", b"?")
    assert "has an unknown format" in refusal(read_all, unknown, kind=UsageError)
    labelled = write_mnist(tmp_path, IMAGES, np.zeros(3, np.uint8))
    assert "2 images, but the label file has 3" in refusal(read_all, labelled)


def test_nothing_is_made_of_a_hostile_pickle(tmp_path):
    data = pickle.dumps({"labels": [1], "data": os.system})
    (tmp_path / "out").mkdir()
    (tmp_path / "empty").mkdir()
    bad = written(tmp_path / "a.tar.gz", archived(data))
    sources = {
        bad: "posix.system",
        tmp_path / "empty": "no images in a known format: give images as .png",
    }
    for (source, message), dest in product(sources.items(), ("d.zip", "d")):
        place = f"--dest={tmp_path / 'out' / dest}"
        result = run_script(dataset_tool, f"--source={source}", place, "--skip-bad")
        assert result.code == 1
        assert message in result.error
        assert os.listdir(tmp_path / "out") == []


def test_transparent_images_are_laid_on_white_whatever_their_mode(tmp_path):
    colors = noise(6, 6, 4)
    image = Image.fromarray(colors)
    for mode in ("RGBA", "LA", "PA"):
        pixels = Decoder()(encoded(image.convert("P" if mode == "PA" else mode)), "here")
        assert pixels.shape == (6, 6, 1 if mode == "LA" else 3)
    alpha = colors[..., 3:] / 255
    expected = colors[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(Decoder()(encoded(image), "here") - expected).max() <= 1


def test_anything_else_in_a_pickle_is_refused_by_name():
    for data in (
        *(pickle.dumps(value) for value in (1.5, {1}, {1: 2}, complex(1, 2), slice(1), print)),
        *(pickle.dumps(np.zeros(2, dtype)) for dtype in (np.float32, np.int8, np.uint16, object)),
        pickle.dumps(np.uint8(3)),
        b"\x80\x02cnumpy\ndtype\n)R.",
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        b"\x80\x02cnumpy\nndarray\n}U\x01aK\x01sb.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
        b"\x80\x02Pabc\n.",
        GOOD_BATCH.replace(b"M\x00\x0c\x86", b"M\x00\x0d\x86"),
        GOOD_BATCH.replace(b"U\x02u1", b"U\x02i1"),
    ):
        assert "the batch is refused" in refusal(read_plain_pickle, data, "the batch")


def test_pipes_are_no_sources(tmp_path):
    for name in (IDX, "a.tar.gz", "a.zip"):
        os.mkfifo(tmp_path / name)
        refusal(read_all, tmp_path / name)
    path = write_mnist(tmp_path, IMAGES, None)
    os.mkfifo(tmp_path / "train-labels-idx1-ubyte.gz")
    assert "train-labels" in refusal(lambda: read_all(path))


def write_labels(path, labels):
    with image_writer(path) as writer:
        for label in labels:
            writer.add(BLACK, label)


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_a_set_without_sense_is_refused_and_leaves_nothing(tmp_path, name):
    with pytest.raises(DataError, match="the source has no readable images"):
        write_labels(tmp_path / name, [])
    for labels in ([1, None], [None, 1]):
        with pytest.raises(DataError, match="only some of the first 2 images have"):
            write_labels(tmp_path / name, labels)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_move_leaves_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "before").touch()
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        write_labels(folder, [None])
    assert [path.name for path in folder.iterdir()] == ["before"]
    assert list(tmp_path.iterdir()) == [folder]


def random_batch(count, random):
    return {
        random.randbytes(random.choice((1, 8, 40, 400))): random.randbytes(random.choice(LENGTHS))
        for _ in range(count)
    }


def refused(folder):
    return refusal(lambda path: list(read_entries(path)), folder)


@pytest.fixture
def store(tmp_path):
    return write_store(tmp_path, [random_batch(60, Random(1))])


@pytest.mark.parametrize("count", [0, 700])
def test_entries_come_as_they_were_written(tmp_path, count):
    random = Random(count)
    batches = [random_batch(count, random) for _ in range(3)]
    whole = {k: v for batch in batches for k, v in batch.items()}
    removed = list(whole)[::5]
    write_store(tmp_path, batches, removed)
    before = sorted(os.listdir(tmp_path))
    expected = sorted((key, value) for key, value in whole.items() if key not in removed)
    assert list(read_entries(tmp_path)) == expected
    assert count_entries(tmp_path) == len(expected)
    assert sorted(os.listdir(tmp_path)) == before


def test_images_come_in_the_order_of_their_keys(tmp_path):
    pixels = noise(3, 6, 6, 3)
    files = [encoded(image, "webp", lossless=True) for image in pixels]
    write_store(tmp_path, [{b"%d" % key: files[key] for key in (2, 0, 1)}])
    images = open_source(str(tmp_path)).images
    for got, expected in zip(images, pixels, strict=True):
        np.testing.assert_array_equal(got.read(), expected)
        assert got.label is None


def test_a_reader_may_stop_before_the_end(store):
    entries = read_entries(store)
    next(entries)
    entries.close()


def test_a_store_that_is_cut_short_missing_or_a_pipe_is_refused(store):
    whole = (store / DATA_FILE).read_bytes()
    for length in (0, 1, 100, 5000, len(whole) // 2):
        (store / DATA_FILE).write_bytes(whole[:length])
        refused(store)
    (store / DATA_FILE).unlink()
    refused(store)
    os.mkfifo(store / DATA_FILE)
    refused(store)


def test_without_the_package_an_error_says_so(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install lmdb" in refused(store)


def test_a_value_that_is_too_large_for_an_image_is_refused(store, monkeypatch):
    monkeypatch.setattr(lmdb_store, "MAX_FILE_BYTES", 10)
    assert "too large for an image" in refused(store)
