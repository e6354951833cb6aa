"""Training from Python: data that people have, and what the scripts train on them.

    >>> from training import Table, Toy
    >>> model = Table.open("houses.csv").train(seed=0)       # doctest: +SKIP
    >>> model = Toy("circles").train(dims_to_keep=1)         # doctest: +SKIP

Options have the names that they have on the command line, mean the same, and give the same bytes.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from training.commands import toy_train, train
from training.commands.answers import Answers
from training.commands.holes import telling_holes
from training.data import toys
from training.data.images.dataset import ImageDataset
from training.data.records import records
from training.data.records.cells import open_cells
from training.data.records.reading import RecordChoices, SurveyedTable
from training.data.records.writing import frame_of
from training.data.tables.foreign import BLOCK_ROWS, ForeignTable, numbered, with_columns
from training.data.tables.formats import open_table
from training.data.tables.making import TableChoices, make_table
from training.data.tables.table import DataTable
from training.files.records import holds_records, load_records, save_records
from training.files.table import holds_table, load_table, save_table
from training.learning.run import Progress
from training.model.model import Model
from training.options.declared import Declared, meant, typed_by_name
from training.options.toy_train import ToyTrainSettings
from training.options.train import TrainSettings
from training.subjects import NetworkFile, RecordFlow

OWN = ("data", "data_name", "augment_to", "outdir", "nosubdir", "network", "refit_latent_law")
"""Options that are said in another way here, or are for other uses of the scripts."""
Run = Callable[[Any, Progress | None], Path | None]


class Toy(toys.Toy):
    """A toy distribution; see ``training.data.toys.Toy``.

    Example:
        >>> Toy("circles").dim
        2
    """

    def train(
        self, outdir: str | Path | None = None, progress: Progress | None = None, **options: Any
    ) -> Model:
        """A model of it, as ``toy_train.py`` trains it.

        Args:
            outdir: Folder of the run, which gets its files; None keeps none.
            progress: Called with the part of the training that is done, from 0 to 1.
            options: Those of ``toy_train.py``, by name, such as ``dims_to_keep`` or ``seed``.

        Raises:
            UsageError: There is no such option, or it does not take this value.
        """
        own = {"data_name": self.name, "augment_to": self.augment_to}
        return _trained(ToyTrainSettings, toy_train.run, own, outdir, progress, options)


@dataclass(frozen=True, eq=False)
class Table:
    """A table to train on: numbers in columns, perhaps some to condition on.

    Attributes:
        rows: The rows, cleaned, some of them held out.
        name: How results are named.
        lines: What was found and done, for people.
        path: The data set that it was read from; None if it is in memory alone.
    """

    rows: DataTable
    name: str
    lines: Sequence[str] = ()
    path: Path | None = None

    @classmethod
    def open(
        cls,
        source: object,
        columns: Sequence[str] | None = None,
        conditions: Sequence[str] = (),
        covariates: Sequence[str] = (),
        dataset: str | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        missing: str = "refuse",
        held_out: float = 0.1,
        seed: int = 0,
        name: str = "table",
    ) -> "Table":
        """A table of a file, an array or a data frame.

        Args:
            source: A CSV or another file that ``dataset_tool.py`` takes, or the ``.npz`` that it
                made; an array ``[N, D]``; or a data frame, such as of pandas or polars.
            columns: Their names: of those of a file or a frame to take, None for all; of an array
                what to call them.
            conditions: Columns, among these, that are to be conditioned on.
            covariates: Columns that are known of each row too, and no data.
            dataset: Column that says which rows are trials of one dataset.
            bounds: Lowest and highest value by column, infinite where there is none.
            missing: ``refuse`` missing values, ``drop`` their rows, or fill in the ``mean``.
            held_out: Fraction of the rows that is not to be trained on.
            seed: Of the choice of these.
            name: How results of what is no file are named.

        Raises:
            DataError: It is missing or broken, or has too few rows.
            UsageError: A column that was named is not there.
        """
        if isinstance(source, str | Path) and holds_table(Path(source)):
            path = Path(source)
            return cls(load_table(path), path.stem, path=path)
        choices = TableChoices(
            conditions=tuple(conditions),
            covariates=tuple(covariates),
            dataset=dataset,
            missing=missing,
            bounds=dict(bounds or {}),
            held_out=held_out,
            seed=seed,
        )
        if isinstance(source, str | Path):
            foreign, name = open_table(str(source), columns, seed), Path(source).stem
        else:
            foreign = _in_memory(source, columns, name)
        rows, lines = make_table(foreign, choices)
        return cls(rows, name, lines)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a model knows."""
        return list(self.rows.columns.names)

    def __repr__(self) -> str:
        given = ", ".join(self.rows.condition_names)
        return (
            f"Table('{self.name}', {len(self.rows)} rows of {', '.join(self.columns)}"
            + (f" given {given}" if given else "")
            + ")"
        )

    def train(
        self, outdir: str | Path | None = None, progress: Progress | None = None, **options: Any
    ) -> Model:
        """A model of it, as ``train.py`` trains it; one of the columns given the conditions, if
        there are some, unless ``cond`` is False, or ``likelihood`` is True.

        Args:
            outdir: Folder of the run, which gets its files; None keeps none.
            progress: Called with the part of the training that is done, from 0 to 1.
            options: Those of ``train.py``, by name, such as ``dims_to_keep`` or ``seed``.

        Raises:
            UsageError: There is no such option, or it does not take this value.
        """
        cond = self.rows.conditions is not None and not options.get("likelihood")
        options = {"cond": cond, **options}
        if self.path is not None:
            own = {"data": self.path}
            return _trained(TrainSettings, train.run, own, outdir, progress, options)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self.name}.npz"
            save_table(path, self.rows)
            return _trained(TrainSettings, train.run, {"data": path}, outdir, progress, options)


