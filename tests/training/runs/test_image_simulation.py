"""Image networks made ready to be integrated: what is settled, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, InflationError, UsageError
from tests.support.draws import double
from tests.support.image_models import SHAPE, save_image_model, write_image_set
from tests.support.refusals import refusal
from torch_utils.snapshots import read_network, write_network
from training.flow.calls import BLOCK_ROWS
from training.flow.solvers import SOLVERS
from training.runs.times import TimeChoice
from training.subjects import ImageFlow, NetworkFile
from training.subjects.images import draw_classes
from training.subjects.networks import plain_name
from training.subjects.subject import summarize_variances

CPU = torch.device("cpu")
RK4 = SOLVERS["rk4"]
Open = Callable[..., ImageFlow]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    kinds: dict[str, dict[str, Any]] = {
        "PRP": {},
        "PRR": {"dims_to_keep": 10, "output": "random", "label_dim": 3, "t_min": 0.5},
        "RGB": {"image_shape": (3, 8, 8), "data_name": "colors"},
        "VP": {"precond": "vp", "t_max": 1.0},
    }
    paths = {name: folder / f"{name}.pkl" for name in kinds}
    for name, options in kinds.items():
        save_image_model(paths[name], **options)
    return paths


@pytest.fixture
def open_flow(networks: dict[str, Path]) -> Open:
    """``open_flow(name, data_name, ...)``: the flow of one of the networks."""

    def start(
        name: str, data_name: str | None = None, said: dict[str, Any] | None = None, **choice: Any
    ) -> ImageFlow:
        return ImageFlow.of(NetworkFile.open(str(networks[name]), **choice), said or {}, data_name)

    return start


def test_what_is_known_and_what_may_be_said(open_flow: Open, networks: dict[str, Path]) -> None:
    flow = open_flow("PRR")
    known = {"data_dim": 64, "dims_to_keep": 10, "img_size": 8, "img_ch": 1, "data_name": "blobs"}
    assert flow.known == known
    assert (flow.file.path, flow.stem) == (networks["PRR"], "blobs_PRRto10D")
    assert (flow.image_shape, flow.label_dim) == (SHAPE, 3)
    times = TimeChoice(4, 6.0).of(flow, flow.on(CPU), RK4)
    torch.testing.assert_close(times, torch.linspace(0.5, 6, 5, dtype=torch.float64))
    said = {"data_dim": 192, "dims_to_keep": None, "img_size": 8, "img_ch": 3}
    flow = open_flow("RGB", "mine", said=said)
    assert (flow.data_name, flow.image_shape) == ("mine", (3, 8, 8))
    denoiser = open_flow("PRP", end_std=2.5, precision="bf16").file.model.denoiser
    assert (denoiser.schedule.end_std, denoiser.precision) == (2.5, "bf16")


def test_what_contradicts_the_network_is_a_usage_error_with_both_values(open_flow: Open) -> None:
    for network, name, value, known in (
        ("PRP", "data_dim", 65, "64"),
        ("PRR", "dims_to_keep", 64, "10"),
        ("PRP", "img_size", 16, "8"),
        ("RGB", "img_ch", 1, "3"),
    ):
        with pytest.raises(UsageError, match=rf"--{name} is {value}, .* has {known}"):
            open_flow(network, said={name: value})
    # A baseline has no scale.
    with pytest.raises(InflationError, match=r"end_vars is 2, but a model of vp"):
        open_flow("VP", end_std=2.0)


def altered(source: Path, path: Path, about: dict[str, Any]) -> Path:
    """A copy of a network file that says other things about itself."""
    parts, known = read_network(source)
    changed = {name: value for name, value in {**known, **about}.items() if value is not None}
    write_network(path, parts, changed)
    return path


def test_a_network_of_no_images_is_a_data_error(networks: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "n.pkl"

    def opened(**about: Any) -> ImageFlow:
        return ImageFlow.of(NetworkFile.open(str(altered(networks["PRP"], path, about))), {})

    wrong = (8, "1x8", [1, 8], [1, 2, 3, 4], [1, 8, 9], [-1, -8, 8], [1.0, 8, 8])
    for about, message in (
        (
            {"image_shape": None, "data_name": "circles"},
            "on 'circles': give it to toy_pfODE_int.py",
        ),
        *(({"image_shape": shape}, r"says that its images are .*, but .* 64 n") for shape in wrong),
        *(({"image_shape": shape}, "square, and gray or RGB") for shape in ([4, 4, 4], [1, 4, 16])),
        *(({"label_dim": classes}, "classes") for classes in ("many", -1, 2.0, True)),
    ):
        with pytest.raises(DataError, match=rf"n\.pkl.*{message}"):
            opened(**about)
    flow = opened(data_name=None, label_dim=None)
    assert (flow.data_name, flow.label_dim) == ("images", 0)
    assert "none.pkl" in refusal(NetworkFile.open, str(tmp_path / "none.pkl"))


@torch.no_grad()
def test_the_flow_calls_its_network_in_blocks(open_flow: Open) -> None:
    image_flow = open_flow("PRR")
    sizes: list[int] = []
    network = image_flow.file.model.denoiser.network
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    x, t = torch.zeros(20, 64, dtype=torch.float64), double(1.0)
    for rows, calls in ((7, [7, 7, 7]), (None, [BLOCK_ROWS["cpu"]] * 2)):
        sizes.clear()
        flow = image_flow.on(CPU, rows)
        out = flow.denoiser(x, t)
        assert sizes == calls
        torch.testing.assert_close(out, image_flow.file.model.denoiser(x, t), rtol=1e-5, atol=1e-6)


def test_classes_come_with_images_if_a_network_takes_them(open_flow: Open, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    pixels = write_image_set(path, 30, classes=3)
    found, labels = open_flow("PRR").dataset(path, 12, 1).read(range(12))
    for image, label in zip(found.numpy(), labels, strict=True):
        (place,) = np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))
        assert label.tolist() == [float(place % 3 == index) for index in range(3)]
    assert open_flow("PRP").dataset(path, 4, 0).label_dim == 0


def test_data_that_do_not_fit_are_an_error_of_both_values(open_flow: Open, tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    for network, made, parts in (
        ("PRP", {"count": 5}, ["has 5 images", "6 were asked for"]),
        ("RGB", {"count": 6}, ["8x8 pixels in 1 channel", "8x8 pixels in 3 channel"]),
        ("PRP", {"count": 6, "image_shape": (1, 16, 16)}, ["16x16", "8x8"]),
        ("PRR", {"count": 6}, ["no labels"]),
        ("PRR", {"count": 6, "classes": 2}, ["labels of length 2", "takes 3"]),
        ("PRR", {"count": 6, "classes": 5}, ["labels of length 5", "takes 3"]),
    ):
        write_image_set(path, **made)
        message = refusal(open_flow(network).dataset, path, 6, 0)
        for part in parts:
            assert part in message
        path.unlink()
    refusal(open_flow("PRP").dataset, path, 6, 0)


def test_a_class_is_one_of_the_networks_and_a_label_one_hot(open_flow: Open) -> None:
    with_classes, without = open_flow("PRR"), open_flow("PRP")
    classes = torch.tensor([2, 0, 1, 2])
    labels = with_classes.one_hot(classes)
    assert torch.equal(labels, torch.eye(3)[classes])
    assert without.one_hot(classes) is None
    for number in (None, 0, 2):
        with_classes.check_class(number)
    without.check_class(None)
    with pytest.raises(UsageError, match=r"class is 3, but PRR\.pkl has classes 0 to 2"):
        with_classes.check_class(3)
    with pytest.raises(UsageError, match=r"class is 0, but PRP\.pkl has no classes"):
        without.check_class(0)


def test_classes_are_drawn_by_seed_and_evenly_or_given() -> None:
    assert torch.equal(draw_classes(4, 3, 0, 2), torch.tensor([2, 2, 2, 2]))
    drawn = draw_classes(3000, 3, 0, None)
    assert torch.equal(drawn, draw_classes(3000, 3, 0, None))
    assert not torch.equal(drawn, draw_classes(3000, 3, 1, None))
    counts = drawn.bincount(minlength=3)
    assert len(counts) == 3
    # Four standard deviations of a binomial count.
    assert ((counts - 1000).abs() < 4 * (3000 * (1 / 3) * (2 / 3)) ** 0.5).all()
    assert torch.equal(draw_classes(5, 0, 0, None), torch.zeros(5, dtype=torch.int64))


def test_names_are_plain_parts_of_the_names_of_files() -> None:
    for name in ("cifar10", "cifar10-32x32", "a.b+c_d", "größe", "_x", "7"):
        assert plain_name(name) == name
    for name in ("", ".", "..", "-", "a/b", "../a", "a b", "a\\b", "a\n", "~", "*"):
        assert "data_name" in refusal(plain_name, name, kind=UsageError)


def test_variances_are_summarized_by_their_ratios() -> None:
    exact = double([2.0, 4.0, 1.0, 1.0])
    measured = double([2.2, 3.0, 1.0, 9.0])
    found = summarize_variances(measured, exact, 3)
    assert found == pytest.approx({"mean": (1.1 + 0.75 + 1) / 3, "worst": 0.75})
    assert summarize_variances(measured, exact, 4)["worst"] == 9.0
