"""The same seed gives the same bytes, on one machine with as many threads."""

from pathlib import Path
from typing import Any

import pytest
import torch

import toy_train
import train
from tests.support.finished_runs import SHORT_TOY
from tests.support.image_runs import SHORT
from tests.support.running import Run, torch_settings_put_back
from training.learning.trainer import Trainer


@pytest.mark.hostile
def test_a_seed_gives_the_same_bytes_twice_and_another_does_not(
    run_script: Run, blobs: Path, tmp_path: Path
) -> None:
    options = (f"--data={blobs}", *SHORT, "--augment=0.5", "--no-calibrate", "--deterministic")
    files = []
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        place = (f"--outdir={tmp_path / name}", "--nosubdir", f"--seed={seed}")
        result = run_script(train, *place, *options)
        assert (result.code, result.err) == (0, "")
        paths = (tmp_path / name).glob("[nt]*-*-*.p*")
        files.append({path.name: path.read_bytes() for path in paths})
    assert len(files[0]) >= 3
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("flags", [[], ["--deterministic"]])
def test_pytorch_is_told_and_resumed_runs_remember(
    run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    seen = []
    train_step = Trainer.train_step

    def look(self: Trainer, *arguments: Any) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        train_step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", look)
    place = (f"--outdir={tmp_path / 'run'}", "--nosubdir")
    assert run_script(toy_train, *place, *SHORT_TOY, *flags).code == 0
    (tmp_path / "run" / "training-state-000006.pt").unlink()
    with torch_settings_put_back():
        torch.use_deterministic_algorithms(not flags)
        assert run_script(toy_train, f"--resume={tmp_path / 'run'}").code == 0
    assert set(seen) == {bool(flags)}
    assert len(seen) > 12
