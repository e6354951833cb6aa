"""Image data sets and their streams: the same from any storage, worker, rank and starting point."""

import os
import pickle
import re
import stat
import warnings
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.errors import DataError
from tests.support.image_files import encoded, write_zip
from tests.support.running import refusal
from torch_utils import distributed
from training.data.batches import Batch
from training.data.images.dataset import (
    ImageBatches,
    ImageDataset,
    basis_batches,
    normalize_pixels,
    to_pixels,
)
from training.data.sources.writer import image_writer

CPU = torch.device("cpu")
COUNT = 23
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)
CLASSES = [index % 5 for index in range(COUNT)]
VECTORS = [[index / 2, -1.0, 3.0] for index in range(COUNT)]
LABELS = {"classes": CLASSES, "vectors": VECTORS, "none": [None] * COUNT}
DEEP = [b"[" * depth + b"]" * depth for depth in (900, 991, 100_000)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """``stored("zip" or "folder", "classes", "vectors" or "none")``: the path of a data set."""
    folder = tmp_path_factory.mktemp("sets")

    def path(kind="zip", labels="classes"):
        got = folder / (f"{labels}.zip" if kind == "zip" else labels)
        if not got.exists():
            with image_writer(got) as writer:
                for pixels, label in zip(PIXELS, LABELS[labels], strict=True):
                    writer.add(pixels, label)
        return got

    return path


def opened(path, cache=False, **options):
    dataset = ImageDataset(path, use_labels=True, **options)
    if cache:
        dataset.keep_in_memory()
    return dataset


def channels_first(pixels):
    return torch.from_numpy(np.moveaxis(pixels, -1, 1).copy())


def test_pixels_become_numbers_from_minus_one_to_one_and_come_back_rounded_and_clamped():
    pixels = torch.arange(256, dtype=torch.uint8)
    points = normalize_pixels(pixels)
    assert (points.dtype, float(points[0]), float(points[255])) == (torch.float32, -1, 1)
    torch.testing.assert_close(points.double(), pixels.double() / 127.5 - 1, atol=1e-7, rtol=0)
    assert torch.equal(to_pixels(points), pixels)
    assert torch.equal(to_pixels(points.double()), pixels)
    points = (torch.tensor([-300, -0.4, 0.4, 0.6, 254.4, 254.6, 1e9]) / 127.5) - 1
    assert to_pixels(points).tolist() == [0, 0, 0, 1, 254, 255, 255]
    for value in (float("nan"), float("inf")):
        assert "not finite" in refusal(to_pixels, torch.tensor([0.0, value]))


@pytest.mark.parametrize("cache", [False, True])
def test_a_data_set_is_its_images_and_labels(stored, cache):
    for kind in ("zip", "folder"):
        dataset = opened(stored(kind), cache)
        assert (len(dataset), dataset.image_shape, dataset.dim) == (COUNT, (3, 4, 4), 48)
        assert (dataset.name, dataset.label_dim, dataset.has_labels) == ("classes", 5, True)
        images, labels = dataset.read(range(COUNT))
        assert torch.equal(images, channels_first(PIXELS))
        assert torch.equal(labels, torch.eye(5)[CLASSES])
        assert labels.dtype == torch.float32
    vectors = opened(stored(labels="vectors"), cache)
    assert vectors.label_dim == 3
    assert torch.equal(vectors.read(range(COUNT))[1], torch.tensor(VECTORS))
    # Mirrored copies follow the originals.
    dataset = opened(stored(), cache, xflip=True)
    assert len(dataset) == 2 * COUNT
    pixels, labels = dataset.read(range(2 * COUNT))
    assert torch.equal(pixels, channels_first(np.concatenate([PIXELS, PIXELS[:, :, ::-1]])))
    assert torch.equal(labels[:COUNT], labels[COUNT:])


def test_labels_are_not_needed_unless_asked_for(stored):
    for labels in LABELS:
        dataset = ImageDataset(stored(labels=labels))
        assert (dataset.label_dim, dataset.has_labels) == (0, False)
        assert dataset.read([3])[1].shape == (1, 0)
    assert "no labels" in refusal(ImageDataset, stored(labels="none"), use_labels=True)


@pytest.mark.parametrize("xflip", [False, True])
def test_a_subset_depends_on_its_seed_alone(stored, xflip):
    def subset(seed, cache=False):
        dataset = opened(stored(), cache, max_size=9, seed=seed, xflip=xflip)
        assert len(dataset) == 9 * (1 + xflip)
        assert dataset.label_dim == 5, "labels do not change their length with the subset"
        return dataset.read(range(9))

    whole, whole_labels = ImageDataset(stored(), True).read(range(COUNT))
    pixels, labels = subset(1)
    where = [(whole == image).flatten(1).all(dim=1).nonzero().item() for image in pixels]
    assert sorted(set(where)) == where
    assert torch.equal(labels, whole_labels[where])
    for cache in (False, True):
        assert torch.equal(subset(1, cache)[0], pixels)
    assert not torch.equal(subset(2)[0], pixels)
    assert len(ImageDataset(stored(), max_size=1000)) == COUNT


def test_a_data_set_travels_by_pickle(stored):
    dataset = ImageDataset(stored(), use_labels=True)
    before = dataset.read([5, 3])
    copy = pickle.loads(pickle.dumps(dataset))
    dataset.close()
    for each in (copy, dataset):
        for first, second in zip(each.read([5, 3]), before, strict=True):
            assert torch.equal(first, second)


def test_gray_images_have_one_channel_and_jpegs_are_images_too(tmp_path):
    Image.new("L", (8, 8), 99).save(tmp_path / "a.jpg")
    dataset = ImageDataset(tmp_path)
    assert (dataset.image_shape, dataset.read([0])[0].tolist()) == ((1, 8, 8), [[[[99] * 8] * 8]])


GOOD = encoded(PIXELS[0])
BAD_FIRST = {
    "broken": (GOOD[:-40], "not a readable image"),
    "text": (b"?", "not an image"),
    "sixteen": (encoded(Image.fromarray(np.full((4, 4), 9, np.uint16))), "mode I"),
    "palette": (encoded(Image.new("P", (4, 4))), "mode P"),
    "alpha": (encoded(Image.new("RGBA", (4, 4))), "mode RGBA"),
    "bits": (encoded(Image.new("1", (4, 4))), "mode 1"),
}
BAD_LATER = {
    **BAD_FIRST,
    "oblong": (encoded(np.zeros((4, 6, 3), np.uint8)), "6x4 with 3 channel"),
    "size": (encoded(np.zeros((5, 5, 3), np.uint8)), "5x5 with 3 channel"),
    "gray": (encoded(np.zeros((4, 4), np.uint8)), "4x4 with 1 channel"),
}


def test_a_bad_first_image_is_named_at_once(tmp_path):
    for data, message in BAD_FIRST.values():
        path = write_zip(tmp_path / "a.zip", {"0.png": data, "1.png": GOOD})
        error = refusal(ImageDataset, path)
        assert re.search(message, error)
        assert "'0.png'" in error


def test_a_bad_later_image_is_named_when_it_is_read(tmp_path):
    (tmp_path / "0.png").write_bytes(GOOD)
    (tmp_path / "1.png").write_bytes(GOOD)
    dataset = ImageDataset(tmp_path)
    readers = [
        lambda: dataset.read([1]),
        lambda: ImageDataset(tmp_path).keep_in_memory(),
        lambda: list(basis_batches(dataset)),
        lambda: next(ImageBatches(dataset, 2, 0, CPU, workers=0).batches(0)),
        lambda: next(ImageBatches(dataset, 2, 0, CPU, workers=1).batches(0)),
    ]
    for kind, (data, message) in BAD_LATER.items():
        (tmp_path / "1.png").write_bytes(data)
        for read in readers if kind == "broken" else readers[:1]:
            error = refusal(read)
            assert re.search(message, error)
            assert error.startswith(str(tmp_path / "1.png"))
            assert "Traceback" not in error


def test_unsafe_entries_are_refused_by_name(tmp_path):
    for name in ("../x.png", "/x.png", "C:/x.png", "..\\x.png", "link.png", "0.png", ""):
        path = write_zip(tmp_path / "a.zip", {"0.png": GOOD})
        entry = zipfile.ZipInfo(name)
        kind = stat.S_IFLNK if name == "link.png" else stat.S_IFREG
        entry.external_attr = (kind | 0o644) << 16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(entry, GOOD)
        assert repr(name) in refusal(ImageDataset, path)


def test_what_is_no_data_set_is_an_error(tmp_path):
    (tmp_path / "b.zip").write_bytes(b"?")
    os.mkfifo(tmp_path / "pipe.zip")
    empty = write_zip(tmp_path / "a.zip", {"dataset.json": b"{}"})
    long = write_zip(tmp_path / "c.zip", {"0.png": GOOD, "x" * 60_000 + ".png": b"x"})
    for path, message in (
        (tmp_path / "nothing", "does not exist"),
        (empty, "no images"),
        (tmp_path / "b.zip", "not a readable zip"),
        (tmp_path / "pipe.zip", "neither a folder nor"),
        (long, "xxx..."),
    ):
        assert message in refusal(lambda path: ImageDataset(path).keep_in_memory(), path)
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "a\n\x1b[2J.png").write_bytes(b"x")
    assert "not an image" in refusal(ImageDataset, tmp_path / "names")


