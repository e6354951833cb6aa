"""Predictors of one column of a table, as estimators of scikit-learn.

A network of records is trained for one query: the target given the other columns. Its conditional
distribution gives medians and the most probable categories, their probabilities, and intervals that
are calibrated by split conformal prediction (``subjects.held_cells``).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from dnnlib.errors import DataError, UsageError
from training.data.tables.making import FEWEST_ROWS
from training.data.tables.schema import CATEGORY, NUMBER
from training.data.tables.values import MOST_LEVELS
from training.models.datasets import Table
from training.models.library import library_class
from training.models.queries import Asking, Interval
from training.subjects.records import CellDistribution

TARGET = "target"
FEW_OTHERS = 5
"""Minimum number of rows that differ from the most frequent value of a column; other columns are
ignored.
"""


class _Predictor(BaseEstimator):  # type: ignore[misc]
    """Base class of the regressor and the classifier."""

    _target_type: str

    def __init__(
        self,
        duration: float | None = None,
        minutes: float | None = None,
        held_out: float = 0.1,
        options: Mapping[str, Any] | None = None,
        random_state: int | None = 0,
    ):
        self.duration = duration
        self.minutes = minutes
        self.held_out = held_out
        self.options = options
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags

    def _fit(self, X: Any, target: np.ndarray) -> Self:
        """Train a network on columns ``[N, P]`` and the target ``[N]``."""
        frame = self._frame(X, reset=True)
        if len(frame) != len(target):
            raise ValueError(f"X has {len(frame)} rows, but y has {len(target)}")
        if len(frame) < FEWEST_ROWS:
            raise ValueError(
                f"X has {len(frame)} sample(s): a minimum of {FEWEST_ROWS} is required"
            )
        name = TARGET
        while name in frame.columns:
            name += "_"
        kept = [column for column in frame.columns if _varies(frame[column])]
        whole = frame[kept].assign(**{name: target})
        types = {column: NUMBER for column in kept if _is_number(frame[column])}
        seed = int(check_random_state(self.random_state).randint(2**31))
        given = {"duration": self.duration, "minutes": self.minutes}
        given = {key: value for key, value in given.items() if value is not None}
        held_out = self.held_out if len(frame) >= 2 * FEWEST_ROWS else 0.0
        try:
            types |= {name: self._target_type}
            table = Table.open(whole, types=types, held_out=held_out, seed=seed)
            options = {"ask": (name,), "seed": seed, **given, **(self.options or {})}
            self.answers_ = table.train(**options)
        except (DataError, UsageError) as error:
            raise ValueError(str(error)) from error
        self._target, self._columns = name, kept
        return self

    def _law(self, X: Any, level: float) -> CellDistribution:
        """Return the target's distribution in each row.

        It has ends of intervals, medians, and categories.
        """
        check_is_fitted(self, "answers_")
        frame, flow = self._frame(X, reset=False)[self._columns], self.answers_.flow
        if not self._columns:
            frame = frame.assign(**{self._target: np.nan})
        try:
            records = Asking(flow).rows_of(frame, [self._target])
        except DataError as error:
            raise ValueError(str(error)) from error
        place = flow.empty.names.index(self._target)
        known = ~np.isnan(records.values)
        known[:, place] = False
        return flow.distributions(
            records.values, known, place, Interval(level).levels(flow, known, place)
        )

    def _frame(self, X: Any, reset: bool) -> Any:
        """Return the columns as a data frame of pandas.

        Columns of an array are named by their indices.
        """
        pandas = import_module("pandas")
        if isinstance(X, pandas.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X.reset_index(drop=True).rename(columns=str)
        rows = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan")
        if np.iscomplexobj(rows):
            raise ValueError("Complex data not supported")
        names = [f"x{place + 1}" for place in range(rows.shape[1])]
        return pandas.DataFrame(rows, columns=names).infer_objects()


@library_class
class FlowRegressor(RegressorMixin, _Predictor):  # type: ignore[misc]
    """The distribution of a number given other columns.

    Columns may have missing values and categories: a data frame of pandas, or an array.

    Args:
        duration: Length of the training, in millions of rows; None to choose it by the size of the
            table.
        minutes: Minutes of the training, in place of a duration.
        held_out: Fraction of the rows that calibrates intervals; 0 with fewer than 20 rows.
        options: Further options of ``train.py``, by name.
        random_state: Seed of the training.

    Attributes:
        answers_: The trained ``Answers``, which can be saved.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> model = FlowRegressor().fit(x, x.sum(axis=1))  # doctest: +SKIP
        >>> model.predict(x[:5]).shape, model.predict_interval(x[:5]).shape  # doctest: +SKIP
        ((5,), (5, 2))
    """

    _target_type = NUMBER

    def fit(self, X: Any, y: Any) -> Self:
        """Train on columns ``[N, P]`` and targets ``[N]``.

        Raises:
            ValueError: There are too few rows, or the target is missing somewhere or constant.
        """
        target = _complete(y)
        return self._fit(X, column_or_1d(target, dtype=np.float64))

    def predict(self, X: Any) -> np.ndarray:
        """Return the median ``[N]`` of the target in each row."""
        distribution = self._law(X, 0.9)
        flow = self.answers_.flow
        place = flow.empty.names.index(self._target)
        return flow.space.within_range(place, distribution.quantiles[:, 1])

    def predict_interval(self, X: Any, level: float = 0.9) -> np.ndarray:
        """Return the ends ``[N, 2]`` of calibrated intervals that cover a share of the targets.

        Raises:
            ValueError: The level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level!r}: give a number between 0 and 1")
        return self._law(X, level).quantiles[:, [0, 2]]


