"""Roundtrip errors from the command line: against a closed form, however the work is shared."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_models import save_image_model, write_image_set
from running import refused

import calc_roundtrip_mse
import dnnlib
from torch_utils.results import load_arrays
from training.data.images.batches import normalize_pixels
from training.data.images.dataset import ImageDataset
from training.files.roundtrip import BIN_EDGES, histogram
from training.flow.solvers import DEFAULT, SOLVERS
from training.model.model import Model
from training.simulation.roundtrips import WorstImages

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
Arrays = dict[str, np.ndarray]

AVAILABLE, COUNT, CLASSES, END = 30, 10, 3, 3.0
NUMBERS = ("mse", "mse_float", "max_abs_error", "exact_pixels")
ERRORS = ("mse", "mse_float", "max_abs_error", "exact")


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Network files: two with an output of zero, and one with classes and a random output."""
    folder = tmp_path_factory.mktemp("networks")
    kinds: dict[str, dict[str, Any]] = {
        "PRP": {},
        "late": {"t_min": 0.5},
        "classes": {"dims_to_keep": 10, "label_dim": CLASSES, "output": "random"},
    }
    paths = {name: folder / f"{name}.pkl" for name in kinds}
    for name, options in kinds.items():
        save_image_model(paths[name], t_max=END, **options)
    return paths


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images with classes."""
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    write_image_set(path, AVAILABLE, classes=CLASSES)
    return path


class Found:
    """What one command wrote."""

    def __init__(self, folder: Path, seed: int = 42):
        (path,) = folder.glob(f"*_roundtrip_mse_seed{seed}.json")
        self.stem = path.stem
        self.result = json.loads(path.read_text())
        self.arrays = load_arrays(path.with_name(f"{path.stem}_worst.npz"))

    @property
    def numbers(self) -> list[float]:
        return [self.result[name] for name in NUMBERS]


@pytest.fixture
def command(networks: dict[str, Path], images: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """``command(network, ...)``: few images and steps, unless arguments say otherwise."""

    def arguments(network: str, *more: object) -> list[str]:
        standard = {
            "--network": networks[network],
            "--save_dir": tmp_path / "out",
            "--data_root": images,
            "--total_samples": COUNT,
            "--n_iters": 4,
            "--solver": "euler",
            "--batch-gpu": 4,
        }
        given = {str(argument).partition("=")[0] for argument in more}
        left = [f"{name}={value}" for name, value in standard.items() if name not in given]
        return [*left, *map(str, more)]

    return arguments


@pytest.fixture
def measure(run_script: Run, command: Callable[..., list[str]], tmp_path: Path) -> Run:
    """Runs a command as ``command`` makes it in a folder of its own, and reads what it wrote."""
    numbers = iter(range(100))

    def start(network: str, *more: object, seed: int = 42) -> Found:
        folder = tmp_path / f"measured{next(numbers)}"
        place = (f"--save_dir={folder}", f"--seed={seed}")
        result = run_script(calc_roundtrip_mse, *command(network, *more, *place))
        assert (result.code, result.err) == (0, ""), result.err
        return Found(folder, seed)

    return start


def chosen(images: Path, count: int, seed: int = 42) -> tuple[torch.Tensor, torch.Tensor]:
    """The images that a seed chooses, and their labels."""
    dataset = ImageDataset(images, use_labels=True, max_size=count, seed=seed)
    return dataset.read(range(count))


def errors_of(originals: np.ndarray, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Errors of each image, ``[N]``, from gray levels ``[N, ...]`` before rounding."""
    original = originals.reshape(len(originals), -1).astype(np.float64)
    level = levels.reshape(len(levels), -1).astype(np.float64)
    rounded = np.clip(np.rint(level), 0, 255) - original
    return {
        "mse": (rounded**2).mean(axis=1),
        "mse_float": ((level - original) ** 2).mean(axis=1),
        "max_abs_error": np.abs(level - original).max(axis=1),
        "exact": (rounded == 0).mean(axis=1),
    }


