"""Network files that are missing, broken or hostile, as ``toy_pfODE_int.py`` tells them."""

import os
import pickle
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from running import refused
from toy_simulations import Run

import toy_pfODE_int
from torch_utils.snapshots import Part, read_network, write_network


@pytest.mark.parametrize(
    ("location", "code", "part"),
    [
        ("{tmp}/none.pkl", 1, "none.pkl"),
        ("{tmp}", 1, "folder"),
        ("", 1, "folder"),
        ("http://example.com/network.pkl", 2, "https"),
        ("file:///etc/passwd", 2, "https"),
        ("ftp://example.com/network.pkl", 2, "https"),
        ("https://user@example.com/n.pkl", 2, "https"),
        ("https://localhost:1/network.pkl", 1, "localhost"),
    ],
)
def test_a_network_that_is_not_there_is_told_in_one_line(
    run_script: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    code: int,
    part: str,
) -> None:
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "cache"))
    result = run_script(
        toy_pfODE_int,
        "net",
        f"--network={location.format(tmp=tmp_path)}",
        f"--save_dir={tmp_path / 'x'}",
    )
    refused(result, code, part)
    assert not (tmp_path / "x").exists()


def refusal(run_script: Run, network: Path) -> str:
    """The one line that a network file is refused with, nothing being written."""
    folder = network.parent / "x"
    few = (f"--save_dir={folder}", "--total_samples=3", "--steps=1")
    result = run_script(toy_pfODE_int, "net", f"--network={network}", *few)
    assert (result.code, result.out) == (1, ""), result
    assert not folder.exists()
    return result.error


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(3000)], ids=["none", "text", "zeros"])
def test_a_file_that_is_no_network_is_told_in_one_line(
    run_script: Run, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "network.pkl").write_bytes(content)
    assert str(tmp_path / "network.pkl") in refusal(run_script, tmp_path / "network.pkl")


def test_training_states_and_cut_networks_are_told_in_one_line(
    run_script: Run, networks: dict[str, Path], tmp_path: Path
) -> None:
    (state,) = networks["PRP"].parent.glob("training-state-*")
    shutil.copy(state, tmp_path / "network.pkl")
    assert "not a network file" in refusal(run_script, tmp_path / "network.pkl")
    (tmp_path / "network.pkl").write_bytes(networks["PRP"].read_bytes()[:-100])
    refusal(run_script, tmp_path / "network.pkl")


@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_a_network_file_does_not_run(run_script: Run, tmp_path: Path, zipped: bool) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    network = tmp_path / "network.pkl"
    if zipped:
        torch.save({"ema": Bomb()}, network)
    else:
        network.write_bytes(pickle.dumps({"ema": Bomb()}))
    assert network.name in refusal(run_script, network)
    assert os.listdir(tmp_path) == ["network.pkl"]


@contextmanager
def patience(seconds: int) -> Iterator[None]:
    """Fails a block that computes for longer; what else the machine does is not counted."""

    class TooLong(BaseException):
        """What no handler of errors catches."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except TooLong:
        pytest.fail(f"computed for more than {seconds} s")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def altered(source: Path, path: Path, **changes: dict[str, Any]) -> Path:
    """A copy of a network file with changed ``about``, or a part's arguments or state."""
    parts, about = read_network(source)
    about |= changes.pop("about", {})
    for name in changes.pop("without", {}):
        del about[name]
    for key, values in changes.items():
        name, field = key.split("_")
        part = parts[name]
        arguments, state = dict(part.arguments), dict(part.state)
        class_name = part.class_name
        if field == "class":
            class_name = values["class"]
        else:
            (arguments if field == "arguments" else state).update(values)
        parts[name] = Part(class_name, arguments, state)
    write_network(path, parts, about)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"network_class": {"class": "os.system"}},
        {"basis_class": {"class": "OtherBasis"}},
        {"denoiser_class": {"class": "OtherDenoiser"}},
        {"schedule_class": {"class": "other"}},
        {"network_arguments": {"width": 10**8}},
        {"network_arguments": {"depth": 10**9}},
        {"network_arguments": {"time_features": 10**9}},
        {"network_arguments": {"width": "wide"}},
        {"network_arguments": {"odd": 1}},
        {"network_arguments": {"noise_range": [1.0, 0.0]}},
        {"network_arguments": {"noise_range": [0.0, float("nan")]}},
        {"network_arguments": {"noise_range": None}},
        {"schedule_arguments": {"rho": -1.0}},
        {"schedule_arguments": {"rho": "fast"}},
        {"schedule_arguments": {"gamma0": float("nan")}},
        {"schedule_arguments": {"dims_to_keep": 3}},
        {"schedule_arguments": {"odd": 1}},
        {"denoiser_arguments": {"space": "XS"}},
        {"denoiser_arguments": {"odd": 1}},
        {"basis_state": {"mean": torch.zeros(3)}},
        {"basis_state": {"eigenvectors": torch.zeros(2, 2)}},
        {"basis_state": {"eigenvalues": torch.tensor([1.0, 2.0])}},
        {"basis_state": {"eigenvalues": torch.tensor([1.0, -2.0])}},
        {"basis_state": {"eigenvalues": torch.zeros(2, dtype=torch.complex64)}},
        {
            "basis_state": {
                "mean": torch.zeros(3),
                "eigenvalues": torch.ones(3),
                "eigenvectors": torch.eye(3),
            }
        },
        {"network_state": {"output.bias": torch.tensor([0.0, float("nan")])}},
        {"network_state": {"output.bias": torch.zeros(2, device="meta")}},
        {"without": {"tmax": 0}},
        {"without": {"data_name": 0}},
        {"about": {"tmax": "late"}},
        {"about": {"tmax": float("nan")}},
        {"about": {"tmax": -1.0}},
        {"about": {"data_name": "spirals"}},
        {"about": {"data_name": ["circles"]}},
        {"about": {"data_name": "swirl"}},
        {"about": {"data_name": "moons"}},
        {"basis_state": {"mean": torch.ones(2, dtype=torch.float64)}},
        {"basis_state": {"eigenvalues": torch.tensor([52.0, 42.0], dtype=torch.float64)}},
        {"about": {"augment_to": "four"}},
    ],
    ids=lambda changes: repr(changes)[:60],
)
def test_a_network_file_that_makes_no_sense_is_told_in_one_line_by_name(
    run_script: Run, networks: dict[str, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    network = altered(networks["PRP"], tmp_path / "network.pkl", **changes)
    with patience(3):
        line = refusal(run_script, network)
    assert network.name in line
