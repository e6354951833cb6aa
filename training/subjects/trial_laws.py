"""The law of trials with holes, of which ``trial_training`` has trained a flow."""

from collections.abc import Callable
from math import log, pi

import torch
from torch import Tensor

from training.flow.calls import ConditionedDenoiser
from training.flow.pfode import ProbabilityFlow
from training.inference.trials import TrialLaw, cell_shifts
from training.networks.mixture import ABSENT, ASKED
from training.networks.trials import TrialNetwork
from training.subjects.trial_training import residuals


class HolesLaw(TrialLaw):
    """The law of the data that are there of a trial, NaN being those that are not.

    Roughly it is that of the mixture which the flow starts from. Values of discrete columns stand
    for their steps, as in ``FlowLaw``.

    Args:
        flow: Of data given parameters and covariates.
        network: Its network.
    """

    def __init__(self, flow: ProbabilityFlow, network: TrialNetwork):
        assert flow.coordinates is not None
        self._flow, self._network = flow, network
        self._cells = cell_shifts(flow.coordinates.steps)
        self.is_rough = network.is_start

    def to(self, device: torch.device) -> "HolesLaw":
        return HolesLaw(self._flow.to(device), self._network)

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        return self._over_cells(trials, covariates, parameters, self._of_flow)

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        return self._over_cells(trials, covariates, parameters, self._of_start)

    def _over_cells(
        self,
        trials: Tensor,
        covariates: Tensor,
        parameters: Tensor,
        log_prob: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        assert self._flow.coordinates is not None
        coordinates = self._flow.coordinates.given(torch.cat([parameters, covariates], dim=1))
        labels, states = coordinates.labels, torch.where(trials.isnan(), ABSENT, ASKED)
        assert labels is not None
        centers, of_cell = coordinates.rounded(trials), []
        for shift in self._cells:
            u, log_slopes = residuals(coordinates, centers + shift)
            of_numbers = log_prob(u, labels, states)
            of_cell.append(of_numbers + log_slopes.masked_fill(states == ABSENT, 0.0).sum(dim=1))
        return torch.stack(of_cell).logsumexp(dim=0) - log(len(of_cell))

    def _of_start(self, u: Tensor, labels: Tensor, states: Tensor) -> Tensor:
        gamma = self._flow.schedule.noise_variance(self._flow.times(1)[0])[:1]
        return self._network.mixture.log_prob(u, states, gamma)

    def _of_flow(self, u: Tensor, labels: Tensor, states: Tensor) -> Tensor:
        given = {"labels": torch.cat([labels, states.to(labels)], dim=1).float()}
        flow = self._flow.with_denoiser(ConditionedDenoiser(self._flow.denoiser, given))
        flow.coordinates = None
        asked = states == ASKED
        times, _ = self._flow.course("densities")
        joint = flow.log_prob(torch.where(asked, u, 0.0))
        # What is absent is a standard normal number at 0, with the noise of the first time.
        variance = 1 + float(self._flow.schedule.noise_variance(times[0])[0])
        return joint + (~asked).sum(dim=1) * log(2 * pi * variance) / 2
