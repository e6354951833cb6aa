"""Plants device bugs, one after the other, in a copy of the tree: do the tests beside find them?

    python tests/devices/planted.py

Prints a line for each bug, and ends with 1 if one was not found, or a test fails without it.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

# Imported once, and not again by each of the processes that are forked.
import torch._subclasses.fake_tensor  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dnnlib", "torch_utils", "training", "tests")


class Bug(NamedTuple):
    """A mistake in one place.

    Attributes:
        path: The module.
        sound: What stands there.
        broken: What will.
        test: A test that is to find it, as pytest selects it.
    """

    path: str
    sound: str
    broken: str
    test: str


BUGS = {
    "a CPU tensor in an expression": Bug(
        "training/learning/loss.py",
        "torch.arange(count, device=device)",
        "torch.arange(count)",
        "test_training.py::test_a_step_on_a_card_is_that_of_the_cpu[MLP]",
    ),
    "a constant of a network that does not move with it": Bug(
        "training/networks/mlp.py",
        'self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)',
        "self.frequencies = torch.tensor(frequencies)",
        "test_training.py::test_a_step_on_a_card_is_that_of_the_cpu[MLP]",
    ),
    "conditions that stay where they were": Bug(
        "training/data/batches.py",
        "name: value.to(device)",
        "name: value",
        "test_training.py::test_steps_wait_for_nothing",
    ),
    "a look at each step whether it was skipped": Bug(
        "training/learning/skipping.py",
        "if self._until_look > 0:",
        "if self._until_look > MAX_SKIPPED_IN_A_ROW:",
        "test_training.py::test_steps_wait_for_nothing",
    ),
    "dropout seeded on the current card": Bug(
        "torch_utils/seeds.py",
        "with torch.cuda.device(device):",
        "if device:",
        "test_training.py::test_dropout_on_a_card_that_is_not_the_current_one_is_seeded",
    ),
    "a step that reads its length": Bug(
        "training/flow/solvers/runge_kutta.py",
        "x = x + h * weighted_sum(tableau.weights, slopes)",
        "x = x + h.item() * weighted_sum(tableau.weights, slopes)",
        "test_flows.py::test_steps_of_explicit_solvers_wait_for_nothing[heun]",
    ),
    "points that are not sent to the flow": Bug(
        "training/flow/pfode.py",
        "return self.melt(points.to(self.device), times, solver).end",
        "return self.melt(points, times, solver).end",
        "test_flows.py::test_points_melt_and_latents_become_points[heun]",
    ),
    "directions that are not sent to the states": Bug(
        "training/flow/likelihood.py",
        "directions = self._directions.to(w)",
        "directions = self._directions",
        "test_flows.py::test_log_densities",
    ),
    "noise of a calibration that is not sent": Bug(
        "training/flow/calibration.py",
        "return noise[distributed.shard(self._total)].to(self._clean.device)",
        "return noise[distributed.shard(self._total)]",
        "test_fits.py::test_calibrations[gain]",
    ),
    "noise of chains that is not sent": Bug(
        "training/inference/noise.py",
        "return numbers[place].to(self._device)",
        "return numbers[place]",
        "test_posteriors.py::test_draws_are_those_of_the_cpu[pcn]",
    ),
}


def passes(folder: Path, test: str) -> bool:
    """Whether a test of the tree in a folder passes, in a process of its own."""
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly"]
        os._exit(int(pytest.main([*options, f"tests/devices/{test}"])))
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {code} at {test}")
    return code == pytest.ExitCode.OK


def main() -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for path in (*ROOT.glob("*.py"), ROOT / "pyproject.toml"):
            shutil.copy(path, tree)
        healthy = {test: passes(tree, test) for test in {bug.test: None for bug in BUGS.values()}}
        for name, bug in BUGS.items():
            module = tree / bug.path
            sound = module.read_text(encoding="utf-8")
            assert sound.count(bug.sound) == 1, f"{bug.path} no longer has one '{bug.sound}'"
            module.write_text(sound.replace(bug.sound, bug.broken), encoding="utf-8")
            found = not passes(tree, bug.test)
            module.write_text(sound, encoding="utf-8")
            missed += not (healthy[bug.test] and found)
            verdict = "found" if found else "NOT FOUND"
            verdict = verdict if healthy[bug.test] else "FAILS WITHOUT IT"
            print(f"{verdict}: {name} ({bug.path})", flush=True)
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