def euler_there_and_back(network: Path, pixels: torch.Tensor, steps: int) -> np.ndarray:
    """Gray levels after Euler steps in the flow of Gaussian data, where each multiplies.

    Of ``dx_i/dt = a_i x_i`` a step forward makes ``1 + h a_i(t)``, one back ``1 - h a_i(t + h)``.
    """
    denoiser = Model.load(network).denoiser
    basis, schedule = denoiser.basis, denoiser.schedule
    times = torch.linspace(0, END, steps + 1, dtype=torch.float64)
    gamma, half_rate = schedule.noise_variance(times), schedule.log_noise_rate(times) / 2
    shrinking = schedule.log_scale_rate(times)[:, None]
    a = shrinking + half_rate * gamma / (basis.eigenvalues + gamma)
    factors = (1 + END / steps * a[:-1]) * (1 - END / steps * a[1:])
    points = basis.to_eigen(normalize_pixels(pixels).flatten(1).double())
    return ((basis.from_eigen(points * factors.prod(dim=0)) + 1) * 127.5).numpy()


def test_the_promised_files_are_written_and_nothing_else(
    run_script: Run, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    for arguments in (("PRP",), ("classes", "--data_name=cifar10", "--seed=7")):
        assert run_script(calc_roundtrip_mse, *command(*arguments)).code == 0
    assert sorted(os.listdir(tmp_path / "out")) == [
        "blobs_PRP_roundtrip_mse_seed42.json",
        "blobs_PRP_roundtrip_mse_seed42_worst.npz",
        "cifar10_PRRto10D_roundtrip_mse_seed7.json",
        "cifar10_PRRto10D_roundtrip_mse_seed7_worst.npz",
    ]


def test_errors_are_those_of_the_closed_form(
    measure: Run, networks: dict[str, Path], images: Path
) -> None:
    found = measure("PRP", "--n_iters=16")
    pixels, _ = chosen(images, COUNT)
    expected = errors_of(pixels.numpy(), euler_there_and_back(networks["PRP"], pixels, 16))
    assert 1 < expected["mse"].mean() < 1000
    # The pixels are given to the flow in single precision, 1e-5 of a gray level.
    for name in ("mse_float", "max_abs_error"):
        np.testing.assert_allclose(found.arrays[f"all_{name}"], expected[name], rtol=1e-5)
    for name in ("mse", "exact"):
        np.testing.assert_allclose(found.arrays[f"all_{name}"], expected[name], rtol=1e-12)
    assert found.numbers == pytest.approx(
        [
            expected["mse"].mean(),
            expected["mse_float"].mean(),
            expected["max_abs_error"].max(),
            expected["exact"].mean(),
        ],
        rel=1e-5,
    )


def test_with_small_steps_the_images_come_back_exactly(measure: Run) -> None:
    found = measure("PRP", "--solver=rk4", "--n_iters=20", "--total_samples=4")
    assert (found.result["mse"], found.result["exact_pixels"]) == (0, 1)
    assert 0 < found.result["mse_float"] < found.result["max_abs_error"] ** 2 < 1e-4
    assert found.result["denoiser_calls"] == 2 * 20 * 4


def test_images_are_melted_and_brought_back_under_their_own_class(
    measure: Run, networks: dict[str, Path], images: Path
) -> None:
    found = measure("classes", f"--keep_worst={COUNT}")
    pixels, labels = chosen(images, COUNT)
    order = found.arrays["indices"]
    np.testing.assert_array_equal(found.arrays["labels"], labels[order])
    flow = Model.load(networks["classes"]).flow
    times = torch.linspace(0, END, 5, dtype=torch.float64)
    points = normalize_pixels(pixels).flatten(1)

    def levels_and_latents(conditions: dict[str, torch.Tensor]) -> list[np.ndarray]:
        given = flow.given(**conditions)
        melt = given.melt(points, times, SOLVERS["euler"]).end
        back = given.generate(melt, times, SOLVERS["euler"])
        data = given.to_data(back.end, back.times[-1])
        return [((data + 1) * 127.5).numpy()[order], melt.numpy()[order]]

    levels, latents = levels_and_latents({"labels": labels})
    np.testing.assert_allclose(found.arrays["returned"].reshape(COUNT, -1), levels, atol=1e-3)
    np.testing.assert_allclose(found.arrays["latents"], latents, atol=1e-5)
    others, _ = levels_and_latents({})
    assert np.abs(levels - others).max() > 0.1


def test_arrays_have_the_promised_names_shapes_and_types(measure: Run) -> None:
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "originals": ((3, 1, 8, 8), "uint8"),
        "returned": ((3, 1, 8, 8), "float32"),
        "latents": ((3, 64), "float32"),
        "indices": ((3,), "int64"),
        "image_shape": ((3,), "int64"),
        "format": ((), "<U37"),
        **dict.fromkeys(ERRORS, ((3,), "float64")),
        **{f"all_{name}": ((COUNT,), "float64") for name in ERRORS},
    }
    for network, more in (("PRP", {}), ("classes", {"labels": ((3, CLASSES), "float32")})):
        arrays = measure(network, "--keep_worst=3").arrays
        found = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        assert found == {**shapes, **more}
        assert arrays["image_shape"].tolist() == [1, 8, 8]