def test_wrong_labels_are_refused_when_they_are_used(tmp_path):
    for content, message in (
        (None, "no dataset.json"),
        (b"{", "not readable JSON"),
        (b"{}", "labels"),
        (b'{"labels": [["0.png", 1]]}', "no label for '1.png'"),
        (b'{"labels": [["0.png", 1], ["1.png", [1.0]]]}', "mixes"),
        (b'{"labels": 3}', "neither null nor a list"),
        (b'{"labels": [["0.png", [1, 2]], ["1.png", [1]]]}', "different lengths"),
        (b'{"labels": [["0.png", 1], ["0.png", 1]]}', "each name once"),
        (b'{"labels": [["0.png", 1], ["1.png", 1], ["2.png", 1]]}', "a label for '2.png'"),
        *(
            (b'{"labels": [["0.png", %s], ["1.png", 0]]}' % value, "label 0")
            for value in (b"-1", b"1.5", b'"3"', b"[NaN]", b"1000000000")
        ),
        *((b'{"labels": [["0.png", ' + deep + b"]]}", "") for deep in DEEP),
        (b'{"labels": [' + b"[]," * 5_000_000 + b"[]]}", "too many labels"),
    ):
        files = {"0.png": GOOD, "1.png": GOOD, **({"dataset.json": content} if content else {})}
        path = write_zip(tmp_path / "a.zip", files)
        assert len(ImageDataset(path)) == 2
        assert message in refusal(lambda path: ImageDataset(path, use_labels=True), path)


