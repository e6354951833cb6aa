"""import_network.py: files of the paper's original code, recorded outputs, and hostile files."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gen_fid_samples
import import_network
import toy_pfODE_int
from tests.support.original_files import Persistent, dumps, toy_content
from tests.support.running import refused
from training.model.model import Model

ROOT = Path(__file__).parent.parent
# Files with random weights, 8 MB, and what the original code makes of some points.
FOLDERS = (ROOT / "tests" / "fixtures", ROOT.parent / "shared" / "fixtures")
NAMES = ("toy_circles_prp", "image_8x8_prr10")
RECORDED = {
    name: next((f for folder in FOLDERS if (f := folder / f"{name}.pkl").exists()), None)
    for name in NAMES
}
needs_recorded = pytest.mark.skipif(
    None in RECORDED.values(), reason=f"needs {' and '.join(NAMES)} in {FOLDERS[0]}"
)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "original.pkl"
    path.write_bytes(dumps(toy_content()))
    return path


# What the original gives.


@needs_recorded
@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_the_original_code_gives_what_it_gave(
    run_script: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    source, dest = RECORDED[name], tmp_path / "network-snapshot-000000.pkl"
    result = run_script(import_network, f"--source={source}", f"--dest={dest}")
    assert (result.code, result.err) == (0, "")
    model = Model.load(dest)
    with np.load(source.with_suffix(".npz")) as file:
        known = dict(file)
    x, t = torch.from_numpy(known["x_es"]), torch.from_numpy(known["t"])
    denoised = model.denoiser(x, t).double()
    if known["space"] == "IS":
        # Recorded as images, from points in eigenspace.
        denoised = model.denoiser.basis.from_eigen(denoised)
    given = torch.from_numpy(known["denoised"]).double()
    error = (denoised - given).norm(dim=1) / given.norm(dim=1)
    assert error.max() < 2e-6
    assert model.denoiser.noise_cond == "ddpm_float32"
    # The loss is weighted by 1/c_out, computed in float32 with cancellation.
    weight = 1 / model.denoiser.coefficients(t.double()).c_out
    torch.testing.assert_close(
        weight, torch.from_numpy(known["weight"]).double(), rtol=2e-4, atol=0
    )


@needs_recorded
def test_a_network_of_images_makes_images(run_script: Callable[..., Any], tmp_path: Path) -> None:
    network = tmp_path / "network.pkl"
    source = RECORDED["image_8x8_prr10"]
    run_script(import_network, f"--source={source}", f"--dest={network}", "--data_name=digits")
    folder = tmp_path / "images"
    options = (f"--save_dir={folder}", f"--network={network}", "--seeds=0-2", "--n_iters=3")
    result = run_script(gen_fid_samples, *options, "--solver=euler", "--dims_to_keep=10")
    assert result.code == 0
    assert sorted(path.name for path in folder.glob("*.png")) == [f"{n:06d}.png" for n in range(3)]


# The script.


def test_an_imported_toy_network_can_be_simulated(
    run_script: Callable[..., Any], original: Path, tmp_path: Path
) -> None:
    network = tmp_path / "made" / "network-snapshot-000000.pkl"
    result = run_script(import_network, f"--source={original}", f"--dest={network}")
    assert result.code == 0
    assert "OriginalToyConvUNet" in result.out
    folder = tmp_path / "simulations"
    sizes = ("--total_samples=5", "--steps=4", "--h=1.5", "--save_freq=2")
    result = run_script(
        toy_pfODE_int,
        "net",
        f"--save_dir={folder}",
        f"--network={network}",
        *("--data_name=circles", "--data_dim=2", "--dims_to_keep=2", "--solver=euler"),
        *sizes,
    )
    assert result.code == 0
    with np.load(folder / "circles_PRP_net_melt_results.npz") as melt:
        assert melt["xs"].shape == (3, 5, 2)
        assert np.isfinite(melt["xs"]).all()
        assert melt["times"][-1] == 6.0


def test_parameters_are_written_beside_the_network(
    run_script: Callable[..., Any], original: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "network-snapshot-000000.pkl"
    run_script(import_network, f"--source={original}", f"--dest={dest}", "--tmax=5")
    params = json.loads((tmp_path / "network-snapshot-000000_import_params.json").read_text())
    assert params["options"]["tmax"] == 5.0
    assert params["about"] == Model.load(dest).about
    assert params["about"]["tmax"] == 5.0
    assert params["original"]["classes"] == ["IFsToyPreCond", "ToyConvUNet"]
    assert params["schedule"]["rho"] == 1.0
    assert {"code_version", "seconds", "parameters", "network_arguments"} <= set(params)


def test_the_source_is_never_replaced(
    run_script: Callable[..., Any], original: Path, tmp_path: Path, contents: Callable[..., Any]
) -> None:
    before = contents(tmp_path)
    for name in ("original.pkl", "./original.pkl"):
        dest = f"--dest={tmp_path}/{name}"
        result = run_script(import_network, f"--source={original}", dest, "--overwrite")
        refused(result, 2, "give another")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        ({"ema": None}, (), 1, "holds no network"),
        ({"ema": Persistent("VPPrecond")}, (), 1, "holds a 'VPPrecond'"),
        (toy_content("spirals"), (), 1, "toy 'spirals'"),
        (toy_content(), ("--data_name=moons",), 2, "data_name is moons"),
        (toy_content(), ("--tmax=8",), 2, "tmax is 8, but"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    run_script: Callable[..., Any],
    tmp_path: Path,
    contents: Callable[..., Any],
    content: Any,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    source = tmp_path / "original.pkl"
    source.write_bytes(dumps(content))
    before = contents(tmp_path)
    result = run_script(
        import_network, f"--source={source}", f"--dest={tmp_path / 'out' / 'n.pkl'}", *options
    )
    refused(result, code, message)
    assert contents(tmp_path) == before


# Hostile files.


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any):
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def plant(content: dict[str, Any], place: str, planted: Any) -> None:
    """Puts something in the content of a file, where one would not look for it."""
    network = content["ema"].child("model")
    if place == "the file":
        content["more"] = planted
    elif place == "the arguments":
        network.state["_init_kwargs"]["more"] = planted
    elif place == "a weight":
        network.child("dense11").state["_parameters"]["weight"] = planted
    elif place == "a module":
        network.state["_modules"]["dense11"] = planted
    elif place == "a hook":
        content["ema"].state["_forward_hooks"] = {"more": planted}
    elif place == "the PCA":
        content["dataset_kwargs"]["pca_trf"].mean_ = planted


PLACES = ("the file", "the arguments", "a weight", "a module", "a hook", "the PCA")


@pytest.mark.parametrize("place", PLACES)
def test_a_planted_call_is_refused_by_name_and_not_made(
    run_script: Callable[..., Any], tmp_path: Path, place: str
) -> None:
    content, marker = toy_content(), tmp_path / "marker"
    plant(content, place, Call(os.system, f"touch {marker}"))
    source, dest = tmp_path / "original.pkl", tmp_path / "network.pkl"
    source.write_bytes(dumps(content))
    result = run_script(import_network, f"--source={source}", f"--dest={dest}")
    refused(
        result,
        1,
        "it refers to posix.system",
        "only tensors, arrays and the networks of the original code",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original.pkl"]


@needs_recorded
@pytest.mark.parametrize("name", NAMES)
def test_a_call_planted_in_a_recorded_file_is_refused(
    run_script: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    data, marker = RECORDED[name].read_bytes(), tmp_path / "marker"
    command = f"touch {marker}".encode()
    call = b"cos\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R0"
    # After protocol and frame, whose length does not matter to Python either.
    source = tmp_path / "original.pkl"
    source.write_bytes(data[:2] + call + data[2:])
    result = run_script(import_network, f"--source={source}", f"--dest={tmp_path / 'n.pkl'}")
    refused(result, 1, "it refers to os.system")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original.pkl"]


def test_source_text_is_not_run(
    run_script: Callable[..., Any], original: Path, tmp_path: Path
) -> None:
    marker, content = tmp_path / "marker", toy_content()
    content["ema"].source = f"open({str(marker)!r}, 'w').close()"
    content["ema"].child("model").source = content["ema"].source
    original.write_bytes(dumps(content))
    result = run_script(import_network, f"--source={original}", f"--dest={tmp_path / 'n.pkl'}")
    assert result.code == 0
    assert not marker.exists()


# A hook cannot be removed: it needs a process of its own.
AUDITED = """
import pickle
import sys
from contextlib import suppress
from pathlib import Path