def test_the_numbers_are_those_of_the_kept_images(measure: Run) -> None:
    found = measure("classes", f"--keep_worst={COUNT}")
    arrays = found.arrays
    errors = errors_of(arrays["originals"], arrays["returned"])
    for name, values in errors.items():
        np.testing.assert_allclose(arrays[name], values, rtol=1e-4)
        np.testing.assert_array_equal(arrays[name], arrays[f"all_{name}"][arrays["indices"]])
    mean = {name: float(arrays[f"all_{name}"].mean()) for name in ERRORS}
    assert found.result["mse"] == pytest.approx(mean["mse"], rel=1e-12)
    assert found.result["mse_float"] == pytest.approx(mean["mse_float"], rel=1e-12)
    assert found.result["exact_pixels"] == pytest.approx(mean["exact"], rel=1e-12)
    assert found.result["max_abs_error"] == arrays["all_max_abs_error"].max()


@pytest.mark.parametrize("keep", [0, 1, 4, 100])
def test_the_worst_images_are_kept_in_their_order(measure: Run, images: Path, keep: int) -> None:
    arrays = measure("classes", f"--keep_worst={keep}", "--bs=3").arrays
    order = np.argsort(-arrays["all_mse_float"], kind="stable")[:keep]
    np.testing.assert_array_equal(arrays["indices"], order)
    pixels, _ = chosen(images, COUNT)
    np.testing.assert_array_equal(arrays["originals"], pixels[order])
    assert len(arrays["returned"]) == len(arrays["latents"]) == min(keep, COUNT)


def test_rows_of_the_largest_errors_are_kept_equal_ones_as_added() -> None:
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


def test_the_histogram_counts_every_image(measure: Run) -> None:
    found = measure("PRP")
    told = found.result["rms_error_histogram"]
    values = np.sqrt(found.arrays["all_mse_float"])
    counts, _ = np.histogram(values, told["edges"])
    assert told["counts"] == counts.tolist()
    assert sum(told["counts"]) + told["below"] + told["above"] == COUNT
    assert told["unit"] == "gray levels"
    edges = np.array(told["edges"])
    np.testing.assert_allclose(np.diff(np.log10(edges)), 0.2)
    np.testing.assert_allclose(edges[[0, -1]], [1e-6, 1e3])


