"""Data sets of tables: an ``.npz`` by ``dataset_tool.py``, or your own.

Only points are needed. Beside the file, ``{name}_params.json`` has the options, the findings and
actions of the tool, and the versions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.data.tables.formats import numbered, require_names
from training.data.tables.raw_shape import AXES, RawShape
from training.data.tables.schema import Column, Dropped, Schema
from training.data.tables.table import DataTable
from training.files.declared import FLAG, FLOAT, TEXT, WHOLE, Format, Key, ResultFile, text
from training.names import DATA_AS

_ADVICE = "correct the file, or make it again"


def _columns_keys(prefix: str, axis: str, of: str) -> dict[str, Key]:
    """Return the keys of the properties of columns, whose names start with a prefix."""
    steps, bounds = f"bin width of a discrete {of}, 0 for continuous ones", f"bounds of each {of}"
    return {
        f"{prefix}steps": Key(axis, steps, low=0, optional=True),
        f"{prefix}offsets": Key(axis, f"one value of a discrete {of}", optional=True),
        f"{prefix}bounds": Key(f"{axis} 2", f"{bounds}, NaN for none", FLOAT, True, wild=True),
    }


TABLE_FILE = ResultFile(
    kind="table",
    name="a data set",
    sizes="N rows, D columns, K columns that are left out, C conditions and V covariates",
    keys={
        "points": Key("N D", "rows in their own units"),
        "names": Key("D", "names of the columns; without them x1, x2, ...", TEXT, optional=True),
        **_columns_keys("", "D", "column"),
        "held_out": Key("N", "validation rows, which choose between networks", FLAG, optional=True),
        "kept": Key("N", "rows for posterior.py calibrate, in no training", FLAG, optional=True),
        "dropped_names": Key("K", "columns that follow from others:", TEXT, optional=True),
        "dropped_offsets": Key("K", "dropped_offsets + points @ dropped_slopes.T", optional=True),
        "dropped_slopes": Key("K D", "coefficients of the other columns", optional=True),
        "column_order": Key("*", "all D + K names in the order of the source", TEXT, optional=True),
        "conditions": Key(
            "N C", "conditions; NaN past the end of raw data", optional=True, missing=True
        ),
        "condition_names": Key("C", "names of the conditions", TEXT, optional=True),
        **_columns_keys("condition_", "C", "condition"),
        "covariates": Key("V", "conditions that are no data, such as a time", TEXT, optional=True),
        "datasets": Key("N", "rows with the same number are trials of one data set", WHOLE, True),
        "prior": text("prior of simulated parameters, as JSON", optional=True),
        "data_as": text("kind of raw data among the conditions, such as series", optional=True),
        "data_shape": Key("*", "shape of raw data, channels last", WHOLE, optional=True),
    },
    least={"N": 2, "K": 0, "C": 0, "V": 0},
    advice=_ADVICE,
)
FORMATS = {TABLE_FILE.kind: Format("rows of a data set")}


def save_table(path: Path, table: DataTable) -> None:
    """Write a numeric data set atomically."""
    dropped, slopes = table.dropped, (len(table.dropped.names), table.dim)
    arrays: dict[str, Any] = {
        "format": TABLE_FILE.format,
        "points": table.values,
        "names": table.names,
        "steps": table.steps,
        "offsets": table.offsets,
        "bounds": _as_stored(table),
        "held_out": table.held_out,
        "dropped_names": np.array(dropped.names, dtype="U"),
        "dropped_offsets": dropped.offsets,
        "dropped_slopes": dropped.slopes.reshape(slopes),
        "column_order": table.order,
    }
    if table.conditions is not None:
        known = table.conditions_schema
        arrays |= {
            "conditions": table.conditions,
            "condition_names": known.names,
            "condition_steps": known.steps,
            "condition_offsets": known.offsets,
            "condition_bounds": _as_stored(known),
        }
    covariates = table.covariates or None
    arrays |= {"covariates": covariates, "datasets": table.datasets, "kept": table.kept}
    if table.raw is not None:
        arrays |= {"data_as": table.raw.kind, "data_shape": list(table.raw.shape)}
    TABLE_FILE.save(path, {**arrays, "prior": table.prior or None})


def _as_stored(schema: Schema) -> Tensor:
    """Return bounds ``[D, 2]``, NaN where there is none."""
    bounds = torch.stack([schema.low, schema.high], dim=1)
    return torch.where(bounds.isfinite(), bounds, torch.nan)


def load_table(path: Path | DataTable) -> DataTable:
    """Load a numeric data set without the rows kept for calibration, which no training may use.

    A table in memory is taken as it is.

    Raises:
        DataError: The file is missing or broken, or not a table.
    """
    table = load_whole(path)
    return table if table.kept is None else table.at(~table.kept)


def load_whole(path: Path | DataTable) -> DataTable:
    """Load a numeric data set with all its rows, including those kept for calibration.

    Raises:
        DataError: The file is missing or broken, or not a table.
    """
    if isinstance(path, DataTable):
        return path
    with TABLE_FILE.open(path) as saved:
        if "dropped_names" not in saved:
            saved.sizes["K"] = 0
        arrays = saved.all()
    count, dim = arrays["points"].shape
    texts = {
        name: array.tolist() for name, array in arrays.items() if TABLE_FILE.keys[name].kind is TEXT
    }
    names, gone = texts.get("names", numbered(dim)), texts.get("dropped_names", [])
    order, covariates = texts.get("column_order", [*names, *gone]), texts.get("covariates", [])
    columns = _columns(path, names, arrays)
    if sorted(order) != sorted([*names, *gone]):
        problem = "must contain each of 'names' and 'dropped_names' once"
        raise TABLE_FILE.broken(path, "column_order", problem)
    follows = {"dropped_offsets": np.zeros(len(gone)), "dropped_slopes": np.zeros((len(gone), dim))}
    offsets, slopes = (torch.from_numpy(arrays.get(*each)) for each in follows.items())
    dropped = Dropped(gone, offsets, slopes)
    conditions, given = arrays.get("conditions"), list[Column]()
    if conditions is not None:
        named = texts.get("condition_names", numbered(conditions.shape[1], "y"))
        given = _columns(path, named, arrays, "condition_")
        if "data_as" not in texts:
            _require_data(path, conditions)
    known = [column.name for column in given]
    strange = [name for name in covariates if name not in known]
    if strange:
        problem = f"has '{strange[0]}', which is not among 'condition_names'"
        raise TABLE_FILE.broken(path, "covariates", problem)
    none = np.zeros(count, dtype=bool)
    held_out, kept = (arrays.get(name, none) for name in ("held_out", "kept"))
    if (held_out | kept).all():
        raise DataError(
            f"{path}: all rows are held out for validation or calibration: leave rows for training"
        )
    if (held_out & kept).any():
        raise DataError(
            f"{path}: some rows are both in 'held_out' (for validation) and in 'kept' (for "
            "calibration): choose one for each row"
        )
    return DataTable(
        columns,
        order,
        given,
        covariates,
        dropped,
        prior=texts.get("prior", ""),
        raw=_raw(path, texts.get("data_as"), arrays.get("data_shape"), conditions),
        values=arrays["points"],
        held_out=held_out,
        kept=kept if kept.any() else None,
        conditions=conditions,
        datasets=_datasets(path, arrays.get("datasets"), arrays["points"], held_out, kept),
    )


def _columns(
    path: Path, names: Sequence[str], arrays: Mapping[str, np.ndarray], prefix: str = ""
) -> list[Column]:
    """Return columns with the properties in arrays whose names start with ``prefix``."""
    require_names(names, path)
    zeros = np.zeros(len(names))
    steps, offsets = (arrays.get(f"{prefix}{name}", zeros) for name in ("steps", "offsets"))
    low, high = arrays.get(f"{prefix}bounds", np.full((len(names), 2), np.nan)).T
    low, high = np.where(np.isfinite(low), low, -np.inf), np.where(np.isfinite(high), high, np.inf)
    if (low >= high).any():
        problem = "has a lower bound that is not below its upper bound"
        raise TABLE_FILE.broken(path, f"{prefix}bounds", problem)
    numbers = (steps.tolist(), offsets.tolist(), low.tolist(), high.tolist())
    return [Column.of_numbers(*each) for each in zip(names, *numbers, strict=True)]


def _raw(
    path: Path, kind: Any, shape: np.ndarray | None, conditions: np.ndarray | None
) -> RawShape | None:
    """Return the shape of raw data; None if the conditions are numbers."""
    if kind is None:
        return None
    size = [] if shape is None else [int(number) for number in shape]
    if kind not in DATA_AS or len(size) != (AXES[kind] or len(size)) or min(size, default=0) < 1:
        raise TABLE_FILE.broken(path, "data_as", "is not a kind of raw data with a shape")
    raw = RawShape(kind, tuple(size))
    if conditions is None or raw.size != conditions.shape[1]:
        raise TABLE_FILE.broken(path, "data_shape", "is not that of the conditions")
    return raw.as_in(torch.from_numpy(conditions), str(path))


def _datasets(
    path: Path,
    array: np.ndarray | None,
    points: np.ndarray,
    held_out: np.ndarray,
    kept: np.ndarray,
) -> np.ndarray | None:
    """Return the dataset of each row; None if the file has no datasets."""
    if array is None:
        return None
    _, first, which = np.unique(array, return_index=True, return_inverse=True)
    rows = np.column_stack([points, held_out, kept])
    apart = (rows != rows[first[which]]).any(axis=1)
    if apart.any():
        raise DataError(
            f"{path}: row {int(apart.argmax()) + 1} and the first row of its dataset differ "
            "in 'points', 'held_out' or 'kept': give all rows of a dataset the same"
        )
    return which.astype(np.int64)


def _require_data(path: Path, conditions: np.ndarray) -> None:
    """Check that conditions ``[N, C]`` have no missing values.

    Raises:
        DataError: A value is missing.
    """
    missing = np.isnan(conditions).any(axis=1)
    if missing.any():
        row = int(missing.argmax()) + 1
        raise DataError(f"{path}: a value of 'conditions' is missing in row {row}: leave it out")


def holds_table(path: Path) -> bool:
    """Return whether a file may be a numeric data set: an ``.npz`` with an array ``points``."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    with open_arrays(path) as saved:
        return "points" in saved.names
