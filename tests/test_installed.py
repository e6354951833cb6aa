"""What is installed: everything below one name, and a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
from inflationary_flows.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with packages of the same names that are others', and a copy beside it."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("elsewhere")
    build = (sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={folder}", "build")
    made = (f"--build-base={folder / 'build'}", f"--build-lib={folder / 'copy'}")
    subprocess.run([*build, *made], cwd=ROOT, check=True, capture_output=True)
    for name in ("dnnlib", "torch_utils", "training"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('of another program')")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (folder / "copy", folder)))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


def test_a_copy_works_beside_other_packages_of_our_names(elsewhere: Path) -> None:
    assert {path.name for path in (elsewhere / "copy").iterdir()} == {"inflationary_flows"}
    exact = ("toy_pfODE_int", "exact", "--data_name=circles", "--total_samples=9", "--steps=2")
    result = run(elsewhere, *exact, "--device_name=cpu", "--save_dir=out")
    assert (result.returncode, result.stderr) == (0, "")
    assert list((elsewhere / "out").glob("circles_PRP_*.npz"))


def test_mistakes_are_a_line_with_the_name_of_the_command(elsewhere: Path) -> None:
    for arguments, code, line in [
        (("trian",), 2, "ifs: error: there is no command 'trian': see ifs --help\n"),
        (("info.py", "a.pkl"), 1, "ifs info: error: a.pkl does not exist\n"),
    ]:
        result = run(elsewhere, *arguments)
        assert (result.returncode, result.stderr) == (code, line)
