"""Training from Python: data in memory or in files, and models that the scripts train on them.

    >>> from training import Table, Toy
    >>> model = Table.open("houses.csv").train(seed=0)       # doctest: +SKIP
    >>> model = Toy("circles").train(dims_to_keep=1)         # doctest: +SKIP

Options have the same names and meanings as on the command line, and give identical files.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from dnnlib.errors import DataError, UsageError
from dnnlib.files import plain_name
from dnnlib.logs import logger
from dnnlib.warned import warn
from training.data import toys
from training.data.images.dataset import ImageDataset
from training.data.images.stacks import ImageStack
from training.data.tables.formats import (
    ForeignTable,
    NotNumbers,
    TableChoices,
    listed,
    numbered,
    open_table,
    row_blocks,
    with_columns,
)
from training.data.tables.making import looks_uniform
from training.data.tables.raw_shape import RawShape
from training.data.tables.raw_tables import Cells, open_cells
from training.data.tables.reading import RecordChoices
from training.data.tables.repeated_trials import DATASET
from training.data.tables.schema import Column
from training.data.tables.table import DataTable
from training.data.tables.values import frame_of
from training.files.records import load_data_set, save_records
from training.files.table import save_table
from training.learning.run import Progress, StoppedBySignal
from training.models import training
from training.models.answers import Answers
from training.models.conversion import (
    COLUMN,
    FRAMES,
    kind_of,
    left_alone,
    names_in,
    numbers_of,
    ranges_of,
    rows_as,
)
from training.models.library import library_class
from training.models.model import Model, weighted_if_better
from training.models.posterior import Posterior
from training.models.table_reading import read_table
from training.names import DATA_AS, LIKELIHOOD, UNIFORM, script
from training.settings.declared import from_values, meant
from training.settings.train import CONDITIONAL, TrainSettings
from training.settings.training import ToyTrainSettings
from training.subjects import RecordFlow, Training
from training.subjects.parameter_priors import ParameterPrior

OWN = ("data", "data_name", "augment_to", "outdir", "nosubdir")
"""Options that ``train`` does not take from Python."""
IN_MEMORY = Path("images.npz")
"""Name of images in memory."""
RAW = "raw data"
"""Name of a temporary column that stands for raw data."""
SNAP = 10
"""Number of reports between network files, which remain after Ctrl-C."""
BAR = "{percentage:3.0f}% |{bar}| {elapsed} < {remaining}"


@library_class
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
        """Train a model, like ``toy_train.py`` with the same options; see ``Table.train``."""
        own = {"data_name": self.name, "augment_to": self.augment_to}
        start = training.training_on_toy
        return _trained(ToyTrainSettings, start, own, outdir, progress, options)


@library_class
@dataclass(frozen=True, eq=False)
class Table:
    """A table to train on: numbers, categories and dates, possibly with missing cells.

    If all cells are numbers, ``train`` trains a flow of the rows, or of some columns given others
    as conditions. Otherwise, or on request, it trains a network for conditional queries: the
    distribution of any columns given any others.

    Attributes:
        rows: Cleaned rows, some of them held out: numbers, or typed records.
        name: Name of the results.
        lines: Findings and actions of the import, in words.
        path: Data set that the table was read from; None if it is only in memory.
        kind: Package of data frames or arrays in whose kind models of the table return rows.
        why: Reason why the rows are typed records; empty for numbers.

    Example:
        >>> import numpy as np, pandas
        >>> rows = np.random.default_rng(0).normal(size=(50, 2))
        >>> Table.open(rows, columns=["size", "price"])
        Table('table', 50 rows of size, price)
        >>> frame = pandas.DataFrame({"rooms": [1, 2, 3, 4] * 5, "garden": ["yes", "no"] * 10})
        >>> Table.open(frame, name="houses")
        Table('houses', 20 rows of rooms, garden)
    """

    rows: DataTable
    name: str
    lines: Sequence[str] = ()
    path: Path | None = None
    kind: str = FRAMES
    why: str = ""

    @classmethod
    def open(
        cls,
        source: object,
        columns: Sequence[str] | None = None,
        conditions: Sequence[str] = (),
        covariates: Sequence[str] = (),
        dataset: str | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        missing: str | None = None,
        held_out: float = 0.1,
        seed: int = 0,
        name: str = "table",
        exclude: Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        missing_values: Sequence[str] = (),
        is_missing: Sequence[str] = (),
    ) -> "Table":
        """Open a file, an array or a data frame as a table.

        Args:
            source: A CSV or another file that ``dataset_tool.py`` accepts, or the ``.npz`` that it
                made; an array ``[N, D]``; or a data frame, such as of pandas or polars.
            columns: Names of the columns to use, for a file or a frame, None for all; for an array,
                names to assign.
            conditions: Names of those columns that are conditions.
            covariates: Names of covariates: columns that are known for each row, but are not data.
            dataset: Column that identifies rows that are trials of one dataset.
            bounds: Lowest and highest value by column, infinite where there is none.
            missing: ``keep`` missing cells, ``refuse`` them, ``drop`` their rows, or impute the
                ``mean``; None for ``keep``, and for ``refuse`` with ``dataset``.
            held_out: Fraction of the rows that is not trained on.
            seed: Random seed of the choice of held-out rows.
            name: Name of results for data that are not in a file.
            exclude: Columns to leave out.
            types: Types by column, as in ``--types``: ``{"zip": "category"}``.
            missing_values: Texts that mark missing values, besides the usual ones.
            is_missing: Columns that get an indicator column of their missing cells.

        Raises:
            DataError: The source is missing or broken, or has too few rows.
            UsageError: A named column or type does not exist, files cannot have the name, options
                of tables of numbers are given for a table with other cells, or options are given
                that do not apply to an existing ``.npz``.
        """
        columns = None if columns is None else names_in(columns)
        exclude, is_missing = names_in(exclude), names_in(is_missing)
        given: dict[str, Any] = {
            "conditions": names_in(conditions),
            "covariates": names_in(covariates),
            "dataset": dataset,
            "bounds": ranges_of(bounds),
        }
        choices = RecordChoices(
            **given,
            missing=missing or ("keep" if dataset is None else "refuse"),
            held_out=held_out,
            seed=seed,
            types=types or {},
            missing_values=missing_values,
            is_missing=is_missing,
        )
        in_file, path = isinstance(source, str | Path), Path(str(source))
        saved = load_data_set(path) if in_file else None
        if saved is not None:
            others = {"missing": missing, "columns": columns, "exclude": exclude}
            _require_unchosen(path, {**vars(choices), **others})
            why = f"so they are in {path.name}" if saved.typed else ""
            return cls(saved, path.stem, path=path, why=why)
        name = path.stem if in_file else plain_name(name, "name")

        def numbers() -> tuple[ForeignTable, TableChoices]:
            if in_file:
                return open_table(str(source), columns, seed, exclude=exclude), choices
            return _in_memory(source, columns, name, exclude), choices

        def cells() -> Cells:
            if in_file or hasattr(source, "columns"):
                return open_cells(source).only(columns, exclude)
            return open_cells(_in_memory(source, columns, name, exclude))

        only_numbers = [option for option, value in given.items() if value]
        rows, lines, why = read_table(numbers, cells, choices, only_numbers)
        kind = FRAMES if in_file else kind_of(source)
        return cls(rows, name, lines, kind=kind, why=why)

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a model."""
        return self.rows.names

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions, for a table of numbers."""
        return self.rows.condition_names

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        columns, given = ", ".join(self.columns), ", ".join(self.conditions)
        given = given if self.rows.raw is None else str(self.rows.raw)
        what = f"{columns} given {given}" if given else columns
        return f"{type(self).__name__}('{self.name}', {len(self)} rows of {what})"

    def save(self, path: str | Path) -> None:
        """Write a data set for ``train.py`` atomically."""
        (save_records if self.rows.typed else save_table)(Path(path), self.rows)

    def train(
        self,
        outdir: str | Path | None = None,
        progress: Progress | bool = False,
        *,
        embedding: nn.Module | None = None,
        **options: Any,
    ) -> Any:
        """Train a model, like ``train.py``.

        A table of numbers gets a flow of its rows, a ``Model``. With conditions, the model is the
        distribution of the other columns given the conditions, unless ``cond`` is False or
        ``likelihood`` is True. Other tables get a network for conditional queries, which is
        returned as ``Answers``; so do tables of numbers with ``any=True``, or with targets such as
        ``ask=("price",)``, which limit training to queries for these.

        Args:
            outdir: Output directory, in which files of the run are kept; None keeps none.
            progress: Function that is called with the fraction of the training that is done, from 0
                to 1; True shows a bar, in a terminal or a notebook.
            embedding: Network of your own for simulations with ``data_as="arrays"``. It maps data
                ``[N, ...]``, as they are but in single precision, to features ``[N, K]`` of order
                1. A copy is trained further, together with the flow.
            options: Options of ``train.py``, by name, such as ``dims_to_keep`` or ``seed``.

        Raises:
            UsageError: An option does not exist, or its value is invalid.
        """
        data = self.path or self.rows
        if self.path is None:
            _require_unresumed(options)
        queries = self.rows.typed or options.get("any") or options.get("ask")
        if queries:
            reason = self.why or "the options ask for it"
            logger.info(f"Training a network for conditional queries ({reason})")
        else:
            given = " given their conditions" if self.conditions else ""
            logger.info(f"Training a flow of the rows{given}, since all cells are numbers")
            options = {"cond": bool(self.conditions) and not options.get("likelihood"), **options}

        def start(settings: Any) -> Training:
            return training.training_of(settings, data, self.name, embedding)

        kind = FRAMES if queries else self.kind
        own = {"data": data}
        model = _trained(TrainSettings, start, own, outdir, progress, options, kind, embedding)
        return Answers(RecordFlow.of(model)) if queries else model

    def to_pandas(self, values: np.ndarray | None = None) -> Any:
        """Return a data frame of the rows, or of new rows ``[n, D]`` of their columns."""
        if self.rows.typed:
            return frame_of(self.rows, values)
        points = self.rows.values if values is None else values
        return rows_as(FRAMES, self.columns, points)


@library_class
@dataclass(frozen=True, eq=False, init=False, repr=False)
class Simulations(Table):
    """Simulations: rows of parameters, each with its simulated data.

    A model trained on simulations is the posterior of parameters given data.

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
        prior: Any = None,
        data_as: str | None = None,
        **choices: Any,
    ):
        """Take both as data frames, arrays or tensors, ``[N, D]`` and ``[N, C]``.

        Data can also be raw: ``series`` of T points, ``[N, T]`` or ``[N, T, channels]``;
        ``images``, ``[N, H, W]`` or ``[N, H, W, channels]``; or ``sets`` of draws in any order,
        ``[N, M]`` or ``[N, M, numbers]``. Series and sets of different lengths are lists of arrays,
        or padded with NaN. A network embeds them, which is trained together with the flow. For any
        other ``arrays``, give it yourself: ``train(embedding=network)``.

        Args:
            parameters: Parameters; columns without a name are called theta1, theta2, and so on.
            data: Simulated data; columns without a name are called y1, y2, and so on.
            bounds: Lowest and highest value of parameters, by name.
            dataset: Numbers ``[N]`` that identify rows that are trials with the same parameters;
                None if there are none. Then ``train(likelihood=True)`` trains the likelihood of one
                trial, and ``train(cond_shape="set:K")`` the posterior given all trials, with K
                columns each.
            covariates: Columns of the data that are known for each trial, such as a time.
            name: Name of the results.
            prior: Prior from which the parameters were drawn: a distribution, a dictionary of one
                per name, or a model, see ``ParameterPrior.of``. Its support gives the bounds, and
                a learned likelihood has it as its prior. None if it is not stated.
            data_as: ``series``, ``images``, ``sets`` or ``arrays``; None for numbers.
            choices: Options of ``Table.open``, by name: ``held_out``, ``seed``, ``missing``.

        Raises:
            DataError: Values are not numbers, the numbers of rows differ, or there are too few
                rows.
            UsageError: A bound is of no parameter, or the prior has other parameters or comes with
                bounds.
        """
        own, rows = numbers_of(parameters, "parameters", COLUMN)
        raw, conditions = None, None
        if data_as is not None:
            if dataset is not None or covariates:
                raise UsageError("raw data have no trials: leave dataset and covariates out")
            raw, values = RawShape.of(data, data_as)
            # The row number stands for the data, NaN if the simulation has failed.
            failed = values.isnan().all(dim=1)
            given = torch.arange(len(values)).double().masked_fill(failed, np.nan)[:, None].numpy()
            conditions = [RAW]
        else:
            _require_vectors(data)
            conditions, given = numbers_of(data, "data", COLUMN)
        stated = None if prior is None else ParameterPrior.of(prior, own)
        if stated is not None:
            own = list(stated.names)
            if len(own) != rows.shape[1]:
                raise UsageError(
                    f"the prior has {len(own)} parameter(s) ({listed(own)}), but the simulations "
                    f"have {rows.shape[1]}: give a distribution of each"
                )
            if bounds is not None:
                raise UsageError("bounds follow from the support of the prior: leave bounds out")
            bounds = stated.bounds
        own = own or numbered(rows.shape[1], "theta")
        conditions = conditions or numbered(given.shape[1], "y")
        ids = None if dataset is None else numbers_of(dataset, "dataset", COLUMN)[1]
        counts = {len(rows), len(given), len(rows if ids is None else ids)}
        if len(counts) > 1:
            raise DataError(
                "parameters, data and dataset have "
                f"{' and '.join(map(str, sorted(counts)))} rows: the numbers of rows must be equal"
            )
        twice = sorted({*own} & {*conditions})
        if twice:
            raise DataError(
                f"'{twice[0]}' is the name of a parameter and of a data column: rename one"
            )
        covariates = names_in(covariates)
        unknown = sorted({*covariates} - {*conditions})
        if unknown:
            raise UsageError(f"covariate '{unknown[0]}' is not a column of the data")
        beside = {} if ids is None else {DATASET: ids}
        table = Table.open(
            np.concatenate([rows, given, *beside.values()], axis=1),
            columns=[*own, *conditions, *beside],
            conditions=[column for column in conditions if column not in covariates],
            covariates=covariates,
            dataset=next(iter(beside), None),
            bounds=bounds,
            name=name,
            **{"missing": "refuse", **choices},
        )
        _hint_at_bounds(own, rows, bounds or {})
        # Data without names are returned in their original order.
        kept, lines = table.rows.in_order(conditions), table.lines
        if raw is not None and kept.conditions is not None:
            values = values[kept.conditions[:, 0].astype(int)]
            columns = [*map(Column, numbered(raw.size, "y"))]
            raw = raw.as_in(values, "the data")
            kept = replace(kept, conditions=values.numpy(), condition_columns=columns, raw=raw)
            lines = [line for line in lines if "looks like an identifier" not in line]
        kept = kept if stated is None else replace(kept, prior=stated.text)
        super().__init__(kept, name, lines, kind=kind_of(parameters))

    def posterior(
        self,
        fast: bool = False,
        outdir: str | Path | None = None,
        progress: Progress | bool = False,
        **options: Any,
    ) -> Posterior:
        """Train the posterior and the likelihood, and return the posterior that uses both.

        A flow of parameters given data proposes draws, and a likelihood that is learned from the
        same simulations weights them. It needs the prior: that of ``Simulations(..., prior=...)``,
        or the uniform one between the bounds of parameters that look uniform. The weights are used
        if they increase the mean log density of held-out simulations.

        Draws then report for each observation how far the correction moved the mean of each
        parameter, in standard deviations (``shift``).

        Args:
            fast: Whether to leave the likelihood out.
            outdir: Folder for the runs, in ``posterior`` and ``likelihood``; None writes nothing.
            progress: See ``Table.train``.
            options: Options of ``train.py``, by name, for both networks; those on conditions are
                for the posterior.

        Raises:
            UsageError: The simulations are trials of datasets, or have covariates.
        """
        if self.rows.datasets is not None or self.rows.covariates:
            raise UsageError(
                "posterior() is for one observation per simulation: for trials, use "
                "train(likelihood=True) or train(cond_shape='set:K')"
            )

        def folder(name: str) -> Path | None:
            return None if outdir is None else Path(outdir) / name

        model = self.train(folder("posterior"), progress, **options)
        plain = model.posterior()
        reason = self._reason_for_no_weights()
        if fast or reason:
            if not fast:
                logger.info(f"Draws are not weighted by a likelihood: {reason}")
            return plain
        beside = {name: value for name, value in options.items() if name not in CONDITIONAL}
        try:
            likelihood = self.train(folder(LIKELIHOOD), progress, likelihood=True, **beside)
        except DataError as error:
            logger.info(f"Draws are not weighted by a likelihood: its training failed: {error}")
            return plain
        prior = {} if self.rows.prior else {"prior": UNIFORM}
        return weighted_if_better(model, likelihood, prior, self.rows.held_out_rows)

    def _reason_for_no_weights(self) -> str | None:
        """Return why draws cannot be weighted by a likelihood; None if they can."""
        if self.rows.raw is not None:
            return f"likelihoods of {self.rows.raw.kind} are not learned"
        ends = torch.stack([self.rows.low, self.rows.high])
        uniform = bool(ends.isfinite().all()) and all(
            map(looks_uniform, self.rows.points.T.numpy())
        )
        if not (self.rows.prior or uniform):
            return (
                "the prior is unknown, so give Simulations(..., prior=...), or bounds if it is "
                "uniform"
            )
        if not len(self.rows.held_out_rows):
            return "no simulation is held out to decide on it"
        return None


