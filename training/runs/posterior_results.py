"""The files of numbers that ``posterior.py`` writes, and what a check says."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance, save_json
from training.files.posterior import CHECK_FORMAT, save_values
from training.measure.posterior.calibration import RunValues, calibrate
from training.measure.posterior.local import LocalCalibration, calibrate_near, is_local
from training.runs.groups import Groups
from training.runs.learned_checks import Neighbors
from training.runs.posterior_reports import report_check, report_near


def write_numbers(path: Path, form: str, began: float, content: dict[str, Any]) -> None:
    """Writes the JSON file of a command that began at that time."""
    seconds = perf_counter() - began
    save_json(path, {"format": form, **content, "seconds": seconds, **provenance()})


def report_files(numbers: Path, arrays: Path, began: float) -> None:
    """Tells where the results of a command are, and how long it took."""
    seconds = perf_counter() - began
    logger.info(f"Wrote {numbers} and {arrays.name} after {seconds:.1f} s")


@dataclass(frozen=True)
class NearObservations:
    """What the runs near observations say.

    Attributes:
        calibration: Of each.
        distances: Of the runs ``[M, K]``, in standard deviations.
        surprise: How unlike the simulations each is ``[M]``, in nats; None if it is not known.
    """

    calibration: LocalCalibration
    distances: Tensor
    surprise: Tensor | None

    @classmethod
    def of(
        cls, values: RunValues, near: Neighbors, level: float, surprise: Tensor | None
    ) -> "NearObservations":
        """Tests the runs near each; p-values below the level fail."""
        return cls(calibrate_near(values, near.runs, level), near.distances, surprise)

    def summary(self) -> dict[str, Any]:
        """Plain numbers and lists, as a JSON file takes them."""
        summary = self.calibration.summary()
        for place, one in enumerate(summary["observations"]):
            one["distance"] = float(self.distances[place, -1])
            one["local"] = is_local(one["distance"])
            one["surprise"] = None if self.surprise is None else float(self.surprise[place])
        return summary


def write_check(
    values: RunValues,
    level: float,
    groups: Groups,
    files: tuple[Path, Path],
    began: float,
    content: dict[str, Any],
    near: NearObservations | None = None,
) -> bool:
    """Writes and tells what the runs of a check say; returns whether no test fails.

    Args:
        values: Of the runs.
        level: p-values below it fail.
        groups: Their files, which are removed.
        files: Of arrays, and of numbers.
        began: When the command did.
        content: What else the numbers say.
        near: What those near observations say; None without.
    """
    calibration, (values_file, numbers_file) = calibrate(values, level), files
    if distributed.is_main():
        more = {"near": near.summary()} if near else {}
        save_values(values_file, values, groups.fingerprint)
        write_numbers(
            numbers_file, CHECK_FORMAT, began, {**content, **calibration.summary(), **more}
        )
    groups.remove()
    if distributed.is_main():
        report_check(calibration)
        if near:
            report_near(near.calibration, near.distances, calibration.passed)
        report_files(numbers_file, values_file, began)
    return calibration.passed and not (near and near.calibration.failed)
