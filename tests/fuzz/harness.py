"""Runs readers on their cases in other processes, and counts what comes of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.scripts import Script

FOLDER = Path(__file__).parent


@dataclass
class Report:
    """How many cases of a reader were refused and accepted, and what went wrong, by case."""

    refused: int = 0
    accepted: int = 0
    violations: dict[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        return self.refused + self.accepted + len(self.violations)

    def add(self, result: dict[str, Any]) -> None:
        """Counts the result of a case in."""
        if result["outcome"] == "violation":
            self.violations[result["case"]] = result["why"]
        elif result["outcome"] == "refused":
            self.refused += 1
        else:
            self.accepted += 1


class Harness(Script):
    """The process that forks one for each reader; to be used in a ``with`` block.

    Args:
        folder: For files, which need not stay.
        zygote: The script to run.
    """

    def __init__(self, folder: Path, zygote: Path = FOLDER / "zygote.py"):
        super().__init__(zygote)
        self._folder = folder.resolve()

    def run(self, reader: str, mutants: int, seed: int = 0, every: int = 1) -> Report:
        """Runs the hostile files of a reader and so many mutants, or one in ``every`` of them.

        Raises:
            RuntimeError: It does not read its valid files, or there is an error in this code.
        """
        report, folder = Report(), self._folder / reader.replace(" ", "-")
        job = {"reader": reader, "seed": seed, "mutants": mutants, "every": every}
        cases = 1
        while report.cases < cases:
            self.say({**job, "folder": str(folder), "first": report.cases})
            results = [self.hear()]
            while "ended" not in results[-1]:
                results.append(self.hear())
            for result in results:
                if "failed" in result:
                    raise RuntimeError(f"{reader}: {result['failed']}")
                cases = result.get("cases", cases)
                if "case" in result:
                    report.add(result)
            if report.cases < cases:
                # The process ended in the middle of a case.
                trace = (folder / "trace").read_text().splitlines()
                where = " < ".join(line.strip() for line in trace[:12])
                name = (folder / "current").read_text()
                report.violations[name] = f"it ended with status {results[-1]['ended']}: {where}"
        return report
