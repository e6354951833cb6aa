"""All kinds of files and their uses, as the modules of this package declare them.

An ``.npz`` states its kind in an entry ``format``, such as "inflationary-flows trajectory 1". A new
kind is a module that declares its ``FORMATS``, and the name of the module here.
"""

from importlib import import_module
from pathlib import Path

from torch_utils.results import open_arrays
from training.files.answers import kind_of_json
from training.files.declared import Format, kind_of_arrays
from training.files.posterior_draws import is_posterior
from training.files.stats import STATS

MODULES = (
    *("stats", "trajectory", "rows", "coverage", "correlations", "roundtrip", "posterior_draws"),
    *("posterior", "population", "answers", "image_folder", "residuals", "fid_reference"),
    *("table", "records", "lookahead", "rounds", "simulator_runs"),
)
"""Modules of this package that declare files, in the order of pictures and sections of a report."""
FORMATS: dict[str, Format] = {}
"""Formats by kind."""
for _name in MODULES:
    FORMATS |= getattr(import_module(f"training.files.{_name}"), "FORMATS", {})


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
        return "posterior" if is_posterior(path) else None
    if path.suffix != ".npz":
        return None
    with open_arrays(path) as saved:
        kind, names = kind_of_arrays(saved), set(saved.names)
    uses = ((name, each) for name, each in FORMATS.items() if kind == (each.of or name))
    fitting = {name: len(each.needs) for name, each in uses if names.issuperset(each.needs)}
    return max(fitting, key=fitting.__getitem__, default=None)
