"""Training from Python: data that people have, and what the scripts train on them.

    >>> from training import Table, Toy
    >>> model = Table.open("houses.csv").train(seed=0)       # doctest: +SKIP
    >>> model = Toy("circles").train(dims_to_keep=1)         # doctest: +SKIP

Options have the names that they have on the command line, mean the same, and give the same bytes.
"""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from training.commands import train
from training.commands.answers import Answers
from training.commands.called import (
    COLUMN,
    FRAMES,
    kind_of,
    names_in,
    numbers_of,
    own_folder,
    ranges_of,
)
from training.commands.dataset_tool import DATASET, telling_holes
from training.commands.models import Model
from training.data import toys
from training.data.images.dataset import ImageDataset
from training.data.records import records
from training.data.records.cells import open_cells
from training.data.records.reading import RecordChoices, SurveyedTable
from training.data.records.writing import frame_of
from training.data.tables.foreign import (
    ForeignTable,
    TableChoices,
    numbered,
    row_blocks,
    with_columns,
)
from training.data.tables.formats import open_table
from training.data.tables.making import make_table
from training.data.tables.marginals import looks_uniform
from training.data.tables.table import DataTable
from training.files.records import holds_records, load_records, save_records
from training.files.table import holds_table, load_table, save_table
from training.learning.run import Progress
from training.learning.stopping import StoppedBySignal
from training.names import script
from training.options.declared import Declared, meant, typed_by_name
from training.options.train import TrainSettings
from training.options.training import ToyTrainSettings
from training.subjects import NetworkFile, RecordFlow
from training.subjects.networks import plain_name

OWN = ("data", "data_name", "augment_to", "outdir", "nosubdir", "network", "refit_latent_law")
"""Options that are said in another way here, or are for other uses of the scripts."""
SNAP = 10
"""Reports between network files: what Ctrl-C leaves."""
BAR = "{percentage:3.0f}% |{bar}| {elapsed} < {remaining}"
Run = Callable[[Any, Progress | None], Path | None]


class Toy(toys.Toy):
    """A toy distribution; see ``training.data.toys.Toy``.

    Example:
        >>> Toy("circles").dim
        2
    """

    def __repr__(self) -> str:
        return f"Toy('{self.name}')"

    def train(
        self, outdir: str | Path | None = None, progress: Progress | bool = False, **options: Any
    ) -> Model:
        """A model of it, as ``toy_train.py`` trains it by its options; see ``Table.train``."""
        own = {"data_name": self.name, "augment_to": self.augment_to}
        return _trained(ToyTrainSettings, train.run_on_toy, own, outdir, progress, options)