@library_class
class Images:
    """Images to train on: in memory, or a data set that ``dataset_tool.py`` made.

    Results of the model, noise and errors are in the units of the images.

    Example:
        >>> Images(np.zeros((10, 8, 12, 2)), value_range=(-1, 1)).shape
        (2, 8, 12)

    Args:
        images: Array or tensor ``[N, H, W]`` or ``[N, H, W, C]`` of 8-bit or 16-bit integers or
            floats, with up to 16 channels; or the path of a data set.
        value_range: Lower and upper end of the values; None for all values of the integers.
        labels: Classes ``[N]``, for ``cond=True``; None for none.

    Attributes:
        path: Path of the images; None for images in memory.
        shape: ``(C, H, W)``.
        count: Number of images.

    Raises:
        DataError: The array is no stack of images, or does not fit its range, or the data set is
            missing or broken.
        UsageError: A range or labels are given for a data set, which has its own.
    """

    def __init__(
        self,
        images: Any,
        value_range: tuple[float, float] | None = None,
        labels: Any = None,
    ):
        self.path = Path(images) if isinstance(images, str | Path) else None
        if self.path and not (value_range is None and labels is None):
            raise UsageError(f"{images} has a range and labels of its own: leave them out")
        self._stack = None if self.path else ImageStack.of_array(images, value_range, labels)
        dataset = ImageDataset(self.path or IN_MEMORY, stack=self._stack)
        self.shape: tuple[int, ...] = tuple(dataset.image_shape)
        self.count = len(dataset)

    @classmethod
    def open(cls, path: object) -> "Images":
        """Open a data set of images: a zip, a folder or an ``.npz``.

        Raises:
            DataError: The images are missing or broken.
        """
        if not isinstance(path, str | Path):
            what = type(path).__name__
            raise DataError(
                f"images are {what}: give a zip or folder made with {script('dataset_tool')}, or "
                "Images(array)"
            )
        return cls(path)

    def train(
        self, outdir: str | Path | None = None, progress: Progress | bool = False, **options: Any
    ) -> Model:
        """Train a model, like ``train.py``; see ``Table.train``."""
        if self.path is None:
            _require_unresumed(options)

        def start(settings: Any) -> Training:
            return training.training_on_images(settings, self.path or IN_MEMORY, self._stack)

        own = {"data": self.path or self._stack}
        return _trained(TrainSettings, start, own, outdir, progress, options)


