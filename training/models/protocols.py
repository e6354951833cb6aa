"""Protocol of models, for the classes of posteriors and draws that a model returns."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from training.subjects import Subject


class RowModel(Protocol):
    """A model of rows; see ``training.models.model.Model`` for its attributes and methods."""

    about: dict[str, Any]

    @property
    def kind(self) -> str | None:
        """Package of the rows that the model returns; None for pandas."""

    @property
    def subject(self) -> Subject:
        """Flow of the model and the meaning of its points."""

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions."""

    @property
    def covariates(self) -> list[str]:
        """Names of a trial's covariates."""

    def rows_of(self, names: Sequence[str], values: np.ndarray) -> Any:
        """Return numbers as rows of the model's kind."""

    def flat(self, rows: Any) -> Any:
        """Return images as rows."""

    def points_of(self, rows: Any) -> Tensor:
        """Return the points of rows."""

    def conditions_of(self, rows: Any, given: Any) -> np.ndarray:
        """Return conditions."""
