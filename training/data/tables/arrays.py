"""Tables as arrays: npy, npz, Parquet, and what is drawn or ships with scikit-learn."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from torch_utils.results import Header, open_array, open_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.foreign import (
    BLOCK_ROWS,
    ForeignTable,
    numbered,
    places_of,
    require_few,
    require_names,
)
from training.data.toys import Toy
from training.names import TOY_NAMES

SHIPPED = ("breast_cancer", "diabetes", "wine")
"""Data sets of scikit-learn by name."""
TOY_PREFIX = "toy:"
TOY_ROWS = 20_000


def open_npy(path: Path) -> ForeignTable:
    """An npy, whose columns have no names."""
    with open_array(path) as (header, _):
        _require_table(path, header)

    def blocks() -> Iterator[np.ndarray]:
        with open_array(path) as (header, file):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), numbered(header.shape[1]), blocks, named=False)


def open_archive(path: Path) -> ForeignTable:
    """An npz with ``points``, or with one array alone, and perhaps ``names``."""
    with open_arrays(path) as saved:
        if "points" in saved.names:
            name = "points"
        elif len(saved.names) == 1:
            (name,) = saved.names
        else:
            raise DataError(
                f"{path} has no array 'points', and more than one: save the table as 'points'"
            )
        with saved.open(name) as (header, _):
            _require_table(path, header)
            columns = header.shape[1]
        names, named = numbered(columns), "names" in saved.names
        if named:
            names = [str(entry) for entry in saved.read("names").ravel()]
            if len(names) != columns:
                raise DataError(f"{path} has {columns} columns, but {len(names)} names")

    def blocks() -> Iterator[np.ndarray]:
        with open_arrays(path) as saved, saved.open(name) as (header, file), saved.reading(name):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), names, blocks, named)


def _rows(path: Path, header: Header, file: IO[bytes]) -> Iterator[np.ndarray]:
    """The rows of an array that is stored after its header, in blocks."""
    count, columns = header.shape

    def numbers(length: int) -> np.ndarray:
        content = file.read(length * header.dtype.itemsize)
        if len(content) != length * header.dtype.itemsize:
            raise DataError(f"{path} is broken: make it again")
        return np.frombuffer(content, header.dtype)

    if header.by_columns:
        values = np.empty((count, columns))
        for column in values.T:
            column[:] = numbers(count)
        yield values
        return
    for start in range(0, count, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, count - start)
        yield numbers(rows * columns).reshape(rows, columns).astype(np.float64)


def _require_table(path: Path, header: Header) -> None:
    if len(header.shape) != 2 or header.dtype.kind not in "fiub":
        raise DataError(
            f"{path} is an array of shape {list(header.shape)} and type {header.dtype}: give rows "
            "and columns of numbers"
        )
    require_few(header.shape[1], path)


def open_parquet(path: Path, wanted: Sequence[str] | None) -> ForeignTable:
    """Columns of a Parquet file, all of them if none are named."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise UsageError(
            f"{path} needs pyarrow: pip install pyarrow, or save the table as CSV"
        ) from error
    foreign = (arrow.ArrowException, OSError)
    try:
        file = parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
        kinds = {field.name: str(field.type) for field in file.schema_arrow}
    except foreign as error:
        raise DataError(f"{path} is no readable Parquet file") from error
    require_names(names, path)
    chosen = [names[place] for place in places_of(names, wanted, path)]
    for name in chosen:
        if not kinds[name].startswith(("int", "uint", "float", "double", "half", "bool")):
            raise DataError(
                f"{path}: column '{shown(name)}' holds {kinds[name]}, no numbers: leave it out"
            )

    def blocks() -> Iterator[np.ndarray]:
        try:
            for batch in file.iter_batches(BLOCK_ROWS, columns=chosen):
                columns = [batch.column(name).cast(arrow.float64()) for name in chosen]
                yield np.stack([c.to_numpy(zero_copy_only=False) for c in columns], axis=1)
        except foreign as error:
            raise DataError(f"{path} is broken: {str(error).splitlines()[0]}") from error

    return ForeignTable(str(path), chosen, blocks)


def open_shipped(name: str) -> ForeignTable:
    """A data set of scikit-learn."""
    datasets = importlib.import_module("sklearn.datasets")
    shipped = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_") for column in shipped.feature_names]
    return ForeignTable(name, names, lambda: iter([np.asarray(shipped.data, dtype=np.float64)]))


def open_toy(source: str, seed: int) -> ForeignTable:
    """Draws of ``toy:NAME``."""
    name = source.removeprefix(TOY_PREFIX)
    if name not in TOY_NAMES:
        raise UsageError(f"unknown toy '{name}': choose one of {', '.join(TOY_NAMES)}")
    toy = Toy(name)

    def blocks() -> Iterator[np.ndarray]:
        for number in range(TOY_ROWS // BLOCK_ROWS):
            generator = seeded_generator("cpu", seed, Stream.DATA, number)
            yield toy.sample(BLOCK_ROWS, generator).double().numpy()

    return ForeignTable(source, numbered(toy.dim), blocks)
