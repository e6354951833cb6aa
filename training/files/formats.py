"""Kinds of files and their uses; a new kind is a module and one entry here.

An ``.npz`` states its kind in an entry ``format``, such as "inflationary-flows trajectory 1".
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch_utils.results import SavedArrays, open_arrays
from training.files.answers import kind_of_json
from training.files.rows import MAY_BE_WILD, NAMES, POINTS
from training.files.stats import STATS
from training.files.trajectory import IMAGE_SHAPE
from training.names import script

PREFIX = "inflationary-flows "


@dataclass(frozen=True)
class Format:
    """A kind of file, with the function that returns what its files show.

    Attributes:
        holds: Content of the files, in words.
        content: Name of the function in ``training.pictures`` that returns the content of files of
            this kind; empty if they are not shown.
        group: Which files are read together: ``run`` for the simulations of a run, ``times`` for
            the times of one quantity, empty for each file alone.
        wild: Names of arrays that may contain non-finite numbers; None if only the arrays to be
            drawn are read.
        advice: Advice on which file to give instead, if files of this kind are not drawn.
    """

    holds: str
    content: str = ""
    group: str = ""
    wild: Collection[str] | None = ()
    advice: str = ""


FORMATS = {
    "training": Format("reports of a training run", "training.content_of"),
    "correlations of one time": Format(
        "matrices of correlations",
        "correlations.content_of_image_matrices",
        "times",
        wild=None,
    ),
    "toy": Format("simulated points", "simulations.content_of", "run"),
    "images": Format("simulated images", "images.content_of", "run"),
    "rows": Format(
        "simulated rows",
        "tables.content_of",
        "run",
        wild=MAY_BE_WILD,
    ),
    "coverage": Format("coverage", "coverage.content_of"),
    "residual summary": Format("correlations by lag", "correlations.content_of_lags"),
    "worst roundtrips": Format("errors of roundtrips", "images.content_of_roundtrips"),
    "posterior": Format("draws of posteriors", "posteriors.content_of"),
    "posterior check": Format("runs of a check", "checks.content_of_check"),
    "posterior calibration": Format("ranks of calibration cases", "checks.content_of_calibration"),
    "posterior predictive": Format(
        "data simulated from posteriors", "checks.content_of_predictive"
    ),
    "population": Format("a population of posteriors", "posteriors.content_of_population"),
    "answers": Format("answers about rows", "answers.content_of"),
    "check of answers": Format("a check of answers", "answers.content_of_check"),
    "image files": Format("images", "images.content_of_files"),
    "correlations": Format("matrices of correlations", "correlations.content_of_toy_matrices"),
    "residuals": Format(
        "residuals",
        advice=(
            "give the correlations that "
            f"{script('calc_net_residuals_autocorrelations')} computes from them"
        ),
    ),
    "fid reference": Format("features of images"),
    "table": Format("rows of a data set"),
    "records": Format("rows of a data set"),
}
"""Formats by kind, in the order of pictures and of the sections of a report."""


def format_of(path: Path) -> str | None:
    """Return the kind of a file or folder, a key of ``FORMATS``; None for other files.

    Raises:
        DataError: The file is broken.
    """
    if path.is_dir() or path.suffix == ".zip":
        return "image files"
    if path.suffix == ".jsonl":
        return "training" if path.name == STATS else None
    if path.suffix == ".json":
        return kind_of_json(path)
    if path.suffix == ".nc":
        from training.files.posterior_draws import is_posterior  # slow to import

        return "posterior" if is_posterior(path) else None
    if path.suffix != ".npz":
        return None
    with open_arrays(path) as saved:
        kind, names = kind_of_arrays(saved), set(saved.names)
    if kind == "correlations" and "time" in names:
        return "correlations of one time"
    if kind == "trajectory":
        return "rows" if {POINTS, NAMES} <= names else "images" if IMAGE_SHAPE in names else "toy"
    return kind if kind in FORMATS else None


def kind_of_arrays(saved: SavedArrays) -> str | None:
    """Return the kind of an ``.npz``, such as ``trajectory``; None if its arrays do not show it."""
    if "format" not in saved.names:
        return None
    text = str(saved.read("format"))
    kind, _, version = text.removeprefix(PREFIX).rpartition(" ")
    return kind if text.startswith(PREFIX) and version.isdecimal() else None
