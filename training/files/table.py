"""Data sets of tables: an ``.npz`` by ``dataset_tool.py``, or your own.

    points            [N, D], float64, in their own units
    names             [D], of the columns; without them x1, x2, ...
    steps, offsets    [D]: the bin width of a discrete column and one of its values; 0 for
                      continuous columns
    bounds            [D, 2], lowest and highest value, NaN where there is none
    held_out          [N], bool: validation rows, which are not trained on but may be used to choose
                      between networks
    kept              [N], bool: rows that no training uses at all, for posterior.py calibrate
    dropped_names     [K], columns of the source that are left out because they follow from others:
                      dropped_offsets + points @ dropped_slopes.T
    dropped_offsets   [K]
    dropped_slopes    [K, D]
    column_order      [D + K], all names in the order of the source
    conditions, condition_names   [N, C] and [C], if points are to be conditioned on something;
                      NaN where data of a trial are missing, but not all of them, nor covariates
    condition_steps, condition_offsets, condition_bounds   [C], [C], [C, 2], as for columns
    covariates        [K], names of conditions that are not data, such as a design or a time
    datasets          [N], whole numbers: rows with the same number are trials of one dataset

Only points are needed. Beside the file, ``{name}_params.json`` has the options, the findings and
actions of the tool, and the versions.
"""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.results import open_arrays, save_arrays
from training.data.tables.formats import numbered, require_names
from training.data.tables.table import Columns, DataTable, Dropped
from training.files.arrays import CheckedArrays

FORMAT = "inflationary-flows table 1"


def save_table(path: Path, table: DataTable) -> None:
    """Write a numeric data set atomically."""
    columns, dropped = table.columns, table.dropped
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "points": table.points,
        "names": list(columns.names),
        "steps": columns.steps,
        "offsets": columns.offsets,
        "bounds": _as_stored(columns),
        "held_out": table.held_out,
        "dropped_names": np.array(dropped.names, dtype="U"),
        "dropped_offsets": dropped.offsets,
        "dropped_slopes": dropped.slopes,
        "column_order": list(dropped.order),
    }
    if table.conditions is not None:
        known = table.columns_of_conditions
        arrays |= {
            "conditions": table.conditions,
            "condition_names": list(known.names),
            "condition_steps": known.steps,
            "condition_offsets": known.offsets,
            "condition_bounds": _as_stored(known),
        }
    if table.covariates:
        arrays["covariates"] = list(table.covariates)
    if table.datasets is not None:
        arrays["datasets"] = table.datasets
    if table.kept is not None:
        arrays["kept"] = table.kept
    save_arrays(path, {name: np.asarray(values) for name, values in arrays.items()})


def _as_stored(columns: Columns) -> Tensor:
    """Return bounds ``[D, 2]``, NaN where there is none."""
    bounds = torch.stack([columns.low, columns.high], dim=1)
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
    with open_arrays(path) as saved:
        arrays = CheckedArrays(saved, path)
        points = torch.from_numpy(arrays.read("points", "ND", least=0, largest=inf))
        count, dim = points.shape
        if count < 2 or dim < 1:
            raise DataError(
                f"{path} has {count} rows and {dim} columns: give at least 2 rows and 1 column"
            )
        names = _texts(arrays, "names", numbered(dim))
        if len(names) != dim:
            raise DataError(
                f"{path} has {dim} columns, but {len(names)} in 'names': give one name per column"
            )
        columns = _columns(arrays, names)
        gone = _texts(arrays, "dropped_names", [])
        order = _texts(arrays, "column_order", [*names, *gone])
        if sorted(order) != sorted([*names, *gone]):
            raise DataError(
                f"{path}: 'column_order' must contain each of 'names' and 'dropped_names' once: "
                "make the file again"
            )
        arrays.sizes["K"] = len(gone)
        offsets = _numbers(arrays, "dropped_offsets", "K", len(gone))
        slopes = _numbers(arrays, "dropped_slopes", "KD", len(gone), dim)
        dropped = Dropped(gone, offsets, slopes, order)
        conditions = given = None
        if "conditions" in saved.names:
            conditions = torch.from_numpy(arrays.read("conditions", "NC", 0, inf, holes=True))
            number = conditions.shape[1]
            named = _texts(arrays, "condition_names", numbered(number, "y"))
            if len(named) != number:
                raise DataError(
                    f"{path} has {number} conditions, but {len(named)} in 'condition_names': give "
                    "one name per condition"
                )
            given = _columns(arrays, named, "condition_")
        covariates = _texts(arrays, "covariates", [])
        strange = [name for name in covariates if given is None or name not in given.names]
        if strange:
            raise DataError(
                f"{path}: the covariate '{strange[0]}' is not a condition: give only "
                "'condition_names' as 'covariates'"
            )
        if conditions is not None and given is not None:
            _require_data(path, conditions, [name not in covariates for name in given.names])
        held_out, kept = (_chosen(arrays, name, count) for name in ("held_out", "kept"))
        if (held_out | kept).all():
            raise DataError(
                f"{path}: all rows are held out for validation or calibration: leave rows for "
                "training"
            )
        if (held_out & kept).any():
            raise DataError(
                f"{path}: some rows are both in 'held_out' (for validation) and in 'kept' (for "
                "calibration): choose one for each row"
            )
        return DataTable(
            points,
            columns,
            held_out,
            dropped,
            conditions,
            [] if given is None else given.names,
            kept if kept.any() else None,
            given,
            covariates,
            _datasets(arrays, points, held_out, kept),
        )


