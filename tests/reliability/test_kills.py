"""Scripts killed at random moments leave no file half there, and go on as if nothing happened."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability.jobs import (
    TABLE_TRAINING,
    TOY_TRAINING,
    Job,
    check_of_posteriors,
    data_set,
    posteriors,
    training,
    write_images,
    write_observations,
    write_table,
)
from tests.reliability.kills import Runner, Table, kill_often, make_jobs
from tests.reliability.whole import broken_files, differences
from tests.support.image_runs import stats
from torch_utils.snapshots import read_state

JOBS = 10
KILLS = 20
"""Of each job, over a hundred in all."""


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("runner")) as runner:
        yield runner


@pytest.fixture(scope="module")
def jobs(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    return make_jobs(runner, tmp_path_factory.mktemp("jobs"))


def kill(runner: Runner, job: Job, folder: Path, kills: int) -> Table:
    table = kill_often(runner, job, folder / "a", kills)
    assert not table.violations
    assert table.kills + table.too_late == kills
    return table


def test_a_few_kills_of_training(runner: Runner, tmp_path: Path) -> None:
    kill(runner, training("toy_train", *TOY_TRAINING), tmp_path, 2)


def test_a_training_of_a_table_keeps_its_best_weights_and_its_patience_through_a_kill(
    runner: Runner, tmp_path: Path
) -> None:
    data = write_table(tmp_path / "rows.npz")
    job = training("train", f"--data={data}", *TABLE_TRAINING)
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    end = runner.run("train", job.command(unbroken))
    assert end.writes is not None
    at = round(0.75 * end.writes)
    assert runner.run("train", job.command(killed), kill_at=at).code == -signal.SIGKILL
    state = read_state(max(killed.glob("*/training-state-*.pt")))
    assert 0 < state["best"]["waited"] < 3, "the best weights are to be older than the state"
    assert runner.run("train", job.command_after(killed)).code == 0
    assert differences(job.result(unbroken), job.result(killed)) == []
    assert reports(killed) == reports(unbroken)


@pytest.mark.hostile
@pytest.mark.parametrize("command", ["sample", "check"])
def test_posteriors_go_on_after_a_kill_between_groups_to_the_same_draws(
    command: str, runner: Runner, tmp_path: Path
) -> None:
    job = check_of_posteriors()
    if command == "sample":
        job = posteriors(write_observations(tmp_path / "seen.csv"))
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    end = runner.run("posterior", job.command(unbroken))
    assert end.writes is not None
    at = round(0.3 * end.writes)
    assert runner.run("posterior", job.command(killed), kill_at=at).code == -signal.SIGKILL
    there = len(list(killed.glob("*.part/group-*.npz")))
    assert 0 < there < 3, "the kill is to come between groups"
    again = runner.run("posterior", job.command_after(killed))
    assert again.code == 0, again.output
    assert f"{there} group(s) of 64 were there" in again.output
    assert job.result(unbroken)
    assert differences(job.result(unbroken), job.result(killed)) == []


def reports(place: Path) -> list[dict[str, float]]:
    """What the only run of a folder reported, without times and memory."""
    (folder,) = place.iterdir()
    kinds = ("Timing", "Resources")
    return [
        {name: value for name, value in line.items() if name.split("/")[0] not in kinds}
        for line in stats(folder)
    ]


def test_a_few_kills_of_a_data_set(runner: Runner, tmp_path: Path) -> None:
    write_images(tmp_path / "images.zip")
    kill(runner, data_set(tmp_path / "images.zip", "set.zip", replacing=False), tmp_path, 4)


@pytest.mark.slow
@pytest.mark.hostile
@pytest.mark.parametrize("number", range(JOBS))
def test_many_kills(number: int, runner: Runner, jobs: list[Job], tmp_path: Path) -> None:
    assert len(jobs) == JOBS
    table = kill(runner, jobs[number], tmp_path, KILLS)
    assert table.kills >= 0.75 * KILLS, "most came too late"


# The harness must see what it is there to see.
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training-state-000001.pt", b"PK half"),
        ("network-snapshot-000001.pkl", b""),
        ("training_options.json", b'{"options": {'),
        ("stats.jsonl", b'{"seen": 1}\n{"se'),
        ("surplus.tmp", b""),
        ("000000.png", b"\x89PNG\r\n\x1a\n"),
        ("results.npz", b"PK"),
        ("set.zip", b"PK"),
    ],
)
def test_a_broken_file_is_seen(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / f".{name}").write_bytes(content)
    names = r"[^/]*\.(pt|pkl|json|jsonl|png|npz|zip)"
    (found,) = broken_files(tmp_path, names)
    assert found.startswith(f"{name} (")
    (tmp_path / name).unlink()
    assert broken_files(tmp_path, names) == []


@pytest.mark.hostile
def test_a_run_that_ends_elsewhere_than_the_unbroken_one_is_seen(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = training("toy_train", *TOY_TRAINING)
    other = training("toy_train", *TOY_TRAINING, "--seed=1")
    monkeypatch.setattr("tests.reliability.kills.moments", lambda *_: [{"kill_at": 3}])
    changing = replace(job, command_after=other.command)
    table = kill_often(runner, changing, tmp_path / "a", 1)
    assert table.kills == 1
    assert any("differs" in violation for violation in table.violations)
