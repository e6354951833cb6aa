"""Trainings of experiments are done once, go on where they were killed, and run side by side."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import toy_train
from dnnlib.errors import DataError
from experiments import trainings
from experiments.lab import Lab
from experiments.trainings import Training, side_by_side, trained
from tests.support.running import Result

OPTIONS = ("--data_name=circles", "--duration=0.0004", "--batch=100", "--no-calibrate")
TRAINING = Training("circles", "toy_train.py", OPTIONS)


@pytest.fixture
def here(run_script: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scripts run in this process. Returns the options of each that did."""
    ran: list[str] = []

    def run(script: str, *options: str, threads: int | None = None) -> float:
        ran.append(" ".join(options))
        assert run_script(toy_train, *options).code == 0
        return 1.5

    monkeypatch.setattr(trainings, "run", run)
    return ran


def test_a_finished_network_is_not_trained_again(tmp_path: Path, here: list[str]) -> None:
    first, other = (Lab(name, "cpu", tmp_path, False) for name in ("one", "another"))
    network = trained(first, TRAINING)
    assert trained(other, TRAINING) == network
    assert len(here) == 1
    # Both know what it took, and neither takes a network of other options for its own.
    assert first.taken == other.taken == 1.5
    with pytest.raises(DataError, match="was trained with"):
        trained(other, replace(TRAINING, options=(*OPTIONS, "--seed=1")))


def test_a_training_that_was_killed_goes_on(tmp_path: Path, here: list[str]) -> None:
    network = trained(Lab("one", "cpu", tmp_path, False), TRAINING)
    whole = network.read_bytes()
    network.unlink()
    network.with_name("finished.json").unlink()
    again = trained(Lab("another", "cpu", tmp_path, False), TRAINING)
    assert again.read_bytes() == whole
    assert here[1] == f"--resume={network.parent}"


SCRIPT = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1].removeprefix("--outdir="))
folder.mkdir(parents=True)
told = " ".join([os.environ["OMP_NUM_THREADS"], *sys.argv[2:]])
(folder / "network-snapshot-000001.pkl").write_text(told)
sys.exit("--fail" in sys.argv)
"""


def test_side_by_side_trainings_have_one_thread_and_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(trainings, "idle_cores", lambda unknown: 2.0)
    monkeypatch.setattr(trainings.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(trainings.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    lab = Lab("name", "cpu", tmp_path / "out", False)
    three = [Training(key, str(script), (f"--data={key}",)) for key in "abc"]
    failing = Training("d", str(script), ("--fail",))
    with pytest.raises(subprocess.CalledProcessError):
        side_by_side(lab, [*three, failing])
    # What is there already is taken as it is.
    networks = side_by_side(lab, three)
    assert [path.read_text() for path in networks] == [f"1 --nosubdir --data={k}" for k in "abc"]
    assert lab.taken > 0