def _require_vectors(data: Any) -> None:
    """Raise DataError if data are raw: arrays of several axes, or of different lengths."""
    listed = isinstance(data, list | tuple)
    sizes = {np.shape(part) for part in data} if listed else {np.shape(data)[1:]}
    if max(map(len, sizes), default=0) > 1 or len(sizes) > 1:
        kinds = " or ".join(map(repr, DATA_AS))
        raise DataError(f"data are no rows of numbers: give data_as={kinds}")


def _hint_at_bounds(names: Sequence[str], rows: np.ndarray, bounds: Mapping[str, Any]) -> None:
    """Warn once of parameters ``[N, D]`` that look uniform and have no bounds."""
    uniform = {
        name: (float(np.nanmin(values)), float(np.nanmax(values)))
        for name, values in zip(names, rows.T, strict=True)
        if name not in bounds and looks_uniform(values)
    }
    if uniform:
        ends = [f"{name} on [{low:.4g}, {high:.4g}]" for name, (low, high) in uniform.items()]
        warn(
            "uniform-parameters",
            f"parameters look uniform: {', '.join(ends)}. If the prior is "
            f"uniform, give its bounds, for example bounds={{'{next(iter(uniform))}': "
            "(low, high)}: otherwise posteriors extend beyond them",
        )


