"""A flow as an estimator of scikit-learn: ``fit``, ``score_samples``, ``sample``, ``score``."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from dnnlib.errors import DataError
from training.commands.python import Table
from training.data.tables.making import FEWEST_ROWS


class FlowDensity(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """The density of rows, by the flow of a table.

    Args:
        dims_to_keep: Dimensions that are not compressed; None for all.
        duration: Length of the training, in millions of rows; None for as long as the table needs.
        held_out: Fraction of the rows that decides when the training ends, and between coordinates;
            none where there are fewer than 20.
        options: Others of ``train.py``, by name.
        random_state: Seed of the training, and of draws.

    Attributes:
        model_: The trained ``Model``.

    Example:
        >>> import numpy as np
        >>> rows = np.random.default_rng(0).normal(size=(200, 2))
        >>> density = FlowDensity(duration=0.001, random_state=0).fit(rows)
        >>> density.score_samples(rows).shape, density.sample(5).shape
        ((200,), (5, 2))
    """

    def __init__(
        self,
        dims_to_keep: int | None = None,
        duration: float | None = None,
        held_out: float = 0.1,
        options: Mapping[str, Any] | None = None,
        random_state: int | None = 0,
    ):
        self.dims_to_keep = dims_to_keep
        self.duration = duration
        self.held_out = held_out
        self.options = options
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Trains a flow on rows ``[N, D]``.

        Raises:
            ValueError: They are too few, or no numbers.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=FEWEST_ROWS)
        wanted: dict[str, Any] = {"dims_to_keep": self.dims_to_keep, "duration": self.duration}
        given = {name: value for name, value in wanted.items() if value is not None}
        seed, held_out = self._seed(), self.held_out if len(rows) >= 2 * FEWEST_ROWS else 0.0
        try:
            table = Table.open(rows, held_out=held_out, seed=seed)
            self.model_ = table.train(seed=seed, **given, **(self.options or {}))
        except DataError as error:
            raise ValueError(str(error)) from error
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log densities ``[N]`` of rows, in nats."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        return self.model_.log_prob(rows)

    def score(self, X: Any, y: object = None) -> float:
        """Their mean: what a search over options makes as large as it can."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """New rows ``[n_samples, D]``."""
        check_is_fitted(self)
        return np.asarray(self.model_.sample(n_samples, seed=self._seed()))

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31))
