"""Posteriors to compute: the settings, the prior, and the likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils import distributed
from training.data.tables.formats import TableSource
from training.files.observations import read_mask, read_noise, read_observations, read_operator
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.amortized import Amortized, LogPosterior
from training.inference.likelihoods import Gaussian, Likelihood, UserFunction, UserLikelihood
from training.inference.prior import Prior, integrations_of
from training.inference.region import Region
from training.inference.sampling import Problem, SamplingPlan
from training.inference.target import Target
from training.models.checkpoint import Checkpoint, fingerprint
from training.models.group_sampling import group_size
from training.models.integration_settings import LatentChoice
from training.models.posterior_reports import BOUNDS
from training.names import CHAINS, LEARNED_POOL, UNIFORM, script
from training.settings import inference
from training.settings.posterior import (
    CalibrateSettings,
    CheckSettings,
    CorrectedSettings,
    SampleSettings,
)
from training.subjects import Subject, TableFlow, open_prior
from training.subjects.likelihoods import LearnedLikelihood
from training.trained.network import IN_MEMORY, TrainedNetwork


@dataclass(frozen=True)
class InferenceTask:
    """An inference task: its settings, prior and likelihood.

    Attributes:
        settings: Settings. Networks, observations and arrays in them are files or in memory.
        subject: Flow of the prior, from a network or a toy.
        latent: Base distribution of the latents.
        learned: Learned likelihood; None without one.
        region: Region of parameter space that the posterior was trained in; None for all of it.
    """

    settings: inference.InferenceSettings
    subject: Subject
    latent: LatentChoice
    learned: LearnedLikelihood | None = None
    region: Region | None = None

    @classmethod
    def open(cls, settings: inference.InferenceSettings) -> "InferenceTask":
        """Open the prior and the learned likelihood, if any, and return the task.

        Raises:
            UsageError: Options contradict the prior.
            DataError: The file of the prior is missing or broken.
        """
        learned, subject = _opened(settings)
        latent = LatentChoice(learned=None)
        known = (subject.flow, subject.t_max, subject.dims_to_keep)
        return cls(settings, subject, latent.settled(*known), learned)

    def on(self, device: torch.device) -> "InferenceTask":
        """Return a copy with the flow and its base distribution on the device."""
        flow = self.latent.on(self.subject.flow)
        flow = flow if flow.device == device else flow.to(device)
        return replace(self, subject=replace(self.subject, flow=flow))

    @property
    def within(self) -> str:
        """Description of the bounds outside of which draws are rejected."""
        return BOUNDS if self.region is None else "the region"

    @property
    def rows(self) -> int:
        """Number of points per network evaluation."""
        return self.subject.block

    @property
    def fine(self) -> Prior:
        """Prior with the fine integration, for the final draws."""
        flow, options = self.subject.flow, self.settings.prior
        if self.settings.learned:
            prior = self.subject.neural_posterior(options.n_iters)
        elif options.n_iters is None and "points" in flow.integrations:
            prior = replace(
                self.subject.prior(*flow.integration("points")),
                integrations=integrations_of(flow),
            )
        else:
            times = flow.times(options.n_iters or inference.STEPS)
            prior = self.subject.prior(times, get_solver(inference.SOLVER))
        if self.subject.is_readable:
            return prior
        # Latents of images are only written beside their draws.
        latents = (flow.times(inference.CHAIN_STEPS), get_solver(inference.SOLVER))
        return replace(prior, integrations={**prior.integrations, "latents": latents})

    @property
    def coarse(self) -> Prior:
        """Prior with the coarse integration, for the chains."""
        flow = self.subject.flow
        if "look" in flow.integrations:
            return self.subject.prior(*flow.integration("look"))
        times = flow.times(inference.CHAIN_STEPS)
        return self.subject.prior(times, get_solver(inference.SOLVER))

    @property
    def solvers(self) -> dict[str, dict[str, str | int]]:
        """Solver and number of steps for points, for densities, and for chains if there are any."""
        chains = {} if self.settings.learned else {"chains": self.coarse.solvers["points"]}
        return {**self.fine.solvers, **chains}

    def sharpened(self, prior: Prior) -> Prior:
        """Return the prior as used for draws without a likelihood."""
        settings = self.settings
        assert isinstance(settings, inference.CommonSettings)
        if isinstance(settings, CorrectedSettings) and settings.correct:
            # Weights of a correction are more even if draws are wider than the posterior.
            return prior
        return self.subject.sharpened(prior)

    @property
    def total(self) -> int:
        """Number of draws per observation; with a likelihood, chains divide them equally."""
        settings = self.settings
        assert isinstance(settings, inference.CommonSettings)
        usual = inference.DRAWS
        if (settings.learned or settings.of_trials) and isinstance(settings, CheckSettings):
            usual = inference.CHECK_DRAWS
        weighted = isinstance(settings, CheckSettings) and settings.correct  # some draws repeat
        if settings.learned and (weighted or isinstance(settings, CalibrateSettings)):
            usual = inference.CALIBRATION_DRAWS
        wanted = settings.sampler.draws or usual
        return wanted if settings.learned else CHAINS * ceil(wanted / CHAINS)

    @property
    def plan(self) -> SamplingPlan:
        """Settings of the sampler."""
        settings = self.settings
        assert isinstance(settings, inference.CommonSettings)
        return settings.sampler.into(
            SamplingPlan,
            draws=ceil(self.total / CHAINS),
            pool=self.subject.pool if self.learned is None else LEARNED_POOL,
            typed=settings.given,
            began=settings.began,
        )

    def likelihood(self) -> Likelihood:
        """Build the likelihood.

        Raises:
            UsageError: Options contradict each other or the network.
            DataError: A file is broken.
        """
        options, subject = self.settings.likelihood, self.subject
        if self.learned is not None:
            assert isinstance(self.settings, SampleSettings)
            assert isinstance(subject, TableFlow)
            assert self.settings.observation is not None
            return self.learned.likelihood(
                self.learned.trials(self.settings.observation), subject.names
            )
        if options.noise_std is None:
            return UserLikelihood(options.likelihood)
        noise = read_noise(options.noise_std)
        if options.mask is not None:
            return Gaussian(noise, read_mask(options.mask, subject.names, subject.image_shape))
        if options.operator is None:
            return Gaussian(noise, dim=subject.dim)
        operator = read_operator(options.operator, subject.dim, subject.image_shape)
        return Gaussian(noise, operator=operator)

    def problem(
        self, likelihood: Likelihood, observed: Tensor, labels: Tensor | None = None
    ) -> Problem:
        """Return the inference problem of M observations, on the flow's device.

        Args:
            likelihood: Likelihood of the observations.
            observed: Observations ``[M, K]``.
            labels: Conditions ``[M, L]`` of a conditional network; None for none.
        """
        fine = self.fine
        device = fine.flow.device
        given = None if labels is None else labels.to(device)
        target = Target(fine, likelihood.to(device), observed.to(device), self.rows, given)
        # Errors of a user's likelihood appear here, before anything is sampled.
        mean, _ = fine.moments(target.labels)
        smooth = target.likelihood.is_differentiable(mean[None])
        numbers, digest = list(range(len(observed))), self.subject.digest
        network = self.subject.network
        in_file = network is not None and network.path != IN_MEMORY
        return Problem(target, self.coarse, numbers, smooth, network=digest, in_file=in_file)

    def amortized(self, prior: Prior, conditions: Tensor) -> Amortized:
        """Return an amortized sampler of the posteriors given conditions.

        The flow was trained on these posteriors. Conditions are on the flow's device.

        Raises:
            UsageError: Log densities are needed, but unavailable.
            DataError: The file of a correction is broken.
        """
        plan, sharp = self.plan, self.sharpened(prior)
        rows = self.subject.amortized_block(prior.flow.device)
        shape = (conditions, rows, self.total, plan.seed)
        settings = self.settings
        correct = settings.correct if isinstance(settings, CorrectedSettings) else None
        weights = self._correction(correct, settings.prior.prior) if correct else None
        if not isinstance(settings, SampleSettings):
            trace = Trace("exact") if correct else None
            return Amortized(sharp, *shape, trace, weights, region=self.region)
        wanted = settings.log_prob and self.subject.is_readable
        if correct and not wanted:
            raise UsageError("--correct needs log densities, which are not available for images")
        trace = Trace("exact") if wanted else None
        return Amortized(sharp, *shape, trace, weights, region=self.region, plausible=True)

    def _correction(self, correct: str | TrainedNetwork, prior: Any) -> LogPosterior:
        """Return the log posterior that weights the draws.

        It is that of a learned likelihood and its prior, or a function in a file.
        """
        if prior is None:
            if isinstance(correct, TrainedNetwork):
                raise UsageError("--correct is a learned likelihood, so give its --prior too")
            return UserFunction.load(correct, "correct")
        network, subject = TrainedNetwork.open(correct), self.subject
        learned = LearnedLikelihood.of(network)
        if learned is None:
            raise UsageError(
                f"--correct: {network.name} is not a learned likelihood: leave --prior out"
            )
        assert isinstance(subject, TableFlow)
        distribution = learned.prior(prior)
        conditions = list(subject.condition_names)
        if sorted(distribution.names) != sorted(subject.names):
            raise UsageError(
                f"{network.name} is a likelihood of {', '.join(distribution.names)}, but draws are "
                f"for {', '.join(subject.names)}"
            )
        if sorted(conditions) != sorted(learned.given):
            raise UsageError(
                f"a trial of {network.name} has {', '.join(learned.given)}, but the "
                f"conditions of {subject.network.name} are {', '.join(conditions)}: train it "
                f"on sets of trials ({script('train')} --cond_shape=set:K)"
            )
        places = torch.tensor([conditions.index(name) for name in learned.given])
        return learned.log_posterior(distribution, subject.names, places)

    def observed(self, source: TableSource, likelihood: Likelihood) -> Tensor:
        """Read observations ``[M, K]`` for a likelihood.

        Observed coordinates are found by name. Outputs of a linear map have no names, and are read
        in order.

        Raises:
            UsageError: Rows do not have K values, one per output of a linear map.
            DataError: The file is broken, or has other columns.
        """
        assert isinstance(likelihood, Gaussian)
        if likelihood.operator is None:
            return self.subject.points(source, likelihood.coordinates)
        observed = read_observations(source, likelihood.operator.shape)
        if observed.shape[1] != likelihood.operator.size:
            raise UsageError(
                f"{source} has {observed.shape[1]} values per observation, but "
                f"{likelihood.operator.size} are observed"
            )
        return observed

    def questions(self, source: TableSource, likelihood: Likelihood) -> Tensor | None:
        """Return the conditions that observations determine exactly, such as observed categories.

        See ``Subject.questions``. The result is None for outputs of a linear map.
        """
        assert isinstance(likelihood, Gaussian)
        return None if likelihood.operator is not None else self.subject.questions(source)

    def observed_names(self, likelihood: Gaussian) -> list[str]:
        """Return names of the observed coordinates for messages.

        The list is empty for outputs of a linear map.
        """
        if likelihood.operator is not None:
            return []
        names, places = self.subject.words, likelihood.coordinates
        return names if places is None else [names[place] for place in places.tolist()]

    def checkpoint(
        self,
        count: int,
        seen: Sequence[Tensor | None],
        files: Sequence[object],
        folder: Path | None,
    ) -> Checkpoint:
        """Return the division of posteriors into groups.

        Args:
            count: Number of posteriors.
            seen: Observations, or true values to recover.
            files: Values of options that may be files, on which draws depend.
            folder: Folder that keeps finished groups; None keeps them in memory. A
                single group on a single rank needs no files.
        """
        size = group_size(self.fine, self.plan, self.settings.learned)
        idle = type(self.settings).names_that_are("idle")
        matters = {name: value for name, value in self.recorded.items() if name not in idle}
        identity = fingerprint(matters, self.subject.digest, seen, files)
        alone = count <= size and distributed.world_size() == 1
        return Checkpoint(count, size, identity, None if alone else folder)

    @property
    def recorded(self) -> dict[str, Any]:
        """Settings as they are recorded with results, with the values that were chosen."""
        fine, settings = self.fine, self.settings
        return settings.recorded(
            draws=self.total,
            n_iters=len(fine.times) - 1,
            device_name=str(fine.flow.device),
        )


def _opened(settings: inference.InferenceSettings) -> tuple[LearnedLikelihood | None, Subject]:
    """Open the learned likelihood, if the network is one, and the prior."""
    prior = settings.prior
    network = TrainedNetwork.open(prior.network)
    if isinstance(settings, CorrectedSettings) and settings.correct:
        return None, open_prior(network)
    learned = LearnedLikelihood.of(network)
    if learned is not None and not isinstance(settings, SampleSettings | CheckSettings):
        raise UsageError(f"{network.name} is a learned likelihood: use sample, check or compare")
    if (learned is None) != (prior.prior is None):
        raise UsageError(
            (
                f"--prior needs a learned likelihood, which {network.name} is not: train one "
                f"with {script('train')} --likelihood"
            )
            if learned is None
            else (
                f"{network.name} is a learned likelihood: give its prior, --prior={UNIFORM} "
                "or the network file of a flow"
            )
        )
    if learned is not None:
        assert prior.prior is not None
        return learned, learned.prior(prior.prior)
    return None, open_prior(network)