def _in_memory(
    source: Any, columns: Sequence[str] | None, name: str, exclude: Sequence[str]
) -> ForeignTable:
    """Return the rows of an array or a data frame.

    Raises:
        NotNumbers: A column of a data frame has other values than numbers.
        DataError: The source has no rows, or an array has other values than numbers.
    """
    try:
        own, values = numbers_of(source, name)
    except NotNumbers as error:
        for column in getattr(source, "columns", ()):
            try:
                numbers_of(source[[column]], name)
            except NotNumbers:
                what = f"column '{column}' has other values than numbers: leave it out"
                raise NotNumbers(f"{name}: {what}") from error
        raise
    wanted = None if own is None else columns
    names = own or (numbered(values.shape[1]) if columns is None else list(columns))
    if len(names) != values.shape[1]:
        raise UsageError(
            f"columns has {len(names)} names, but {name} has {values.shape[1]} columns"
        )
    rows = ForeignTable(name, names, partial(row_blocks, values))
    return with_columns(rows, wanted, exclude)


def _trained(
    cls: type[TrainSettings] | type[ToyTrainSettings],
    start: Callable[[Any], Training],
    own: Mapping[str, Any],
    outdir: str | Path | None,
    progress: Progress | bool,
    options: Mapping[str, Any],
    kind: str = FRAMES,
    embedding: nn.Module | None = None,
) -> Model:
    """Train a model. Without an output directory, nothing is written.

    Args:
        cls: Class of the settings.
        start: Function that returns the training for settings.
        own: Options that the data decide.
        outdir: See ``Table.train``.
        progress: See ``Table.train``.
        options: See ``Table.train``.
        kind: Package in whose kind the model returns rows; its network file stores it.
        embedding: See ``Table.train``.
    """
    known = cls().recorded().keys() - set(OWN)
    for name in options:
        if name not in known:
            raise UsageError(f"train has no option '{name}'{meant(name, known)}")
    given: dict[str, Any] = {**own, **options}  # a resumed run has its own options for the rest
    if "resume" not in options:
        given = given if outdir is None else {"snap": SNAP, **given, "outdir": outdir}
    settings, resume = from_values(cls, given), None
    if "resume" in options or outdir is not None:
        settings, resume = training.settled(settings, next(iter(own)))
    began = time.time()
    with left_alone(), _shown(progress) as tell:
        try:
            trained = training.train(settings, start(settings), resume, tell)
            path, made = trained.path, trained.model
        except (KeyboardInterrupt, StoppedBySignal) as error:
            if isinstance(error, StoppedBySignal) and error.number != signal.SIGINT:
                raise
            folder = options.get("resume") or outdir
            path, made = None if folder is None else _newest(Path(folder), began), None
            if path is None:
                raise
            warn("interrupted", f"interrupted: the model is from {path.name}")
        if made is not None:
            model = Model.from_trained(made)
        elif path is not None:
            model = Model.load(path, embedding=embedding)
        else:
            raise UsageError("train: a dry run does not train a model")
    if kind != FRAMES:
        model.kind = kind
        if path is not None:
            model.save(path)
    return model


