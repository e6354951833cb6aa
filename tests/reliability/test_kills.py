"""A killed command leaves no file half there, and the next run goes on as if nothing happened."""

import random
import re
import shutil

import pytest

from tests.reliability.kills import run
from tests.support.commands import ALL, COMMANDS
from tests.support.finished_runs import SHORT_TOY, SMALL
from tests.support.image_runs import SHORT
from tests.support.outcomes import assert_same, outcome

MANY = 10
LONG = [pytest.mark.slow, pytest.mark.hostile]
MORE = ("train on a table", "dataset_tool to a folder", "dataset_tool again")
WRITERS = [*(command.name for command in ALL if command.place), *MORE]
CASES = [("toy_train", 1), ("dataset_tool", 2)]
CASES += [pytest.param(case, MANY, marks=LONG) for case in WRITERS]


def kinds(files):
    """Names of files without their numbers."""
    return {re.sub(r"\d+", "", file) for file in files}


@pytest.mark.parametrize(("case", "kills"), CASES)
def test_after_a_kill_files_are_whole_and_the_next_run_ends_as_an_unbroken_one(
    shelf, blobs, houses, tmp_path, case, kills
):
    name = case if case in COMMANDS else case.split()[0]
    command, place = COMMANDS[name], tmp_path / "place"
    at = [f"--dest={place / 'set'}"] if case.endswith("folder") else command.at(place)
    # These save several states.
    trainings = {
        "toy_train": SHORT_TOY,
        "train": [f"--data={blobs}", *SHORT],
        "train on a table": [f"--data={houses}", *SMALL, "--marginals=none"],
    }
    given = ["--nosubdir", *trainings[case]] if case in trainings else command.given(shelf)
    given += ["--overwrite"] if case.endswith("again") else []

    def clear():
        shutil.rmtree(place, ignore_errors=True)
        if case.endswith("again"):
            shutil.copytree(shelf.done(name), place)

    def again():
        """What its user would type after a kill."""
        if list(place.glob("training-state-*")):
            return [f"--resume={place}"]
        if case in trainings:
            shutil.rmtree(place, ignore_errors=True)
        paths = list(place.iterdir()) if place.exists() else []
        there = any(command.keeps(path) or path.name == "set" for path in paths)
        return [*given, *at, *(["--overwrite"] if there else [])]

    clear()
    writes, result = run(name, [*given, *at])
    assert result.code == 0, result
    unbroken, generator = outcome(place), random.Random(0)
    for number in range(kills):
        clear()
        kill_at = int(writes * (number + generator.random()) / kills)
        with pytest.raises(ProcessLookupError):
            run(name, [*given, *at], kill_at)
        finished = (file for file in outcome(place) if not re.search(r"\.part/|/partial-", file))
        assert kinds(finished) <= kinds(unbroken)
        _, result = run(name, again())
        assert result.code == 0, (kill_at, result)
        # This one's parameters tell of each run.
        parameters = r".*\.json" if name == "gen_fid_samples" else "none"
        one, other = (
            {file: content for file, content in got.items() if not re.fullmatch(parameters, file)}
            for got in (outcome(place), unbroken)
        )
        assert_same(one, other)
