"""Which kind of results an ``.npz`` holds.

Files say it in an entry ``format``, such as "inflationary-flows trajectory 1"; what files of
earlier versions hold follows from the names of their arrays.
"""

from torch_utils.results import SavedArrays

PREFIX = "inflationary-flows "
NAMED = {
    "trajectory": {"times", "xs_es", "tilde_xs"},
    "worst roundtrips": {"originals", "returned"},
    "coverage": {"radii", "coverage", "coverage_fresh"},
    "residual summary": {"times", "lags"},
    "correlations": {"net_outputs_acs"},
    "residuals": {"net_outputs", "net_residuals"},
    "fid reference": {"mu", "sigma"},
}
"""By kind, arrays that files of no other kind have, where they say nothing themselves."""


def kind_of_arrays(saved: SavedArrays) -> str | None:
    """The kind, such as ``trajectory``; None if it is unknown."""
    if "format" in saved.names:
        text = str(saved.read("format"))
        kind, _, version = text.removeprefix(PREFIX).rpartition(" ")
        return kind if text.startswith(PREFIX) and version.isdecimal() else None
    names = set(saved.names)
    return next((kind for kind, needed in NAMED.items() if needed <= names), None)
