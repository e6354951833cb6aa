"""A full disk ends in one line that names the file, with what was good before still there."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import toy_train
from tests.reliability.jobs import TOY_TRAINING
from tests.reliability.whole import differences, results
from torch_utils.snapshots import read_state

Run = Callable[..., Any]
FullDisk = Callable[[int], AbstractContextManager[None]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unbroken(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    options = (f"--outdir={folder}", "--nosubdir", "--keep=9", *TOY_TRAINING)
    assert run_script(toy_train, *options).code == 0
    return folder


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


# A state is about four times as large as a network.
@pytest.mark.parametrize(("what", "share"), [("training-state-", 0.99), ("network-snapshot-", 0.1)])
def test_training_keeps_its_last_good_state_and_goes_on_when_there_is_space(
    run_script: Run, unbroken: Path, full_disk: FullDisk, tmp_path: Path, what: str, share: float
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for number in (4, 5, 6):
        for name in (f"training-state-00000{number}.pt", f"network-snapshot-00000{number}.pkl"):
            (folder / name).unlink(missing_ok=True)
    before = results(folder)
    good = {name: path.read_bytes() for name, path in before.items()}
    size = (folder / "training-state-000003.pt").stat().st_size
    with full_disk(int(share * size)):
        result = run_script(toy_train, f"--resume={folder}")
    assert result.code == 1
    assert f"{folder / what}000004" in result.error
    after = {name: path.read_bytes() for name, path in results(folder).items()}
    assert {name: after[name] for name in good} == good
    assert "training-state-000004.pt" not in after
    assert hidden(folder) == []
    assert run_script(toy_train, f"--resume={folder}").code == 0
    assert differences(results(unbroken), results(folder)) == []


TMPFS = ("unshare", "--map-root-user", "--mount", "sh", "-c")
MOUNT = "mount -t tmpfs -o size={size} none {place} && "


def can_mount(place: Path) -> bool:
    if not shutil.which("unshare"):
        return False
    command = [*TMPFS, MOUNT.format(size="64k", place=place) + "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.hostile
def test_a_disk_that_is_really_full_ends_training_with_one_line(tmp_path: Path) -> None:
    """A state takes 1.4 MB, a network 0.35: there is room for one of each, and no second state."""
    if not can_mount(tmp_path):
        pytest.skip("no file system can be mounted here")
    options = " ".join(TOY_TRAINING)
    script = (
        MOUNT.format(size="2500k", place=tmp_path)
        + f"{sys.executable} toy_train.py --outdir={tmp_path}/run --nosubdir {options}; "
        + f"echo exit $?; cd {tmp_path}/run; ls -A; cat training-state-000001.pt >&3"
    )
    kept = tmp_path.parent / "kept.pt"
    done = subprocess.run(
        [*TMPFS, f"exec 3>{kept}; {script}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    (line,) = done.stderr.splitlines()
    assert "training-state-000002.pt: No space left on device" in line
    told, rest = done.stdout.split("exit ")
    assert "training-state-000001.pt" in told
    code, *names = rest.split()
    assert code == "1"
    assert [name for name in names if name.startswith(".")] == []
    assert read_state(kept)["seen"] == 1000
