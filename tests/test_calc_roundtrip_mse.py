"""Roundtrip errors from the command line: of images and batches against what a flow does."""

import os
from functools import cache

import numpy as np
import pytest
import torch

import calc_roundtrip_mse
from tests.support.image_models import CLASSES, END
from tests.support.outcomes import Measured
from tests.support.running import unless_given
from training.data.images.dataset import ImageDataset, normalize_pixels
from training.files.roundtrip import BIN_EDGES, histogram
from training.flow.solvers import SOLVERS
from training.measure.roundtrip import RoundtripErrors
from training.subjects.subject import WorstImages
from training.trained.network import TrainedNetwork

COUNT = 10
ERRORS = ("mse", "mse_float", "max_abs_error", "exact")


def numbers(got):
    return [got.result[name] for name in (*ERRORS[:3], "exact_pixels")]


@pytest.fixture(scope="module")
def measure(run_once, networks, images):
    """``measure(network, ...)``, read back: few images and steps, unless asked otherwise."""

    @cache
    def start(network, *more):
        standard = {"--network": networks[network], "--data_root": images, "--batch-gpu": 4}
        few = {"--total_samples": COUNT, "--n_iters": 4, "--solver": "euler"}
        return Measured(*run_once(calc_roundtrip_mse, *unless_given(standard | few, more)))

    return start


def chosen(images, count, seed=42):
    dataset = ImageDataset(images, use_labels=True, max_size=count, seed=seed)
    return dataset.read(range(count))


def worst_first(arrays):
    return np.argsort(-arrays["all_mse_float"], kind="stable")


def test_the_promised_files_are_written_and_the_last_line_tells_the_numbers(measure):
    got = measure("classes", "--data_name=cifar10", "--seed=7")
    assert got.stem == "cifar10_PRRto10D_roundtrip_mse_seed7"
    names = [f"{got.stem}.json", f"{got.stem}_worst.npz"]
    assert sorted(os.listdir(got.folder)) == names
    *wrote, last = got.printed.splitlines()
    assert wrote == [f"Wrote {got.folder / name}" for name in names]
    mse, mse_float, largest, exact = numbers(got)
    assert f"Round trip of {COUNT} images" in last
    assert f"mean squared error {mse:.6g} squared gray levels after rounding" in last
    assert f"{mse_float:.6g} before" in last
    assert f"largest error {largest:.4g} gray levels" in last
    assert f"{exact:.4%} of the pixels exact" in last


def test_small_steps_bring_images_back_exactly_and_small_data_are_measured_whole(
    measure, run_once, networks, images
):
    got = measure("PRP", "--solver=exp_rk5", "--n_iters=2", "--total_samples=4")
    assert (got.result["mse"], got.result["exact_pixels"]) == (0, 1)
    assert 0 < got.result["mse_float"] < got.result["max_abs_error"] ** 2 < 1e-4
    assert got.result["denoiser_calls"] == 2 * 2 * 6
    given = (f"--network={networks['PRP']}", f"--data_root={images}", "--n_iters=2")
    whole = Measured(*run_once(calc_roundtrip_mse, *given, "--solver=euler"))
    assert whole.result["images"] == len(ImageDataset(images))