def _require_unchosen(path: Path, given: Mapping[str, Any]) -> None:
    """Check that no options of a data set's creation are given for an existing one.

    Args:
        path: Data set.
        given: Values of options by name.

    Raises:
        UsageError: An option differs from its default.
    """
    usual = {**vars(RecordChoices()), "missing": None}
    for name, value in given.items():
        default = usual.get(name)
        if value != default and (value or default):  # an empty list is equivalent to ()
            raise UsageError(
                f"{name} is an option for making data sets, but {path} is one already: "
                "leave it out, or open the original file"
            )


def _require_unresumed(options: Mapping[str, Any]) -> None:
    """Check that a training to be resumed does not need data in memory.

    Raises:
        UsageError: The data were in memory, and are gone.
    """
    if "resume" in options:
        raise UsageError(
            "a training on data in memory cannot be resumed: use Table.open or Images.open with "
            f"the .npz that {script('dataset_tool')} makes of them"
        )


def _newest(folder: Path, since: float) -> Path | None:
    """Return the last network file of a run that began at a time; None if it wrote none."""
    times = {path: path.stat().st_mtime for path in folder.rglob("network-snapshot-*.pkl")}
    new = [path for path, written in times.items() if written >= since]
    return max(new, key=lambda path: (times[path], path.name), default=None)


@contextmanager
def _shown(progress: Progress | bool) -> Iterator[Progress | None]:
    """Yield the function that is called with the fraction that is done; None for no progress.

    The clock of the bar starts with the first call, since the time before the first step of a
    training does not predict the duration of steps.
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