@dataclass(frozen=True, eq=False)
class Table:
    """A table to train on: numbers in columns, perhaps some to condition on.

    Attributes:
        rows: The rows, cleaned, some of them held out.
        name: How results are named.
        lines: What was found and done, for people.
        path: The data set that it was read from; None if it is in memory alone.
        kind: The package in whose kind of data frames or arrays models of it give rows.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(50, 2))
        >>> Table.open(rows, columns=["size", "price"])
        Table('table', 50 rows of size, price)
    """

    rows: DataTable
    name: str
    lines: Sequence[str] = ()
    path: Path | None = None
    kind: str = FRAMES

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
            missing: ``refuse`` missing values, ``drop`` their rows, fill in the ``mean``, or
                ``keep`` those in data of trials.
            held_out: Fraction of the rows that is not to be trained on.
            seed: Of the choice of these.
            name: How results of what is no file are named.

        Raises:
            DataError: It is missing or broken, or has too few rows.
            UsageError: A column that was named is not there, files cannot have the name, or
                something is chosen about an ``.npz`` that is made already.
        """
        columns = None if columns is None else names_in(columns)
        choices = TableChoices(
            conditions=names_in(conditions),
            covariates=names_in(covariates),
            dataset=dataset,
            missing=missing,
            bounds=ranges_of(bounds),
            held_out=held_out,
            seed=seed,
        )
        if isinstance(source, str | Path) and holds_table(Path(source)):
            path = Path(source)
            _require_unchosen(path, choices, columns=columns)
            return cls(load_table(path), path.stem, path=path)
        if isinstance(source, str | Path):
            foreign, name, kind = open_table(str(source), columns, seed), Path(source).stem, FRAMES
        else:
            foreign, kind = _in_memory(source, columns, name), kind_of(source)
        rows, lines = make_table(foreign, choices)
        return cls(rows, name, lines, kind=kind)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a model knows."""
        return list(self.rows.columns.names)

    def __repr__(self) -> str:
        columns, given = ", ".join(self.columns), ", ".join(self.rows.condition_names)
        what = f"{columns} given {given}" if given else columns
        return f"{type(self).__name__}('{self.name}', {len(self.rows)} rows of {what})"

    def train(
        self, outdir: str | Path | None = None, progress: Progress | bool = False, **options: Any
    ) -> Model:
        """A model of it, as ``train.py`` trains it; one of the columns given the conditions, if
        there are some, unless ``cond`` is False, or ``likelihood`` is True.

        Args:
            outdir: Folder of the run, which gets its files; None keeps none.
            progress: Called with the part of the training that is done, from 0 to 1; True shows a
                bar, in a terminal or a notebook.
            options: Those of ``train.py``, by name, such as ``dims_to_keep`` or ``seed``.

        Raises:
            UsageError: There is no such option, or it does not take this value.
        """
        cond = self.rows.conditions is not None and not options.get("likelihood")
        options = {"cond": cond, **options}
        with tempfile.TemporaryDirectory() as folder:
            path = self.path or Path(folder) / f"{self.name}.npz"
            if self.path is None:
                _require_unresumed(options)
                save_table(path, self.rows)
            own = {"data": path}
            return _trained(
                TrainSettings, train.run, own, outdir, progress, options, kind=self.kind
            )


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Simulations(Table):
    """What a simulator gave: parameters, and for each row of them the data. A model of it is of
    parameters given data.

    Example:
        >>> import numpy as np
        >>> theta = np.random.default_rng(0).uniform(-1, 1, size=(50, 2))
        >>> Simulations(theta, theta.sum(axis=1), bounds={"theta1": (-1, 1)})
        Simulations('simulations', 50 rows of theta1, theta2 given y1)
    """

    def __init__(
        self,
        parameters: Any,
        data: Any,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        dataset: Any = None,
        covariates: Sequence[str] = (),
        name: str = "simulations",
        **choices: Any,
    ):
        """Takes both as data frames, arrays or tensors, ``[N, D]`` and ``[N, C]``.

        Args:
            parameters: Columns without a name are called theta1, theta2, and so on.
            data: Such are called y1, y2, and so on.
            bounds: Lowest and highest value of parameters, by name.
            dataset: Numbers ``[N]`` that say which rows are trials with the same parameters, of
                which ``train(likelihood=True)`` learns the likelihood of one, and
                ``train(cond_shape="set:K")`` the posterior given all, K columns each; None if none
                are.
            covariates: Columns of the data that are known of each trial, such as a time.
            name: How results are named.
            choices: Of ``Table.open``, by name: ``held_out``, ``seed``, ``missing``.

        Raises:
            DataError: They are no numbers, of another number of rows, or too few.
            UsageError: A bound is of no parameter.
        """
        own, rows = numbers_of(parameters, "parameters", COLUMN)
        conditions, given = numbers_of(data, "data", COLUMN)
        own = own or numbered(rows.shape[1], "theta")
        conditions = conditions or numbered(given.shape[1], "y")
        ids = None if dataset is None else numbers_of(dataset, "dataset", COLUMN)[1]
        counts = {len(rows), len(given), len(rows if ids is None else ids)}
        if len(counts) > 1:
            raise DataError(
                f"parameters, data and dataset have {' and '.join(map(str, sorted(counts)))} rows: "
                "give as many of each"
            )
        twice = sorted({*own} & {*conditions})
        if twice:
            raise DataError(f"'{twice[0]}' is a parameter and a column of data: rename one")
        covariates = names_in(covariates)
        unknown = sorted({*covariates} - {*conditions})
        if unknown:
            raise UsageError(f"covariate '{unknown[0]}' is no column of the data")
        beside = {} if ids is None else {DATASET: ids}
        table = Table.open(
            np.concatenate([rows, given, *beside.values()], axis=1),
            columns=[*own, *conditions, *beside],
            conditions=[column for column in conditions if column not in covariates],
            covariates=covariates,
            dataset=next(iter(beside), None),
            bounds=bounds,
            name=name,
            **choices,
        )
        _hint_at_bounds(own, rows, bounds or {})
        # Data without names are given again in the order in which they came.
        kept = table.rows.in_order(conditions)
        super().__init__(kept, name, table.lines, kind=kind_of(parameters))