def _columns(arrays: CheckedArrays, names: Sequence[str], prefix: str = "") -> Columns:
    """Return the properties of columns, from arrays whose names start with ``prefix``."""
    require_names(names, arrays.path)
    letter, count = "C" if prefix else "D", len(names)
    steps = _numbers(arrays, f"{prefix}steps", letter, count)
    offsets = _numbers(arrays, f"{prefix}offsets", letter, count)
    if (steps < 0).any():
        raise DataError(
            f"{arrays.path}: '{prefix}steps' has negative values: give bin widths of discrete "
            "columns, and 0 for continuous ones"
        )
    return Columns(names, steps, offsets, *_bounds(arrays, f"{prefix}bounds", count))


def _datasets(
    arrays: CheckedArrays, points: Tensor, held_out: Tensor, kept: Tensor
) -> Tensor | None:
    """Return the dataset of each row; None if the file has no datasets."""
    path = arrays.path
    if "datasets" not in arrays.saved.names:
        return None
    array = arrays.saved.read("datasets")
    if array.shape != (len(points),) or array.dtype.kind not in "iu":
        raise DataError(
            f"{path}: 'datasets' has shape {list(array.shape)} and type {array.dtype}, "
            f"expected [{len(points)}] integers"
        )
    _, first, which = np.unique(array, return_index=True, return_inverse=True)
    rows = torch.stack([*points.T, held_out.to(points), kept.to(points)], dim=1)
    apart = (rows != rows[first[which]]).any(dim=1)
    if apart.any():
        raise DataError(
            f"{path}: row {int(apart.int().argmax()) + 1} and the first row of its dataset differ "
            "in 'points', 'held_out' or 'kept': give all rows of a dataset the same"
        )
    return torch.from_numpy(which.astype(np.int64))


def _require_data(path: Path, conditions: Tensor, is_data: Sequence[bool]) -> None:
    """Check that conditions ``[N, C]`` have all covariates, and some data in each row.

    Raises:
        DataError: A covariate is missing, or all data of a row are.
    """
    missing, data = conditions.isnan(), torch.tensor(is_data)
    if missing[:, ~data].any():
        row = int(missing[:, ~data].any(dim=1).int().argmax()) + 1
        raise DataError(
            f"{path}: a covariate is missing in row {row}: only data may be missing: leave this "
            "row out"
        )
    empty = missing.any(dim=1) & missing[:, data].all(dim=1)
    if empty.any():
        row = int(empty.int().argmax()) + 1
        raise DataError(f"{path}: all data in 'conditions' are missing in row {row}: leave it out")


def holds_table(path: Path) -> bool:
    """Return whether a file may be a numeric data set: an ``.npz`` with an array ``points``."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    with open_arrays(path) as saved:
        return "points" in saved.names


def _numbers(arrays: CheckedArrays, name: str, letters: str, *shape: int) -> Tensor:
    """Return numbers of a shape given in letters, or zeros if there are none."""
    if name not in arrays.saved.names:
        return torch.zeros(shape, dtype=torch.float64)
    return torch.from_numpy(arrays.read(name, letters, least=0, largest=inf))


def _texts(arrays: CheckedArrays, name: str, default: list[str]) -> list[str]:
    if name not in arrays.saved.names:
        return default
    array = arrays.saved.read(name)
    if array.ndim != 1 or (array.dtype.kind != "U" and array.size):
        raise DataError(
            f"{arrays.path}: '{name}' has shape {list(array.shape)} and type {array.dtype}, "
            "expected a list of texts"
        )
    return [str(entry) for entry in array]


def _bounds(arrays: CheckedArrays, name: str, dim: int) -> tuple[Tensor, Tensor]:
    path = arrays.path
    if name not in arrays.saved.names:
        plain = Columns.plain([""] * dim)
        return plain.low, plain.high
    array = arrays.saved.read(name)
    if array.shape != (dim, 2) or array.dtype.kind != "f":
        raise DataError(
            f"{path}: '{name}' has shape {list(array.shape)} and type {array.dtype}, expected "
            f"[{dim}, 2] floats"
        )
    bounds = torch.from_numpy(array.astype(np.float64))
    low, high = bounds.T
    low = torch.where(low.isfinite(), low, -torch.inf)
    high = torch.where(high.isfinite(), high, torch.inf)
    if (low >= high).any():
        raise DataError(
            f"{path}: '{name}' has a lower bound that is not below its upper bound: correct it"
        )
    return low, high


def _chosen(arrays: CheckedArrays, name: str, count: int) -> Tensor:
    """Return which rows are held out, or kept; none if the file has no such array."""
    if name not in arrays.saved.names:
        return torch.zeros(count, dtype=torch.bool)
    array = arrays.saved.read(name)
    if array.shape != (count,) or array.dtype != bool:
        raise DataError(
            f"{arrays.path}: '{name}' has shape {list(array.shape)} and type {array.dtype}, "
            f"expected [{count}] booleans"
        )
    return torch.from_numpy(array.copy())