def stream(dataset, steps, first=0, **options):
    arguments = {"batch": 7, "seed": 3, "device": CPU, "workers": 0, **options}
    return list(islice(ImageBatches(dataset, **arguments).batches(first), steps))


def shown(batches):
    """Which images the batches show."""
    points = torch.cat([batch.points for batch in batches])
    known = normalize_pixels(channels_first(PIXELS)).flatten(1)
    return [int((known == point).all(dim=1).nonzero()) for point in points]


def assert_equal_streams(first, second):
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.points, other.points)
        assert torch.equal(one.labels, other.labels)


def test_batches_are_flat_normalized_points_with_their_labels(stored):
    (batch,) = stream(ImageDataset(stored(), use_labels=True), 1)
    assert (batch.points.shape, batch.points.dtype) == ((7, 48), torch.float32)
    assert torch.equal(batch.labels, torch.eye(5)[[CLASSES[index] for index in shown([batch])]])
    assert stream(ImageDataset(stored()), 1)[0].labels is None


def test_every_image_is_shown_once_an_epoch_in_an_order_of_the_seed(stored):
    dataset = ImageDataset(stored())
    order = shown(stream(dataset, -(-3 * COUNT // 7)))
    epochs = [order[COUNT * epoch : COUNT * (epoch + 1)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert epochs[0] != epochs[1] != epochs[2]
    for batch in (1, 23, 50):
        assert shown(stream(dataset, -(-60 // batch), batch=batch))[:60] == order[:60]
    assert shown(stream(dataset, 9, seed=4)) != order[:63]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_caches_and_later_starts_change_nothing(stored, workers):
    whole = stream(ImageDataset(stored(), use_labels=True, xflip=True), 9)
    for cache, first in ((False, 0), (True, 0), (False, 3), (False, 8)):
        dataset = opened(stored("folder"), cache, xflip=True)
        part = stream(dataset, 9 - first, first=first, workers=workers)
        assert_equal_streams(part, whole[first:])


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_batches_and_the_basis(stored, monkeypatch, ranks):
    dataset = ImageDataset(stored(), use_labels=True)
    whole, points = stream(dataset, 5), torch.cat(list(basis_batches(dataset, 10)))
    shares, parts = [], []
    for rank in range(ranks):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: ranks)
        shares.append(stream(dataset, 5))
        parts += list(basis_batches(dataset, 10, batch=2))
    joined = [
        Batch(torch.cat([b.points for b in parts]), torch.cat([b.labels for b in parts]))
        for parts in zip(*shares, strict=True)
    ]
    assert_equal_streams(joined, whole)
    assert torch.equal(torch.cat(parts), points)
    with pytest.raises(DataError, match=f"1 images cannot be split over {ranks} ranks"):
        list(basis_batches(dataset, 1))


def test_a_limit_takes_a_fixed_random_part_and_no_random_number_of_the_process(stored):
    before, dataset = torch.get_rng_state(), ImageDataset(stored())
    parts = [torch.cat(list(basis_batches(dataset, limit))) for limit in (6, 6, 500)]
    assert torch.equal(parts[0], parts[1])
    chosen = shown([Batch(parts[0])])
    assert len(set(chosen)) == 6
    assert chosen != list(range(6))
    assert sorted(shown([Batch(parts[2])])) == list(range(COUNT))
    batches = list(basis_batches(dataset, batch=5, workers=1))
    assert max(map(len, batches)) == 5
    assert torch.equal(torch.cat(batches), parts[2])
    stream(ImageDataset(stored(), max_size=9), 3, workers=1)
    assert torch.equal(torch.get_rng_state(), before)