def test_images_come_back_under_their_own_class_and_numbers_are_of_them(measure, networks, images):
    got = measure("classes", "--bs=3")
    arrays, order = got.arrays, worst_first(got.arrays)
    pixels, labels = chosen(images, COUNT)
    flow, times = TrainedNetwork.load(networks["classes"]).flow, torch.linspace(0, END, 5).double()
    points = normalize_pixels(pixels).flatten(1)

    def levels_and_latents(**conditions):
        given = flow.given(**conditions)
        melt = given.melt(points, times, SOLVERS["euler"]).end
        back = given.generate(melt, times, SOLVERS["euler"])
        data = given.to_data(back.end, back.times[-1])
        return [((data + 1) * 127.5).numpy()[order], melt.numpy()[order]]

    levels, latents = levels_and_latents(labels=labels)
    np.testing.assert_allclose(arrays["returned"].reshape(COUNT, -1), levels, atol=1e-3)
    np.testing.assert_allclose(arrays["latents"], latents, atol=1e-5)
    others, _ = levels_and_latents()
    assert np.abs(levels - others).max() > 0.1
    kept, data = arrays["originals"].reshape(COUNT, -1), arrays["returned"] / 127.5 - 1
    errors = RoundtripErrors.from_images(torch.from_numpy(kept), torch.from_numpy(data).flatten(1))
    for name, values in zip(ERRORS, errors.columns().T, strict=True):
        np.testing.assert_allclose(arrays[name], values, rtol=1e-4)
        np.testing.assert_array_equal(arrays[name], arrays[f"all_{name}"][order])
    mse, mse_float, largest, exact = (arrays[f"all_{name}"] for name in ERRORS)
    expected = [mse.mean(), mse_float.mean(), largest.max(), exact.mean()]
    assert numbers(got) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("network", "keep"), [("PRP", 4), ("classes", 0), ("classes", 16)])
def test_the_worst_images_keep_order(measure, images, network, keep, monkeypatch):
    monkeypatch.setattr("training.subjects.subject.KEPT_WORST", keep)
    arrays = measure(network, "--bs=3", f"--seed={42}", f"--data_name=keep{keep}").arrays
    pixels, labels = chosen(images, COUNT)
    order, whole = worst_first(arrays)[:keep], ImageDataset(images)
    in_data_set, _ = whole.read(range(len(whole)))
    np.testing.assert_array_equal(in_data_set[arrays["indices"]], pixels[order])
    np.testing.assert_array_equal(arrays["originals"], pixels[order], strict=True)
    assert arrays["image_shape"].tolist() == [1, 8, 8]
    kept = min(keep, COUNT)
    shapes = {
        "returned": ((kept, 1, 8, 8), "float32"),
        "latents": ((kept, 64), "float32"),
        "format": ((), "<U37"),
        **dict.fromkeys(ERRORS, ((kept,), "float64")),
        **{f"all_{name}": ((COUNT,), "float64") for name in ERRORS},
    }
    if network == "classes":
        shapes["labels"] = ((kept, CLASSES), "float32")
        np.testing.assert_array_equal(arrays["labels"], labels[order])
    assert set(arrays) == {*shapes, "indices", "originals", "image_shape"}
    assert {name: (arrays[name].shape, str(arrays[name].dtype)) for name in shapes} == shapes


def test_rows_of_the_largest_errors_are_kept_equal_ones_as_added():
    errors = torch.tensor([2.0, 5, 0, 5, 2, 7, 0, 5], dtype=torch.float64)
    rows = torch.arange(16).view(8, 2)
    for count in (0, 1, 3, 5, 8, 20):
        order = errors.argsort(descending=True, stable=True)[:count]
        for size in (1, 3, 8):
            worst = WorstImages(count)
            for part, places in zip(errors.split(size), rows.split(size), strict=True):
                worst.add(part, rows=places, double=2.0 * places)
            assert torch.equal(worst.rows["rows"], rows[order])
            assert torch.equal(worst.rows["double"], 2.0 * rows[order])


def test_the_histogram_has_places_for_zeros_edges_and_what_is_beyond():
    first, last = BIN_EDGES[0], BIN_EDGES[-1]
    values = torch.stack([0 * first, first / 2, first, BIN_EDGES[1], 0.99 * last, last, 10 * last])
    text = histogram(values)
    assert (text["below"], text["above"]) == (2, 2)
    filled = {place: count for place, count in enumerate(text["counts"]) if count}
    assert filled == {0: 1, 1: 1, len(BIN_EDGES) - 2: 1}
    assert len(text["counts"]) == len(text["edges"]) - 1
    nothing = histogram(torch.zeros(0, dtype=torch.float64))
    assert not any([nothing["below"], nothing["above"], *nothing["counts"]])
