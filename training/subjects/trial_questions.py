"""The law of trials with holes: answers of a flow of questions, whose asked cells are the data that
are there, and whose known ones are parameters and covariates; see ``trial_training``.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor

from training.flow.cells import offsets
from training.inference.trials import CELL_POINTS, TrialLaw
from training.model.questions import EncodedRows
from training.networks.questions import ABSENT, ASKED, KNOWN
from training.subjects.records import RecordFlow


class QuestionLaw(TrialLaw):
    """The law of the data that are there of a trial, NaN being those that are not.

    Roughly it is that of the mixture which the flow starts from. Values of discrete columns stand
    for their steps, as in ``FlowLaw``.

    Args:
        flow: Of records: the columns that are asked, and then parameters and covariates.
    """

    def __init__(self, flow: RecordFlow):
        self._flow, self._coordinates = flow, flow.space.coordinates
        steps, size = self._coordinates.steps, len(flow.ask)
        self._steps = torch.where(torch.arange(len(steps), device=steps.device) < size, steps, 0.0)
        cells = offsets((self._steps > 0).cpu()).flatten(0, 1)[:CELL_POINTS].to(steps)
        self._cells = cells * self._steps if self._steps.any() else 0 * steps[None]
        self._middle = self._coordinates.to_data(torch.zeros_like(steps)[None])
        self._slopes = flow.space.log_slopes_at(self._middle)[0]
        self.is_rough = flow.questions.network.is_start

    def to(self, device: torch.device) -> "QuestionLaw":
        self._flow.file.model.flow.to(device)
        self._coordinates.to(device)
        return QuestionLaw(self._flow)

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        questions = self._flow.questions
        return self._over_cells(
            trials, covariates, parameters, lambda rows, states: questions.log_prob(rows, states)[0]
        )

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        log_prob = self._flow.questions.start_log_prob
        return self._over_cells(trials, covariates, parameters, log_prob)

    def _over_cells(
        self,
        trials: Tensor,
        covariates: Tensor,
        parameters: Tensor,
        log_prob: Callable[[EncodedRows, Tensor], Tensor],
    ) -> Tensor:
        size, missing = trials.shape[1], trials.isnan()
        given = torch.cat([parameters, covariates], dim=1)
        states = torch.cat(
            [torch.where(missing, ABSENT, ASKED), torch.full_like(given, KNOWN).long()], dim=1
        )
        middle = self._middle.expand(len(trials), -1)
        whole = torch.cat([torch.where(missing, middle[:, :size], trials), middle[:, size:]], dim=1)
        centers = self._coordinates.rounded(whole)
        # Each column has a map of its own: what is not asked is taken off again.
        rest = self._slopes[size:].sum() + missing.to(trials) @ self._slopes[:size]
        of_cell = []
        for shift in self._cells:
            y = torch.where(states == ASKED, centers + shift, whole)
            log_det = self._coordinates.log_det(y) - rest
            numbers = self._coordinates.to_flow(torch.cat([y[:, :size], given], dim=1))
            of_cell.append(log_prob(EncodedRows(numbers, states[:, :0]), states) + log_det)
        return torch.stack(of_cell).logsumexp(dim=0) - log(len(of_cell))