import import_network
from dnnlib.errors import DataError
from training.original.file import read_original

RUNS = ("exec", "compile", "import", "marshal.loads", "pickle.find_class", "ctypes.", "os.", "pty.")
REACHES = ("subprocess.", "socket.", "urllib.", "shutil.", "tempfile.", "webbrowser.", "ftplib.")
LOOKS = ("os.listdir", "os.scandir")
events, listening = [], False


def hook(event, arguments):
    if not listening:
        return
    if event == "open":
        path, mode, flags = arguments
        if mode not in ("r", "rb", None) or flags & 0o3:
            events.append(f"open {path} {mode}")
    elif event.startswith((*RUNS, *REACHES)) and event not in LOOKS:
        events.append(f"{event} {arguments[:1]}")


def script(path):
    options = [f"--source={path}", f"--dest={path}.out"]
    import_network.main.main(options, standalone_mode=False)


folder, marker = map(Path, sys.argv[1:])
for function in (script, read_original):  # what click and Python import on first use
    with suppress(DataError):
        function(folder / "missing.pkl")
sys.addaudithook(hook)
for path in folder.glob("*.pkl"):
    hostile = "source text" not in path.name
    for function in (script, read_original) if hostile else (read_original,):
        message = ""
        listening = True
        try:
            function(path)
        except DataError as error:
            message = str(error)
        listening = False
        assert ("it refers to " in message) == hostile, (path, message)
        assert not events, (path, events)
