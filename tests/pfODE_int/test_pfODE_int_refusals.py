"""What ``pfODE_int.py`` refuses: one line, and nothing written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_models import write_image_set
from image_simulations import COUNT, Contents, Run
from running import refused

import pfODE_int
from torch_utils.snapshots import read_network, write_network


@pytest.mark.parametrize(
    ("network", "arguments", "parts"),
    [
        ("PRP", ["--sim_type=roundtrip"], ["--sim_type=roundtrip", "--prev_melt"]),
        ("PRP", ["--sim_type=gen", "--gen_source=empirical"], ["--sim_type=gen", "--prev_melt"]),
        ("PRP", ["--prev_melt=x.npz"], ["--prev_melt", "roundtrip", "empirical"]),
        ("PRP", ["--sim_type=roundtrip", "--prev_melt=x.npz", "--bs=3"], ["--bs", "melt"]),
        ("PRP", ["--prev_melt=x.npz", "--sim_type=melt"], ["--prev_melt"]),
        ("PRP", ["--prev_melt=x.npz", "--sim_type=gen"], ["--prev_melt"]),
        ("PRP", ["--eps=empirical"], ["--eps", "--gen_source=empirical"]),
        ("PRP", ["--eps=auto", "--gen_source=empirical"], ["--eps", "diag"]),
        *(
            ("PRP", [f"--eps={eps}"], ["eps", eps, "auto"])
            for eps in ("garbage", "nan", "inf", "0", "-1", "=xx", "")
        ),
        ("PRP", ["--class=0"], ["class is 0", "PRP.pkl has no classes"]),
        ("classes", ["--class=3"], ["class is 3", "classes 0 to 2"]),
        ("PRP", ["--end_time=3.01"], ["3.01", "T = 3"]),
        ("PRP", ["--disc=vp_ode", "--vpode_disc_eps=3"], ["vpode_disc_eps is 3", "T = 3"]),
        ("late", ["--disc=vp_ode", "--vpode_disc_eps=0.4"], ["vpode_disc_eps is 0.4", "0.5"]),
        ("late", ["--end_time=0.4"], ["0.4", "0.5"]),
        ("PRP", ["--data_dim=3072"], ["data_dim is 3072", "64"]),
        ("PRP", ["--dims_to_keep=10"], ["dims_to_keep is 10", "64", "PRP.pkl"]),
        ("PRR", ["--dims_to_keep=64"], ["dims_to_keep is 64", "10", "PRR.pkl"]),
        ("PRP", ["--img_size=32"], ["img_size is 32", "8"]),
        ("PRP", ["--img_ch=3"], ["img_ch is 3", "1"]),
        ("PRP", ["--data_name=a/b"], ["data_name", "a/b"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    tmp_path: Path,
    network: str,
    arguments: list[str],
    parts: list[str],
) -> None:
    result = run_script(pfODE_int, *command(network, *arguments))
    refused(result, 2, *parts)
    # At most the empty folder of the results is there.
    assert set(contents(tmp_path)) <= {"out/"}


def test_a_lone_melt_needs_images(
    run_script: Run, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = [text for text in command("PRP") if not text.startswith("--data_root=")]
    result = run_script(pfODE_int, *arguments, "--sim_type=melt")
    refused(result, 2, "Missing option '--data_root'")
    assert list(tmp_path.iterdir()) == []


def broken_image(path: Path) -> None:
    """A data set with one image that cannot be decoded."""
    write_image_set(path / "data.zip", COUNT)
    content = (path / "data.zip").read_bytes()
    place = content.index(b"IDAT", content.index(b"img00000003"))
    (path / "data.zip").write_bytes(content[:place] + b"I?AT" + content[place + 4 :])


DATA: dict[str, tuple[str, Callable[[Path], Any], list[str]]] = {
    "few": ("PRP", lambda path: write_image_set(path / "data.zip", 4), ["has 4 images", "5 were"]),
    "color": (
        "PRP",
        lambda path: write_image_set(path / "data.zip", 6, (3, 8, 8)),
        ["3 channel", "1 channel"],
    ),
    "large": (
        "PRP",
        lambda path: write_image_set(path / "data.zip", 6, (1, 16, 16)),
        ["16x16", "8x8"],
    ),
    "unlabelled": ("classes", lambda path: write_image_set(path / "data.zip", 6), ["labels"]),
    "classes": (
        "classes",
        lambda path: write_image_set(path / "data.zip", 6, classes=4),
        ["length 4", "takes 3"],
    ),
    "broken": ("PRP", broken_image, ["data.zip", "img00000003"]),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_do_not_fit_end_with_one_line_and_nothing_written(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    tmp_path: Path,
    case: str,
) -> None:
    network, make, parts = DATA[case]
    make(tmp_path)
    source = f"--data_root={tmp_path / 'data.zip'}"
    result = run_script(pfODE_int, *command(network, source))
    refused(result, 1, *parts)
    assert contents(tmp_path / "out") == {}


@pytest.fixture
def melted(simulate: Run) -> Callable[..., Path]:
    """``melted(network, ...)``: the file of a melt."""
    return lambda network, *more: simulate(network, "--sim_type=melt", *more).path("melt")


@pytest.mark.parametrize(
    ("made", "used", "arguments", "parts"),
    [
        (["PRP"], "PRR", [], ["melt.npz", "scales"]),
        (["PRP"], "gap", [], ["melt.npz"]),
        (["PRP"], "PRP", ["--end_time=2"], ["times are 0, 3", "0, 2"]),
        (["PRP"], "PRP", ["--disc=vp_ode"], ["times are 0, 3", "0.01, 3"]),
        (["PRP"], "PRP", ["--end_vars=2"], ["scales"]),
        (["PRR"], "classes", [], ["another network"]),
        (["classes"], "PRR", [], ["another network"]),
    ],
)
@pytest.mark.parametrize("kind", ["roundtrip", "gen"])
def test_a_melt_of_something_else_is_refused_in_one_line(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    melted: Callable[..., Path],
    tmp_path: Path,
    made: list[str],
    used: str,
    arguments: list[str],
    parts: list[str],
    kind: str,
) -> None:
    source = f"--prev_melt={melted(*made)}"
    more = ["--gen_source=empirical"] if kind == "gen" else []
    result = run_script(pfODE_int, *command(used, f"--sim_type={kind}", source, *more, *arguments))
    refused(result, 1, *parts)
    assert contents(tmp_path / "out") == {}


def test_a_file_that_is_no_melt_is_refused_in_one_line(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    simulate: Run,
    tmp_path: Path,
) -> None:
    found = simulate("PRP")
    (tmp_path / "text.npz").write_text("no archive")
    shutil.copy(found.folder / "blobs_PRP_HD_pfODE_int_sim_params.json", tmp_path / "json.npz")
    for path, part in (
        (tmp_path / "none.npz", "does not exist"),
        (tmp_path, "not a readable .npz"),
        (tmp_path / "text.npz", "not a readable .npz"),
        (tmp_path / "json.npz", "not a readable .npz"),
        (found.path("roundtrip"), "no melt"),
        (found.path("gen"), "no melt"),
    ):
        lone = command("PRP", "--sim_type=roundtrip", f"--prev_melt={path}")
        result = run_script(pfODE_int, *lone)
        refused(result, 1, path, part)
        assert contents(tmp_path / "out") == {}


def test_a_network_of_toys_is_told_in_one_line(
    run_script: Run, command: Callable[..., list[str]], networks: dict[str, Path], tmp_path: Path
) -> None:
    parts, about = read_network(networks["PRP"])
    del about["image_shape"]
    write_network(tmp_path / "toy.pkl", parts, {**about, "data_name": "circles"})
    result = run_script(pfODE_int, *command("PRP", f"--network={tmp_path / 'toy.pkl'}"))
    refused(result, 1, "toy.pkl was not trained on images, but on 'circles'")
    assert not (tmp_path / "out").exists()


def test_parameters_that_cannot_be_read_are_not_written_over(
    run_script: Run, command: Callable[..., list[str]], contents: Contents, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "blobs_PRP_HD_pfODE_int_sim_params.json").write_text("{")
    before = contents(tmp_path)
    result = run_script(pfODE_int, *command("PRP", "--overwrite"))
    refused(result, 1, "sim_params.json is not readable JSON")
    assert contents(tmp_path) == before


def test_a_simulation_that_leaves_the_finite_numbers_leaves_no_file(
    run_script: Run,
    command: Callable[..., list[str]],
    contents: Contents,
    networks: dict[str, Path],
    tmp_path: Path,
) -> None:
    parts, about = read_network(networks["PRP"])
    bias = next(name for name in parts["network"].state if name.endswith("to_image.conv.bias"))
    parts["network"].state[bias].fill_(1e38)
    parts["network"].state[bias.replace("bias", "weight")].fill_(1e38)
    for name, tensor in parts["network"].state.items():
        if name.endswith("to_image.norm.bias"):
            tensor.fill_(1e38)
    write_network(tmp_path / "wild.pkl", parts, about)
    result = run_script(pfODE_int, *command("PRP", f"--network={tmp_path / 'wild.pkl'}"))
    refused(result, 1, "not finite at t = 0")
    assert contents(tmp_path / "out") == {}