def test_the_histogram_has_places_for_zeros_edges_and_what_is_beyond() -> None:
    first, last = BIN_EDGES[0], BIN_EDGES[-1]
    values = torch.stack([0 * first, first / 2, first, BIN_EDGES[1], 0.99 * last, last, 10 * last])
    told = histogram(values)
    assert (told["below"], told["above"]) == (2, 2)
    filled = {place: count for place, count in enumerate(told["counts"]) if count}
    assert filled == {0: 1, 1: 1, len(BIN_EDGES) - 2: 1}
    assert len(told["counts"]) == len(told["edges"]) - 1
    nothing = histogram(torch.zeros(0, dtype=torch.float64))
    assert not any([nothing["below"], nothing["above"], *nothing["counts"]])


def same(found: Found, expected: Found) -> None:
    """Asserts that results are the same up to the order of summation."""
    np.testing.assert_allclose(found.numbers, expected.numbers, rtol=1e-9)
    for name in ("rms_error_histogram", "images", "denoiser_calls"):
        assert found.result[name] == expected.result[name]
    assert set(found.arrays) == set(expected.arrays)
    for name in expected.arrays.keys() - {"format"}:
        one, other = found.arrays[name], expected.arrays[name]
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_size_of_batches_changes_nothing(measure: Run) -> None:
    whole = measure("classes")
    for size in (1, 7):
        same(measure("classes", f"--bs={size}"), whole)


def test_the_size_of_network_calls_changes_nothing_but_rounding(measure: Run) -> None:
    one = measure("classes", "--batch_gpu=1")
    other = measure("classes", "--batch_gpu=16")
    np.testing.assert_allclose(one.numbers, other.numbers, rtol=1e-4)