@library_class
class FlowClassifier(ClassifierMixin, _Predictor):  # type: ignore[misc]
    """The probabilities of categories given other columns; otherwise as ``FlowRegressor``.

    Args:
        duration: Length of the training, in millions of rows; None to choose it by the size of the
            table.
        minutes: Minutes of the training, in place of a duration.
        held_out: Fraction of the rows that is not trained on.
        options: Further options of ``train.py``, by name.
        random_state: Seed of the training.

    Attributes:
        answers_: The trained ``Answers``, which can be saved.
        classes_: The categories, sorted.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(200, 2))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> model = FlowClassifier().fit(x, y)  # doctest: +SKIP
        >>> model.classes_.tolist(), model.predict_proba(x[:5]).shape  # doctest: +SKIP
        (['no', 'yes'], (5, 2))
    """

    _target_type = CATEGORY

    def fit(self, X: Any, y: Any) -> Self:
        """Train on columns ``[N, P]`` and categories ``[N]``.

        Raises:
            ValueError: There are too few rows, or one category, or too many.
        """
        target = _complete(y)
        check_classification_targets(target)
        encoder = LabelEncoder().fit(target)
        if not 1 < len(encoder.classes_) <= MOST_LEVELS:
            raise ValueError(
                f"y has {len(encoder.classes_)} class(es): a classifier needs 2 to {MOST_LEVELS}"
            )
        codes = np.array([f"class {place}" for place in range(len(encoder.classes_))])
        self._fit(X, codes[encoder.transform(target)].astype(object))
        flow = self.answers_.flow
        levels = flow.empty.columns[flow.empty.names.index(self._target)].levels
        self.classes_ = encoder.classes_
        self._order = [levels.index(code) for code in codes]
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities ``[N, classes]`` of the categories.

        They are in the order of ``classes_``.
        """
        levels = self._law(X, 0.9).levels
        assert levels is not None
        shares = levels.probabilities[:, self._order]
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable category ``[N]`` in each row."""
        check_is_fitted(self, "answers_")
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])


def _complete(y: Any) -> np.ndarray:
    """Return the target ``[N]``.

    Raises:
        ValueError: There are no values, or one is missing or infinite.
    """
    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None")
    target = column_or_1d(y, warn=True)
    missing = import_module("pandas").isna(target).any()
    if missing or (target.dtype.kind == "f" and not np.isfinite(target).all()):
        raise ValueError("Input y contains NaN or infinity: leave such rows out")
    return np.asarray(target)


def _varies(column: Any) -> bool:
    """Return whether enough rows differ from the most frequent value of a column."""
    counts = column.value_counts()
    return bool(counts.sum() - counts.iloc[:1].sum() >= FEW_OTHERS)


def _is_number(column: Any) -> bool:
    """Return whether a column is numeric, with more than two different values."""
    return column.dtype.kind in "iuf" and column.nunique() > 2