@dataclass(frozen=True, eq=False)
class Records(records.Records):
    """Rows of typed columns, with cells that may be missing; see
    ``training.data.records.records.Records``.

    Attributes:
        lines: What was found and done, for people.
    """

    lines: Sequence[str] = ()

    @classmethod
    def open(
        cls,
        source: object,
        columns: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        missing: str = "keep",
        missing_values: Sequence[str] = (),
        calendar: bool = False,
        is_missing: Sequence[str] = (),
        max_rows: int | None = None,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> "Records":
        """The records of a file or a data frame.

        Args:
            source: A CSV or another file that ``dataset_tool.py`` takes, or the ``.npz`` that it
                made; or a data frame, such as of pandas or polars.
            columns: Their names; None for all.
            exclude: Columns to leave out.
            types: By column, as ``--types`` has them: ``{"zip": "category"}``.
            missing: ``keep`` missing cells, ``refuse`` them, ``drop`` their rows, or fill in the
                ``mean``.
            missing_values: Texts that stand for no value, beside the usual ones.
            calendar: Whether dates get their weekday and season as further columns.
            is_missing: Columns of which a further one is to say where their cells are missing.
            max_rows: Rows to take at most; None for all.
            held_out: Fraction of the rows that is not to be trained on.
            seed: Of the choice of these.

        Raises:
            DataError: It is missing or broken, or has too few rows.
            UsageError: A column or type that was given is not there, or does not fit.
        """
        if isinstance(source, str | Path) and holds_records(Path(source)):
            loaded, lines = load_records(Path(source)), list[str]()
        else:
            choices = RecordChoices(
                types=types or {},
                missing=missing,
                missing_values=missing_values,
                calendar=calendar,
                is_missing=is_missing,
                max_rows=max_rows,
                held_out=held_out,
                seed=seed,
            )
            cells = open_cells(source).only(columns, exclude)
            loaded, lines = SurveyedTable.of(cells, choices).records()
            lines = [*lines, *telling_holes(loaded)]
        own = {item.name: getattr(loaded, item.name) for item in fields(loaded)}
        return cls(**own, lines=lines)

    def save(self, path: str | Path) -> None:
        """Writes a data set for ``train.py``, whole or not at all."""
        save_records(Path(path), self)

    def train(
        self, outdir: str | Path | None = None, progress: Progress | None = None, **options: Any
    ) -> Answers:
        """What answers any question about such rows, or those of ``ask=("price",)`` alone, as
        ``train.py`` trains it; see ``Table.train``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.npz"
            self.save(path)
            model = _trained(TrainSettings, train.run, {"data": path}, outdir, progress, options)
        return Answers(RecordFlow.of(NetworkFile(path, model)))

    def to_pandas(self, values: np.ndarray | None = None) -> Any:
        """A data frame of these rows, or of new ones ``[n, D]``; see ``frame_of``."""
        return frame_of(self, values)


@dataclass(frozen=True, eq=False)
class Images:
    """Images to train on, a zip or folder that ``dataset_tool.py`` made.

    Attributes:
        path: Where they are.
        shape: ``(C, H, W)``.
        count: How many.
    """

    path: Path
    shape: tuple[int, ...]
    count: int

    @classmethod
    def open(cls, path: str | Path) -> "Images":
        """Raises DataError if they are missing or broken."""
        dataset = ImageDataset(Path(path))
        return cls(Path(path), tuple(dataset.image_shape), len(dataset))

    def train(
        self, outdir: str | Path | None = None, progress: Progress | None = None, **options: Any
    ) -> Model:
        """A model of them, as ``train.py`` trains it; see ``Table.train``."""
        return _trained(TrainSettings, train.run, {"data": self.path}, outdir, progress, options)


def _in_memory(source: Any, columns: Sequence[str] | None, name: str) -> ForeignTable:
    """Rows of an array or a data frame."""
    own = getattr(source, "columns", None)
    try:
        values = np.asarray(source.to_numpy() if own is not None else source, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {error}: give numbers alone, or use Records.open") from error
    if values.ndim != 2:
        raise DataError(f"{name} has the shape {list(values.shape)}: give rows [N, D]")
    if own is None:
        names = numbered(values.shape[1]) if columns is None else list(columns)
        if len(names) != values.shape[1]:
            raise UsageError(f"columns names {len(names)}, but {name} has {values.shape[1]}")
        wanted = None
    else:
        names, wanted = [str(each) for each in own], columns

    def blocks() -> Iterator[np.ndarray]:
        return (values[at : at + BLOCK_ROWS] for at in range(0, len(values), BLOCK_ROWS))

    return with_columns(ForeignTable(name, names, blocks), wanted)


def _trained(
    cls: type[Declared],
    run: Run,
    own: Mapping[str, Any],
    outdir: str | Path | None,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> Model:
    """The model that a script's training ends with.

    Args:
        cls: Settings of the script.
        run: What the script runs.
        own: Options that the data say.
        outdir: See ``Toy.train``.
        progress: Likewise.
        options: As they were given.
    """
    known = cls().recorded().keys() - set(OWN)
    for name in options:
        if name not in known:
            raise UsageError(f"train has no option '{name}'{meant(name, known)}")
    with tempfile.TemporaryDirectory() as folder, _alone():
        place = {"outdir": Path(folder), "nosubdir": True} if outdir is None else {"outdir": outdir}
        given = {**own, **place, **options}
        network = run(typed_by_name(cls, given), progress)
        if network is None:
            raise UsageError("train: a dry run trains no model")
        return Model.load(network)


@contextmanager
def _alone() -> Iterator[None]:
    """Around a training: random numbers of PyTorch go on as before it, and so does the log."""
    handlers = list(logger.handlers)
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for handler in logger.handlers[:]:
                if handler not in handlers:
                    logger.removeHandler(handler)
                    handler.close()
