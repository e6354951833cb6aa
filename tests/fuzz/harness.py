"""Runs readers on their cases in other processes, and counts what comes of it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.trial import keep_case
from tests.support.scripts import Script

FOLDER = Path(__file__).parent


@dataclass
class Report:
    """What came of the cases of a reader.

    Attributes:
        reader: Its name.
        refused, accepted: Numbers of cases.
        violations: What went wrong, by case.
        slowest: Seconds of the processor, and the case.
        largest: MiB beyond what was in use before, and the case.
        seconds: All cases together took, on the clock.
    """

    reader: str
    refused: int = 0
    accepted: int = 0
    violations: dict[str, str] = field(default_factory=dict)
    slowest: tuple[float, str] = (0.0, "")
    largest: tuple[float, str] = (0.0, "")
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        return self.refused + self.accepted + len(self.violations)

    def add(self, result: dict[str, Any]) -> None:
        """Counts the result of a case in."""
        case = result["case"]
        if result["outcome"] == "violation":
            self.violations[case] = result["why"]
        elif result["outcome"] == "refused":
            self.refused += 1
        else:
            self.accepted += 1
        self.slowest = max(self.slowest, (result["seconds"], case))
        self.largest = max(self.largest, (result["mib"], case))


class Harness(Script):
    """The process that forks one for each reader; to be used in a ``with`` block.

    Args:
        folder: For files, which need not stay.
        keep: Where the files of violations are copied; None for nowhere.
        zygote: The script to run.
    """

    def __init__(self, folder: Path, keep: Path | None = None, zygote: Path = FOLDER / "zygote.py"):
        super().__init__(zygote)
        self._folder, self._keep = folder.resolve(), keep

    def run(self, reader: str, mutants: int, seed: int = 0, every: int = 1) -> Report:
        """Runs the hostile files of a reader and so many mutants, or one in ``every`` of them.

        Raises:
            RuntimeError: It does not read its valid files, or there is an error in this code.
        """
        report, start = Report(reader), time.monotonic()
        folder = self._folder / reader.replace(" ", "-")
        job = {"reader": reader, "seed": seed, "mutants": mutants, "every": every}
        job |= {"folder": str(folder), "keep": self._keep and str(self._keep)}
        cases = 1
        while report.cases < cases:
            for result in self._results({**job, "first": report.cases}):
                if "failed" in result:
                    raise RuntimeError(f"{reader}: {result['failed']}")
                cases = result.get("cases", cases)
                if "case" in result:
                    report.add(result)
                if "ended" in result and report.cases < cases:
                    self._add_end(report, folder, result["ended"])
        report.seconds = time.monotonic() - start
        return report

    def _results(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """All that is said of the cases of a job; in the end, that it has ended."""
        self.say(job)
        results = [self.hear()]
        while "ended" not in results[-1]:
            results.append(self.hear())
        return results

    def _add_end(self, report: Report, folder: Path, status: int) -> None:
        """Counts a case in with which its process ended."""
        name = (folder / "current").read_text()
        lines = (folder / "trace").read_text().splitlines()
        where = " < ".join(line.strip() for line in lines[:12])
        report.violations[name] = f"the process ended with status {status}: {where}"
        if self._keep:
            keep_case(folder / "case", self._keep / f"{report.reader}-{name}")
