"""The tests of this folder find device bugs: see ``planted.py``."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_planted_bugs_are_found() -> None:
    script = Path(__file__).with_name("planted.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
