"""A training on trials with holes: the law of the data that are there of a trial.

It is one of questions whose known cells are parameters and covariates, and whose asked ones are the
data that are there. In some rows further data are hidden, so that patterns of holes are learned
that are rare in the simulations, or not there at all. Nothing is drawn in place of what is missing:
what is learned is right if whether a number of a simulation is missing depends on its parameters
and covariates, and not on data.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from training.data.tables.table import Columns, DataTable
from training.learning.questions import OneQuestion
from training.recipes import TableRecipe, fitted_to_questions
from training.subjects.record_spaces import Chosen, RecordSpace, choose_space
from training.subjects.record_training import RecordTraining
from training.subjects.table_spaces import about_likelihood
from training.subjects.table_training import LEAST_GAIN

HIDDEN = 0.25
"""Share of rows of which further data are hidden, each number with one probability that is drawn
anew between 0 and 1: few enough that most rows tell all that they have."""
GAMMA0 = 1e-5
"""Variance of the noise of the first time: it is in units of whole columns, and what parameters
leave of a column may be a hundredth of that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialTraining(RecordTraining):
    """A training of the law of what is there of a trial.

    Attributes:
        table: Data of trials as points, with holes, given parameters and covariates; the records
            are its rows.
    """

    table: DataTable

    least_gain = LEAST_GAIN

    @cached_property
    def recipe(self) -> TableRecipe:
        amounts = self.wanted.amounts
        return fitted_to_questions(
            self._rows, {**amounts, "gamma0": amounts.get("gamma0") or GAMMA0}
        )

    def _chosen_space(self) -> Chosen:
        known = self.table.columns_of_conditions
        plain = replace(Columns.plain(known.names), steps=known.steps, offsets=known.offsets)
        columns = Columns.joined(self.table.columns, plain)
        return choose_space(self.records, self.wanted.seed, columns, self._given)

    @property
    def _given(self) -> list[int]:
        """Places of parameters and covariates."""
        return list(range(self.table.dim, self.table.dim + self.table.condition_dim))

    def _log_slopes(self, space: RecordSpace, values: np.ndarray) -> Tensor:
        return space.log_slopes(values)

    @property
    def _ending(self) -> str:
        return "likelihood"

    def _about(self, chosen: Chosen) -> dict[str, object]:
        known = {"condition_names": list(self.table.condition_names)}
        return {**super()._about(chosen), **known, **about_likelihood(self.table)}

    def _one_question(self, chosen: Chosen) -> OneQuestion:
        return OneQuestion(list(range(self.table.dim)), 0.0, HIDDEN)
