"""Starts scripts, kills them at random moments, and tells whether anything was lost.

After a kill, every file with a final name must be whole; what is not is hidden, its name begins
with a dot. Then the script is run again as its user would, and must give the unbroken run's bytes.
"""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.reliability import jobs
from tests.reliability.jobs import Job
from tests.reliability.whole import broken_files, differences
from tests.support.scripts import Script

FOLDER = Path(__file__).parent
NEVER = -1
LONGEST = 300
"""Seconds that a script may take; one that hangs is a violation."""


@dataclass(frozen=True)
class End:
    """How a script ended: its exit code or minus its signal, writes if it was counted, seconds."""

    code: int
    writes: int | None
    seconds: float
    output: str


@dataclass
class Table:
    """What came of the kills of a job.

    Attributes:
        kills: Number of processes that were killed while they ran.
        too_late: Number of those that had ended before.
        violations: What went wrong, by kill.
    """

    kills: int = 0
    too_late: int = 0
    violations: list[str] = field(default_factory=list)


class Runner(Script):
    """Runs scripts in processes forked from one that has imported them.

    Args:
        folder: For files, which need not stay.
    """

    def __init__(self, folder: Path):
        super().__init__(FOLDER / "zygote.py")
        self._output = folder / "output.txt"

    def run(
        self, script: str, command: list[str], kill_after: float = LONGEST, kill_at: int = NEVER
    ) -> End:
        """Runs a script, and kills it after some seconds or before its write of that number."""
        job = {"script": script, "arguments": command, "kill_at": kill_at}
        self.say({**job, "output": str(self._output)})
        timer, began = threading.Timer(kill_after, _kill, [self.hear()["pid"]]), time.monotonic()
        timer.start()
        end = self.hear()
        timer.cancel()
        timer.join()
        code = os.waitstatus_to_exitcode(end["status"])
        text = self._output.read_text() if self._output.exists() else ""
        return End(code, end["writes"], time.monotonic() - began, text)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # it may not lead its group yet
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
            return


def moments(kills: int, writes: int) -> Iterator[dict[str, Any]]:
    """When to kill: half are spread over the time of a run, half over its writes.

    ``kill_after`` is a part of the time that a run takes, ``kill_at`` the number of a write.
    """
    generator = random.Random(0)
    for index in range(kills):
        part = (index // 2 + generator.random()) / -(-kills // 2)
        yield {"kill_after": part} if index % 2 else {"kill_at": int(writes * part)}


def kill_often(runner: Runner, job: Job, folder: Path, kills: int) -> Table:
    """Kills a job so many times at random moments, in a folder that is made.

    Raises:
        RuntimeError: The job fails if it is left alone.
    """
    table = Table()
    unbroken, place = folder / "unbroken", folder / "killed"
    folder.mkdir()
    job.prepare(unbroken)
    end = runner.run(job.script, job.command(unbroken))
    if end.code or end.writes is None:
        raise RuntimeError(f"{job.name} ended with {end.code}: {end.output}")
    seconds = end.seconds
    for moment in moments(kills, end.writes):
        if "kill_after" in moment:
            moment["kill_after"] *= seconds
        shutil.rmtree(place, ignore_errors=True)
        job.prepare(place)
        killed = runner.run(job.script, job.command(place), **moment)
        if killed.code != -signal.SIGKILL:
            table.too_late += 1
            # The load of a machine changes: the last whole run tells best how long the next takes.
            seconds = killed.seconds
            if killed.code:
                table.violations.append(f"{moment}: ended with {killed.code}: {killed.output}")
            continue
        table.kills += 1
        wrong = [f"{name} is broken" for name in broken_files(place, job.names)]
        command = job.command_after(place)
        again = runner.run(job.script, command)
        if again.code:
            wrong.append(f"then ended with {again.code}: {again.output.strip()[-500:]}")
        else:
            wrong += differences(job.result(unbroken), job.result(place))
            wrong += [f"then {name} is broken" for name in broken_files(place, job.names)]
        table.violations += [f"{moment}: {what}" for what in wrong]
    return table


def make_jobs(runner: Runner, folder: Path) -> list[Job]:
    """The scripts to kill. Trains the networks that some of them need."""
    images = folder / "set.zip"
    jobs.write_images(images)
    toy = jobs.training("toy_train", *jobs.TOY_TRAINING)
    image = jobs.training("train", f"--data={images}", *jobs.IMAGE_TRAINING)
    rows = jobs.write_table(folder / "rows.npz")
    table = replace(
        jobs.training("train", f"--data={rows}", *jobs.TABLE_TRAINING), name="train, of a table"
    )
    networks = {}
    for job in (toy, image):
        place = folder / f"for-{job.script}"
        end = runner.run(job.script, job.command(place))
        if end.code:
            raise RuntimeError(f"{job.name} ended with {end.code}: {end.output}")
        networks[job.script] = max(place.glob("*/network-snapshot-*.pkl"))
    sets = ((images, "set.zip", False), (images, "set.zip", True), (images, "set", True))
    later = (jobs.simulation(networks["toy_train"]), jobs.sampling(networks["train"]))
    observations = jobs.write_observations(folder / "seen.csv")
    chains = (jobs.posteriors(observations), jobs.check_of_posteriors())
    return [toy, image, table, *later, *chains, *(jobs.data_set(*options) for options in sets)]