def test_no_more_than_a_batch_is_read_at_a_time(
    measure: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, sizes = ImageDataset.read, []

    def noted(dataset: ImageDataset, indices: Any) -> Any:
        sizes.append(len(indices))
        return read(dataset, indices)

    monkeypatch.setattr(ImageDataset, "read", noted)
    measure("PRP", "--bs=4")
    assert sizes == [4, 4, 2]


def test_images_are_chosen_by_seed_without_repetition(measure: Run, images: Path) -> None:
    def shown(seed: int, count: int) -> list[bytes]:
        more = (f"--keep_worst={count}", f"--total_samples={count}", "--n_iters=1")
        arrays = measure("PRP", *more, seed=seed).arrays
        in_order = arrays["originals"][arrays["indices"].argsort()]
        assert arrays["indices"].max() == count - 1
        return [image.tobytes() for image in in_order]

    first, again, other = shown(1, COUNT), shown(1, COUNT), shown(2, COUNT)
    assert first == again != other
    assert len(set(first)) == COUNT
    assert len(set(shown(1, AVAILABLE))) == AVAILABLE


def test_parameters_tell_every_option_and_how_the_result_was_made(
    measure: Run, images: Path
) -> None:
    result = measure("PRP", "--seed=5", seed=5).result
    assert set(result["options"]) == {param.name for param in calc_roundtrip_mse.main.params}
    known = {
        "total_samples": COUNT,
        "bs": 1000,
        "keep_worst": 16,
        "seed": 5,
        "n_iters": 4,
        "dims_to_keep": 64,
        "end_time": END,
        "data_name": "blobs",
        "data_root": str(images),
    }
    assert {name: result["options"][name] for name in known} == known
    assert result["options"]["device_name"].startswith(("cpu", "cuda"))
    assert result["images"] == COUNT
    assert result["image_shape"] == [1, 8, 8]
    assert result["worst"] == "blobs_PRP_roundtrip_mse_seed5_worst.npz"
    assert result["denoiser_calls"] == 2 * 4
    assert 0 < result["seconds"] < 60
    assert result["code_version"] == dnnlib.__version__
    assert result["libraries"]["torch"] == torch.__version__
    assert result["command"][0] == "calc_roundtrip_mse.py"


def test_samples_are_those_of_the_paper_by_default() -> None:
    defaults = {param.name: param.default for param in calc_roundtrip_mse.main.params}
    assert (defaults["bs"], defaults["total_samples"], defaults["seed"]) == (1000, 10000, 42)
    assert (defaults["solver"], str(defaults["n_iters"])) == (DEFAULT, "20")


def test_the_last_line_tells_the_numbers_in_words(
    run_script: Run, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    result = run_script(calc_roundtrip_mse, *command("PRP"))
    assert (result.code, result.err) == (0, "")
    *wrote, last = result.out.splitlines()
    found = Found(tmp_path / "out")
    assert [line.removeprefix("Wrote ") for line in wrote] == [
        str(tmp_path / "out" / f"{found.stem}.json"),
        str(tmp_path / "out" / f"{found.stem}_worst.npz"),
    ]
    mse, mse_float, largest, exact = found.numbers
    for part in (
        f"Roundtrip of {COUNT} images",
        f"mean squared error {mse:.6g} squared gray levels after rounding",
        f"{mse_float:.6g} before",
        f"largest error {largest:.4g} gray levels",
        f"{exact:.4%} of the pixels exact",
    ):
        assert part in last


@pytest.mark.parametrize(
    ("network", "arguments", "parts"),
    [
        ("PRP", ["--dims_to_keep=10"], ["dims_to_keep is 10", "64", "PRP.pkl"]),
        ("classes", ["--dims_to_keep=64"], ["dims_to_keep is 64", "10"]),
        ("PRP", ["--data_dim=3072"], ["data_dim is 3072", "64"]),
        ("PRP", ["--img_size=32"], ["img_size is 32", "8"]),
        ("PRP", ["--data_name=a/b"], ["data_name", "a/b"]),
        ("PRP", ["--end_time=3.5"], ["end_time is 3.5", "T = 3"]),
        ("late", ["--end_time=0.5"], ["T is 0.5", "start at t = 0.5"]),
        ("late", ["--end_time=0.4"], ["T is 0.4", "start at t = 0.5"]),
        ("PRP", ["--disc=vp_ode", "--vpode_disc_eps=3"], ["vpode_disc_eps is 3", "T = 3"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run,
    command: Callable[..., list[str]],
    tmp_path: Path,
    network: str,
    arguments: list[str],
    parts: list[str],
) -> None:
    result = run_script(calc_roundtrip_mse, *command(network, *arguments))
    refused(result, 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "made", "parts"),
    [
        ("PRP", {"count": COUNT - 1}, [f"has {COUNT - 1} images", f"{COUNT} were asked for"]),
        ("PRP", {"count": COUNT, "image_shape": (3, 8, 8)}, ["3 channel", "1 channel"]),
        ("PRP", {"count": COUNT, "image_shape": (1, 16, 16)}, ["16x16", "8x8"]),
        ("classes", {"count": COUNT}, ["no labels"]),
        ("classes", {"count": COUNT, "classes": 4}, ["length 4", "takes 3"]),
    ],
)
def test_data_that_do_not_fit_end_with_one_line_and_nothing_written(
    run_script: Run,
    command: Callable[..., list[str]],
    tmp_path: Path,
    network: str,
    made: dict[str, Any],
    parts: list[str],
) -> None:
    write_image_set(tmp_path / "data.zip", **made)
    source = f"--data_root={tmp_path / 'data.zip'}"
    result = run_script(calc_roundtrip_mse, *command(network, source))
    refused(result, 1, tmp_path / "data.zip", *parts)
    assert not (tmp_path / "out").exists()


def test_a_broken_image_in_the_middle_leaves_no_file(
    run_script: Run, command: Callable[..., list[str]], contents: Contents, tmp_path: Path
) -> None:
    path = tmp_path / "data.zip"
    write_image_set(path, COUNT)
    content = path.read_bytes()
    place = content.index(b"IDAT", content.index(b"img00000007"))
    path.write_bytes(content[:place] + b"I?AT" + content[place + 4 :])
    result = run_script(calc_roundtrip_mse, *command("PRP", f"--data_root={path}", "--bs=3"))
    refused(result, 1, "img00000007")
    assert contents(tmp_path / "out") == {}