@dataclass(frozen=True, eq=False, repr=False)
class Records(records.Records):
    """Rows of typed columns, with cells that may be missing; see
    ``training.data.records.records.Records``.

    Attributes:
        lines: What was found and done, for people.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"rooms": [1, 2, 3, 4] * 5, "garden": ["yes", "no"] * 10})
        >>> Records.open(frame)
        Records(20 rows of rooms, garden)
    """

    lines: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"Records({len(self)} rows of {', '.join(self.names)})"

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
            UsageError: A column or type that was given is not there, or does not fit, or something
                is chosen about an ``.npz`` that is made already.
        """
        columns = None if columns is None else names_in(columns)
        choices = RecordChoices(
            types=types or {},
            missing=missing,
            missing_values=missing_values,
            calendar=calendar,
            is_missing=names_in(is_missing),
            max_rows=max_rows,
            held_out=held_out,
            seed=seed,
        )
        if isinstance(source, str | Path) and holds_records(Path(source)):
            _require_unchosen(Path(source), choices, columns=columns, exclude=exclude)
            loaded, lines = load_records(Path(source)), list[str]()
        else:
            cells = open_cells(source).only(columns, names_in(exclude))
            loaded, lines = SurveyedTable.of(cells, choices).records()
            lines = [*lines, *telling_holes(loaded)]
        own = {item.name: getattr(loaded, item.name) for item in fields(loaded)}
        return cls(**own, lines=lines)

    def save(self, path: str | Path) -> None:
        """Writes a data set for ``train.py``, whole or not at all."""
        save_records(Path(path), self)

    def train(
        self, outdir: str | Path | None = None, progress: Progress | bool = False, **options: Any
    ) -> Answers:
        """What answers any question about such rows, or those of ``ask=("price",)`` alone, as
        ``train.py`` trains it; see ``Table.train``."""
        _require_unresumed(options)
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
    def open(cls, path: object) -> "Images":
        """Raises DataError if they are missing or broken."""
        if not isinstance(path, str | Path):
            what = type(path).__name__
            raise DataError(
                f"images are given as {what}: give a zip or folder by {script('dataset_tool')}"
            )
        dataset = ImageDataset(Path(path))
        return cls(Path(path), tuple(dataset.image_shape), len(dataset))

    def train(
        self, outdir: str | Path | None = None, progress: Progress | bool = False, **options: Any
    ) -> Model:
        """A model of them, as ``train.py`` trains it; see ``Table.train``."""
        return _trained(TrainSettings, train.run, {"data": self.path}, outdir, progress, options)


def _hint_at_bounds(names: Sequence[str], rows: np.ndarray, bounds: Mapping[str, Any]) -> None:
    """Warn once of parameters ``[N, D]`` that look uniform and have no bounds."""
    uniform = {
        name: (float(np.nanmin(values)), float(np.nanmax(values)))
        for name, values in zip(names, rows.T, strict=True)
        if name not in bounds and looks_uniform(values)
    }
    if uniform:
        ends = [f"{name} on [{low:.4g}, {high:.4g}]" for name, (low, high) in uniform.items()]
        logger.warning(
            f"Warning: parameters look uniform: {', '.join(ends)}. If the prior is, give "
            f"its limits, such as bounds={{'{next(iter(uniform))}': (low, high)}}: without them "
            "posteriors extend beyond the limits"
        )


def _in_memory(source: Any, columns: Sequence[str] | None, name: str) -> ForeignTable:
    """Rows of an array or a data frame."""
    own, values = numbers_of(source, plain_name(name, "name"))
    wanted = None if own is None else columns
    names = own or (numbered(values.shape[1]) if columns is None else list(columns))
    if len(names) != values.shape[1]:
        raise UsageError(f"columns names {len(names)}, but {name} has {values.shape[1]}")
    return with_columns(ForeignTable(name, names, partial(row_blocks, values)), wanted)


def _trained(
    cls: type[Declared],
    run: Run,
    own: Mapping[str, Any],
    outdir: str | Path | None,
    progress: Progress | bool,
    options: Mapping[str, Any],
    kind: str = FRAMES,
) -> Model:
    """Return the model that a script's training ends with.

    Args:
        cls: The settings of the script.
        run: The function that the script runs with them.
        own: Options that the data decide.
        outdir: See ``Table.train``.
        progress: See ``Table.train``.
        options: See ``Table.train``.
        kind: The package in whose kind the model returns rows; its network file keeps it.
    """
    known = cls().recorded().keys() - set(OWN)
    for name in options:
        if name not in known:
            raise UsageError(f"train has no option '{name}'{meant(name, known)}")
    with own_folder() as folder:
        run_folder = Path(options.get("resume") or outdir or folder)
        if "resume" in options:
            given = {**own, **options}  # all else as the run has it
        else:
            place = {"outdir": run_folder, "nosubdir": outdir is None}
            given = {"snap": SNAP, **own, **place, **options}
        began = time.time()
        try:
            with _shown(progress) as tell:
                network = run(typed_by_name(cls, given), tell)
        except (KeyboardInterrupt, StoppedBySignal) as error:
            if isinstance(error, StoppedBySignal) and error.number != signal.SIGINT:
                raise
            network = _newest(run_folder, began)
            if network is None:
                raise
            logger.warning(f"Warning: interrupted: the model is that of {network.name}")
        if network is None:
            raise UsageError("train: a dry run trains no model")
        model = Model.load(network)
        if kind != FRAMES:
            model.kind = kind
            model.save(network)
        return model


def _require_unchosen(path: Path, choices: TableChoices | RecordChoices, **others: object) -> None:
    """Raises UsageError of what was chosen when a data set was made, if it is not the usual."""
    usual, given = vars(type(choices)()), {**vars(choices), **others}
    for name, value in given.items():
        default = usual.get(name)
        if value != default and (value or default):  # an empty list is no other choice than ()
            raise UsageError(
                f"{name} is chosen when a data set is made, which {path} is already: leave it out, "
                "or open the source of that"
            )


def _require_unresumed(options: Mapping[str, Any]) -> None:
    """Raises UsageError if a training is to go on whose data were in memory, and are gone."""
    if "resume" in options:
        raise UsageError(
            "a training on rows in memory cannot be resumed: train a Table.open of the .npz that "
            f"{script('dataset_tool')} makes of them"
        )


def _newest(folder: Path, since: float) -> Path | None:
    """The last network file of a run that began at this time; None if it wrote none."""
    times = {path: path.stat().st_mtime for path in folder.rglob("network-snapshot-*.pkl")}
    new = [path for path, written in times.items() if written >= since]
    return max(new, key=lambda path: (times[path], path.name), default=None)


@contextmanager
def _shown(progress: Progress | bool) -> Iterator[Progress | None]:
    """Yield the function that is called with the part that is done; None for nothing.

    The clock of the bar starts with the first part: what comes before the first step of a training
    says nothing about how long the steps take.
    """
    if progress is True:
        with tqdm(total=1.0, bar_format=BAR) as bar:

            def show(part: float) -> None:
                if not bar.n and part:
                    bar.reset()
                    bar.n = bar.initial = bar.last_print_n = part
                    bar.refresh()
                bar.update(part - bar.n)

            yield show
    else:
        yield progress or None