assert not marker.exists()

for path in folder.glob("*alone.pkl"):
    listening = True
    with suppress(Exception):
        pickle.loads(path.read_bytes())
    listening = False
    assert len(events) > 1, f"{path} is not hostile, or the hook is deaf: {events}"
    events.clear()
assert marker.exists(), "the files were not hostile"
"""


@pytest.mark.hostile
def test_nothing_happens_while_a_hostile_file_is_read(tmp_path: Path) -> None:
    marker, folder = tmp_path / "marker", tmp_path / "files"
    folder.mkdir()
    write = f"open({str(marker)!r}, 'w').close()"
    hostile = {
        "system": Call(os.system, f"touch {marker}"),
        "exec": Call(exec, write),
        "eval": Call(eval, write),
        "compile": Call(compile, write, "text", "exec"),
        "import": Call(__import__, "this"),
        "open": Call(open, str(marker), "w"),
        "popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "touch": Call(Path.touch, marker),
        "socket": Call(socket.create_connection, ("localhost", 9)),
        "torch": Call(torch.load, str(marker)),
    }
    for name, planted in hostile.items():
        for place in PLACES if name == "system" else PLACES[:1]:
            content = toy_content()
            plant(content, place, planted)
            (folder / f"{name} in {place}.pkl").write_bytes(dumps(content))
        (folder / f"{name} alone.pkl").write_bytes(dumps({"ema": planted}))
    content = toy_content()
    content["ema"].source = content["ema"].child("model").source = write
    (folder / "source text.pkl").write_bytes(dumps(content))
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, str(folder), str(marker)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
