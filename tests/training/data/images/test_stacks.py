"""Images of any shape, channels and range: stacks, their files, and flows of them."""

import numpy as np
import pytest
import torch
from PIL import Image

import dataset_tool
import fid
import gen_fid_samples
from tests.support.running import good, quick_endings, refusal, refused, run_script
from torch_utils.results import load_arrays
from training.data.images.containers import decode_tiff
from training.data.images.dataset import ImageDataset
from training.data.images.stacks import ImageStack, holds_stack
from training.models.datasets import Images
from training.models.model import Model
from training.networks import IMAGE_NETWORKS
from training.subjects import open_prior

FLOATS = np.linspace(-3, 5, 12 * 5 * 9 * 2).reshape(12, 5, 9, 2)
QUICK = {"duration": 0.0001, "cbase": 4, "batch": 8, "calibrate": False, "cres": [1, 1]}


def tool(source, dest, *options):
    return run_script(dataset_tool, f"--source={source}", f"--dest={dest}", *options)


def test_a_stack_keeps_the_units_of_its_images_in_memory_and_in_a_file(tmp_path):
    stack = ImageStack.of_array(FLOATS, (-3, 5), np.arange(12) % 3)
    stack.save(tmp_path / "a.npz")
    assert holds_stack(tmp_path / "a.npz")
    dataset = ImageDataset(tmp_path / "a.npz", use_labels=True)
    pixels, labels = dataset.read([11, 0])
    assert (dataset.image_shape, dataset.label_dim) == ((2, 5, 9), 3)
    np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1), FLOATS[[11, 0]].astype(np.float32))
    assert labels.argmax(dim=1).tolist() == [2, 0]
    points = dataset.normalized(pixels)
    assert points.min() == -1
    assert points.max() == 1
    classes = [label for part in dataset.split(0.5, 0) for label in part.classes().tolist()]
    assert sorted(classes) == 4 * [0] + 4 * [1] + 4 * [2]
    deep = ImageStack.of_array(np.full((2, 8, 8), 65535, np.uint16))
    assert (deep.value_range, float(deep.images.max())) == ((0, 65535), 65535)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (FLOATS, {}, "give their range"),
        (FLOATS, {"value_range": (0, 5)}, "beyond the range"),
        (FLOATS * np.nan, {"value_range": (0, 5)}, "beyond the range"),
        (FLOATS, {"value_range": (5, -3)}, "two increasing numbers"),
        (np.zeros((2, 8, 8, 17)), {"value_range": (0, 1)}, "17 channels"),
        (np.zeros((8, 8), np.uint8), {}, "of shape [8, 8]"),
        (FLOATS, {"value_range": (-3, 5), "labels": np.arange(5)}, "not 12 whole numbers"),
    ],
)
def test_arrays_that_are_no_stack_are_refused(array, options, message):
    assert message in refusal(ImageStack.of_array, array, **options)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_networks_pad_each_side_of_oblong_images(name):
    sizes = {
        "model_channels": 64 if name == "adm" else 8,
        "channel_mult": [1, 1, 1],
        "num_blocks": 1,
    }
    network = IMAGE_NETWORKS[name](image_shape=(3, 5, 18), **sizes)
    out = network(torch.randn(2, 3 * 5 * 18), torch.tensor(0.0))
    assert out.shape == (2, 3 * 5 * 18)
    assert out.isfinite().all()


def test_samples_and_posteriors_are_in_the_units_of_the_images(tmp_path):
    with quick_endings():
        model = Images(torch.from_numpy(FLOATS), value_range=(-3, 5)).train(**QUICK)
        twice = Images(2 * FLOATS, value_range=(-6, 10)).train(**QUICK)
    drawn, image = model.sample(3), np.moveaxis(FLOATS[7], -1, 0)
    assert drawn.shape == (3, 2, 5, 9)
    np.testing.assert_allclose(twice.sample(3), 2 * drawn, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.decode(model.encode(image[None]))[0], image, atol=0.02)
    model.save(tmp_path / "a.pkl")
    subject = open_prior(Model.load(tmp_path / "a.pkl"))
    assert (subject.value_range, subject.levels_per_unit) == ((-3, 5), 4)
    settings = {"draws": 4, "particles": 4, "n_iters": 2}
    draws = model.posterior(noise_std=1e-2).sample(image, **settings)
    assert np.abs(draws.rows() - image).max() < 1


def test_arrays_become_stacks_and_parts_of_folders_are_random_and_disjoint(tmp_path):
    np.save(tmp_path / "a.npy", FLOATS)
    ends = "--value_range=-3,5"
    good(tool(tmp_path / "a.npy", tmp_path / "a.npz", ends))
    dataset = ImageDataset(tmp_path / "a.npz")
    assert (dataset.image_shape, dataset.value_range, len(dataset)) == ((2, 5, 9), (-3, 5), 12)
    refused(tool(tmp_path / "a.npy", tmp_path / "a.zip", ends), 1, "--dest that ends in .npz")
    refused(tool(tmp_path / "a.npy", tmp_path / "b.npz"), 1, "give their range")
    for number in range(20):
        image = Image.fromarray(np.full((8, 12), 1000 * (number + 1), np.uint16))
        place = tmp_path / "deep" / f"{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number:02d}.png")
    first, rest = tmp_path / "first.npz", tmp_path / "rest.npz"
    good(tool(tmp_path / "deep", first, "--max-images=6"))
    good(tool(tmp_path / "deep", rest, "--first-image=6"))
    parts = [load_arrays(path) for path in (first, rest)]
    levels = [part["images"][:, 0, 0, 0].tolist() for part in parts]
    assert sorted(levels[0] + levels[1]) == [1000.0 * (number + 1) for number in range(20)]
    assert sorted(levels[0]) != [1000, 2000, 3000, 4000, 5000, 6000]
    assert parts[0]["labels"].tolist().count(1) == 3


def test_a_tiff_is_read_with_all_its_channels(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.arange(10 * 12 * 5, dtype=np.uint16).reshape(10, 12, 5)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    data = (tmp_path / "a.tif").read_bytes()
    np.testing.assert_array_equal(decode_tiff(data, "a.tif"), pixels)
    assert "not a readable image" in refusal(decode_tiff, data[:200], "a.tif")


def test_images_that_are_no_gray_or_rgb_pngs_have_no_fid(tmp_path):
    ImageStack.of_array(FLOATS, (-3, 5)).save(tmp_path / "a.npz")
    dest = tmp_path / "ref.npz"
    result = run_script(fid, "ref", f"--data={tmp_path / 'a.npz'}", f"--dest={dest}")
    refused(result, 1, "a.npz has images with 2 channel(s) and values from -3 to 5")
    with quick_endings():
        Images(FLOATS, value_range=(-3, 5)).train(**QUICK).save(tmp_path / "a.pkl")
    network = f"--network={tmp_path / 'a.pkl'}"
    result = run_script(gen_fid_samples, network, f"--save_dir={tmp_path / 'out'}", "--seeds=0")
    refused(result, 1, "a.pkl has images with 2 channel(s)")
