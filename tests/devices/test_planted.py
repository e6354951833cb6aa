"""Device bugs, planted one after the other in a copy of the tree: the tests beside find each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# A module, what stands there, what will, and a test that is to find it.
BUGS = [
    (
        "training/learning/loss.py",
        "torch.arange(count, device=device)",
        "torch.arange(count)",
        "test_training.py::test_a_step_on_a_card_is_that_of_the_cpu[MLP]",
    ),
    (
        "training/networks/mlp.py",
        'self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)',
        "self.frequencies = torch.tensor(frequencies)",
        "test_training.py::test_a_step_on_a_card_is_that_of_the_cpu[MLP]",
    ),
    (
        "training/data/batches.py",
        "name: value.to(device)",
        "name: value",
        "test_training.py::test_steps_wait_for_nothing",
    ),
    (
        "training/learning/safeguards.py",
        "if self._until_look > 0:",
        "if self._until_look > MAX_SKIPPED_IN_A_ROW:",
        "test_training.py::test_steps_wait_for_nothing",
    ),
    (
        "torch_utils/seeds.py",
        "with torch.cuda.device(device):",
        "if device:",
        "test_training.py::test_dropout_on_a_card_that_is_not_the_current_one_is_seeded",
    ),
    (
        "training/flow/solvers/runge_kutta.py",
        "x = x + h * weighted_sum(tableau.weights, slopes)",
        "x = x + h.item() * weighted_sum(tableau.weights, slopes)",
        "test_flows.py::test_steps_of_explicit_solvers_wait_for_nothing[heun]",
    ),
    (
        "training/flow/pfode.py",
        "            return values.to(self.device)",
        "            return values",
        "test_flows.py::test_points_melt_and_latents_become_points[heun]",
    ),
    (
        "training/flow/likelihood.py",
        "dim, directions = w.shape[1], self._directions.to(w)",
        "dim, directions = w.shape[1], self._directions",
        "test_flows.py::test_log_densities",
    ),
    (
        "training/flow/calibration.py",
        "return noise[distributed.shard(self._total)].to(self._clean.device)",
        "return noise[distributed.shard(self._total)]",
        "test_fits.py::test_calibrations[gain]",
    ),
    (
        "training/inference/noise.py",
        "return numbers[place].to(self._device)",
        "return numbers[place]",
        "test_posteriors.py::test_draws_are_those_of_the_cpu[pcn]",
    ),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    for name in ("dnnlib", "torch_utils", "training", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
    return folder


def code(tree: Path, test: str) -> int:
    """With what pytest ends, if it runs a test of the tree."""
    alone = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly")
    command = [sys.executable, "-m", "pytest", *alone, f"tests/devices/{test}"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True).returncode


@pytest.mark.parametrize(("name", "sound", "broken", "test"), BUGS)
def test_a_planted_bug_is_found(tree: Path, name: str, sound: str, broken: str, test: str) -> None:
    module = tree / name
    text = module.read_text(encoding="utf-8")
    assert text.count(sound) == 1
    assert code(tree, test) == pytest.ExitCode.OK
    module.write_text(text.replace(sound, broken), encoding="utf-8")
    try:
        assert code(tree, test) == pytest.ExitCode.TESTS_FAILED
    finally:
        module.write_text(text, encoding="utf-8")
