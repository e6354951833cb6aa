"""Runs readers on their cases in other processes, and counts what comes of it."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.readers import READERS
from tests.fuzz.trial import Trial
from tests.support.forks import FORKS


@dataclass
class Report:
    """How many cases of a reader were refused and accepted, and what went wrong, by case."""

    refused: int = 0
    accepted: int = 0
    violations: dict[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        return self.refused + self.accepted + len(self.violations)


def run(reader: str, folder: Path, mutants: int, seed: int = 0, every: int = 1) -> Report:
    """Runs the hostile files of a reader and so many mutants, or one in ``every`` of them.

    Args:
        reader: Its name in ``READERS``.
        folder: For files, which need not stay.
        mutants: How many.
        seed: Of the mutants.
        every: So many cases are passed over for one that is run.

    Raises:
        RuntimeError: It does not read its valid files, or there is an error in this code.
    """
    report, known = Report(), READERS[reader]
    cases = range(0, len(known.hostile) + mutants, every)
    while report.cases < len(cases):
        text, tells = FORKS.Pipe(duplex=False)
        left = cases[report.cases :]
        process = FORKS.Process(target=_try, args=(reader, seed, folder, left, tells))
        process.start()
        tells.close()
        try:
            while True:
                case, outcome, why = text.recv()
                if outcome == "failed":
                    raise RuntimeError(f"{reader}: {why}")
                if outcome == "violation":
                    report.violations[case] = why
                else:
                    setattr(report, outcome, getattr(report, outcome) + 1)
        except EOFError:
            process.join()
        if report.cases < len(cases):
            # The process ended in the middle of a case.
            where = " < ".join((folder / "trace").read_text().split("\n")[:12])
            case = (folder / "current").read_text()
            report.violations[case] = f"it ended with status {process.exitcode}: {where}"
    return report


def _try(reader: str, seed: int, folder: Path, cases: Sequence[int], tells: Connection) -> None:
    try:
        trial = Trial(READERS[reader], seed, folder)
        for case in cases:
            tells.send(trial.run(case))
    except BaseException:
        tells.send(("", "failed", traceback.format_exc()))
