"""Scripts run where there is no POSIX: all are imported, and some make files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("runs", "kinds"),
    [
        ("2", {".npz", ".json", ".pkl", ".pt"}),
        pytest.param("5", {".zip", ".png"}, marks=pytest.mark.slow),
    ],
)
def test_scripts_run_without_what_windows_lacks(tmp_path: Path, runs: str, kinds: set[str]) -> None:
    command = [sys.executable, "-X", "warn_default_encoding", "tests/support/like_windows.py"]
    done = subprocess.run(
        [*command, str(tmp_path), runs], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names = [line for line in done.stdout.splitlines() if (tmp_path / line).is_file()]
    assert {Path(name).suffix for name in names} >= kinds
    assert not [name for name in names if re.search(r'[<>:"|?*]|[. ]$', name)]
