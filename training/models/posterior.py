"""Posteriors of the points of a model, given observations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.warned import collecting
from torch_utils import distributed
from training.flow.likelihood import Trace
from training.inference.amortized import Amortized
from training.measure.posterior.importance import k_threshold, smoothed_weights
from training.models import comparison, conversion, posterior_checking, posterior_sampling
from training.models.conversion import RowModel
from training.models.densities import LatentDensity, PosteriorDensity
from training.models.draws import PosteriorDraws
from training.models.inference import InferenceTask
from training.models.library import library_class
from training.models.results import ModelEvidence
from training.names import LIKELIHOOD, PRIOR, STORED_PRIOR
from training.settings.declared import from_values
from training.settings.inference import LIKELIHOODS
from training.settings.posterior import CheckSettings, CompareSettings, SampleSettings
from training.subjects.parameter_priors import ParameterPrior
from training.trained.network import IN_MEMORY, TrainedNetwork

UNNORMALIZED = {"noise_std", "likelihood"}
"""Options that make the density of a posterior unknown, or known only up to a constant."""
CORRECTION = {"correct"}
"""Options whose posterior has a density, but without gradients."""


@contextmanager
def computing(device_name: str | None, *tasks: InferenceTask) -> Iterator[Any]:
    """Yield tasks on their device, and restore the random state after.

    A model in memory is used where it is. One from a file is moved to the device.

    Args:
        device_name: Name of the device; None for that of a model in memory, else CUDA if available.
        *tasks: Tasks; a single one is yielded by itself.

    Raises:
        UsageError: A model in memory is on another device.
    """
    subject = tasks[0].subject
    in_memory = subject.network is not None and subject.network.path == IN_MEMORY
    own = subject.flow.device
    name = device_name or (str(own) if in_memory else None)
    with conversion.left_alone(), distributed.process_group(name) as device:
        if in_memory and device != own:
            raise UsageError(
                f"device_name is {device_name}, but the model is on {own}: move it with "
                f'model.to("{device_name}")'
            )
        moved = [task.on(device) for task in tasks]
        yield moved if len(tasks) > 1 else moved[0]


@library_class
@dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """Posteriors of the points of a model, given observations.

    Attributes:
        model: The prior; for a conditional model, the posterior itself.
        options: Options of ``posterior.py sample`` that differ from the defaults, by name.
    """

    model: RowModel
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Posterior({', '.join(f'{name}={value}' for name, value in self.options.items())})"

    def sample(self, observed: Any = None, **options: Any) -> "PosteriorDraws":
        """Draw from the posterior of each observation.

        Args:
            observed: One row for each observation: a mapping, a data frame, or an array in the
                order of columns. None for a likelihood of your own, such as
                ``likelihood="mine.py:density"``, which contains its observation.
            options: Options of ``posterior.py sample``, by name, such as ``draws`` or ``seed``.

        Raises:
            UsageError: Options contradict each other, or there is no such option, or an observation
                is missing, or one is given to a likelihood of your own.
            DataError: Observations are broken.
        """
        settings = self._settings(observed, options)
        task = InferenceTask.open(settings)
        with collecting() as warnings, computing(settings.run.device_name, task) as task:
            sampled = posterior_sampling.sample(task, posterior_sampling.Observed.of(task))
        assert sampled is not None
        return PosteriorDraws.from_sampled(sampled, self.model, tuple(warnings))

    def log_prob(self, points: Any, observed: Any = None) -> np.ndarray:
        """Return the log densities ``[N]`` of rows, in nats.

        The densities are those of the distribution that ``sample`` draws from.

        Draws of a conditional model are sharpened and lie within the
        bounds of columns. This density agrees with the draws: it is divided by the probability that
        the flow assigns to the region within the bounds, and is minus infinity beyond them. If
        draws are corrected, it is the posterior density divided by the evidence, which their
        weights give.

        Args:
            points: Rows ``[N, D]``, which may have the observed numbers as further columns.
            observed: One observation for all rows, or one for each.

        For gradients, see ``density``.

        Raises:
            UsageError: The posterior has a likelihood, so that its density is known only up to a
                constant (``latent_density``).
            DataError: Rows or observations are broken.
        """
        model, subject = self.model, self.model.subject
        self._require_density("log_prob", UNNORMALIZED)
        conditions = torch.from_numpy(model.conditions_of(points, observed))
        rows = model.points_of(points).to(subject.flow.device)
        if len(conditions) not in (1, len(rows)):
            raise DataError(
                f"there are {len(conditions)} observations for {len(rows)} rows: give one "
                "observation, or one per row"
            )
        conditions, which = torch.unique(conditions, dim=0, return_inverse=True)
        places, trace = torch.arange(len(conditions)), Trace("exact")
        if self.is_corrected:
            task = InferenceTask.open(self._settings(conditions.numpy(), {}))
            with computing(task.settings.run.device_name, task) as task:
                posterior = task.amortized(task.fine, conditions.to(subject.flow.device))
                density = posterior.log_prob(rows[:, None], which.expand(len(rows)), trace)
            return density.log_prob[:, 0].cpu().numpy()
        posterior = self.amortized(conditions)
        if len(conditions) == 1:
            return posterior.log_prob(rows[None], places, trace).log_prob[0].cpu().numpy()
        mass = posterior.log_mass(places)
        density = posterior.log_prob(rows[:, None], which, trace, mass.at(which))
        return density.log_prob[:, 0].cpu().numpy()

    def density(self, observed: Any) -> PosteriorDensity:
        """Return log densities and draws with gradients, for PyTorch.

        Its methods give the maximum (``map``), and marginal and conditional densities.

        Args:
            observed: One row for each observation; for sets, the trials of one set. Gradients flow
                back to a tensor ``[M, C]``; for sets of n trials, ``[M, n C]``.

        Raises:
            UsageError: The posterior has a likelihood, or is corrected by one.
            DataError: Observations are broken.
        """
        self._require_density("density", UNNORMALIZED | CORRECTION)
        subject = self.model.subject
        if subject.raw is not None:
            observed = subject.raw.rows(observed, "the observation")
        elif not isinstance(observed, Tensor):
            observed = torch.from_numpy(self.model.conditions_of(None, observed))
        conditions = observed.double()
        conditions = conditions if conditions.ndim > 1 else conditions[None]
        trials, rest = divmod(conditions.shape[1], subject.label_dim)
        if conditions.ndim != 2 or rest or not trials or (trials > 1 and not subject.of_sets):
            many = "n " if subject.of_sets else ""
            raise DataError(
                f"observations have shape {list(observed.shape)}: give "
                f"[M, {many}{subject.label_dim}]"
            )
        return PosteriorDensity(self.amortized(conditions), subject.names)

    @property
    def is_corrected(self) -> bool:
        """Whether the draws of a conditional model are weighted by a posterior density."""
        return "correct" in self.options

    def _require_density(self, method: str, excluded: set[str]) -> None:
        """Raise UsageError if an option is excluded, or the model is no conditional one."""
        alone = self.is_corrected or "prior" not in self.options
        if (
            not self.model.conditions
            or LIKELIHOOD in self.model.about
            or not alone
            or self.options.keys() & excluded
        ):
            raise UsageError(
                f"{method} is for posteriors of conditional models without a likelihood; "
                "with a likelihood, latent_density gives the density up to a constant"
            )

    def diagnose(
        self, observed: Any, prior: Any, before: Any = None, **options: Any
    ) -> list[dict[str, Any]]:
        """Say how unusual observations are, and how their posteriors depend on the prior.

        Draws are weighted by the ratio of the densities of the two priors, with Pareto-smoothed
        importance weights (``training.measure.posterior.importance``).

        Args:
            observed: Observations; see ``sample``.
            prior: Another prior of the parameters; see ``ParameterPrior.of``.
            before: Prior of the simulations. None for that of ``Simulations(..., prior=...)``, or
                for the uniform distribution between the bounds of all parameters.
            options: Options of ``posterior.py sample``, by name, such as ``draws`` or ``seed``.

        Returns:
            For each observation ``surprise``, its distance from the simulations in nats (None for
            a prior with a likelihood), ``unlike``, whether fewer than 1 in 1,000 simulations are as
            far; ``pareto_k``, ``effective_size`` and ``reliable`` of the weights; and, by names in
            ``parameters``, ``mean`` and ``std``, ``other_mean`` and ``other_std`` under the other
            prior, and ``shift``, the change of the mean in standard deviations.

        Raises:
            UsageError: A prior has no density or has other parameters, or that of the simulations
                is not known.
            DataError: Observations are broken.
        """
        draws = self.sample(observed, **options)
        own = self._prior_of_simulations(draws.names) if before is None else before
        priors = [ParameterPrior.of(each, draws.names) for each in (prior, own)]
        flat = draws.points.reshape(-1, len(draws.names))
        new, old = (each.log_prob(flat).reshape(draws.points.shape[:2]) for each in priors)
        smoothed = smoothed_weights(torch.from_numpy(np.where(np.isinf(old), -np.inf, new - old)))
        distribution, results = self.model.subject.surprise, []
        for place, points in enumerate(draws.points):
            weights = smoothed.log_weights[place].exp().numpy()
            nats = draws.facts["posteriors"][place].get("surprise")
            moments = points.mean(axis=0), points.std(axis=0)
            mean = weights @ points
            std = np.sqrt(weights @ np.square(points - mean))
            columns = zip(draws.names, *moments, mean, std, strict=True)
            k, size = float(smoothed.k[place]), float(smoothed.effective_size[place])
            results.append(
                {
                    "surprise": nats,
                    "unlike": None if distribution is None else nats > distribution.limit,
                    "pareto_k": k,
                    "effective_size": size,
                    "reliable": size > 0 and k <= k_threshold(len(points)),
                    "parameters": {
                        name: {
                            "mean": float(first),
                            "std": float(width),
                            "other_mean": float(other),
                            "other_std": float(other_width),
                            "shift": float((other - first) / width),
                        }
                        for name, first, width, other, other_width in columns
                    },
                }
            )
        return results

    def _prior_of_simulations(self, names: Sequence[str]) -> ParameterPrior:
        """Return the stored prior of the simulations, or a uniform one between all bounds.

        Raises:
            UsageError: The prior is not stored, and a parameter lacks a bound.
        """
        if PRIOR in self.model.about:
            return ParameterPrior.from_text(self.model.about[PRIOR], "the model")
        coordinates = self.model.subject.flow.coordinates
        ends = [] if coordinates is None else coordinates.ends.tolist()
        if len(ends) != len(names) or not np.isfinite(ends).all():
            raise UsageError(
                "the prior of the simulations is not known: give it as before=, or train "
                "Simulations(..., prior=...)"
            )
        return ParameterPrior.uniform(dict(zip(names, ends, strict=True)))

    def latent_density(self, observed: Any = None, **options: Any) -> LatentDensity:
        """Return the log density of one posterior in the latents of the flow, for other samplers.

        Args:
            observed: One observation, or None; see ``sample``.
            options: Options; see ``sample``.

        Raises:
            UsageError: There are several observations, or there is no likelihood.
            DataError: The observation is broken.
        """
        settings = self._settings(observed, options)
        if settings.learned:
            raise UsageError("latent_density needs a likelihood: give noise_std")
        task = InferenceTask.open(settings)
        likelihood = task.likelihood()
        seen, labels = posterior_sampling.observations(task, likelihood)
        if len(seen) != 1:
            raise UsageError(
                f"there are {len(seen)} observations: latent_density needs exactly one"
            )
        return LatentDensity(task.problem(likelihood, seen, labels).target)

    def amortized(self, conditions: torch.Tensor, draws: int = 1, seed: int = 0) -> Amortized:
        """Return the sampler and density of a conditional model's posteriors, without a likelihood.

        Args:
            conditions: Conditions ``[M, C]``.
            draws: Number of draws per observation.
            seed: Random seed of the draws.
        """
        subject = self.model.subject
        flow = subject.flow
        prior = subject.neural_posterior(self.options.get("n_iters"))
        return Amortized(
            subject.sharpened(prior),
            conditions.to(flow.device),
            subject.amortized_block(flow.device),
            draws=draws,
            seed=seed,
            plausible=True,
        )

    @property
    def _chosen(self) -> dict[str, Any]:
        """Options, with the prior of its simulations for a learned likelihood without another."""
        learned = self.options.get("correct", self.model)
        about = learned.about if isinstance(learned, TrainedNetwork) else {}
        stored = LIKELIHOOD in about and PRIOR in about
        return {**({"prior": STORED_PRIOR} if stored else {}), **self.options}

    def _settings(self, observed: Any, options: Mapping[str, Any]) -> SampleSettings:
        """Return settings with the model and the observations, which are in memory."""
        given, model = {"network": self.model, **self._chosen, **options}, self.model
        own = model.subject.names
        if given.get("likelihood", LIKELIHOODS[0]) not in LIKELIHOODS and not model.conditions:
            if observed is not None:
                raise UsageError(
                    "a user-defined likelihood contains its observation: leave the observation out"
                )
            return from_values(SampleSettings, given)
        if observed is None:
            raise UsageError("no observation is given: give one row per observation")
        raw = model.subject.raw is not None
        observed = model.conditions_of(None, observed) if raw else model.flat(observed)
        names, numbers = conversion.numbers_of(observed, "the observation", conversion.ROW)
        place = "observation"
        if "prior" in given and "correct" not in given:
            if names is None and model.covariates:  # whose positions are unknown
                by_name = ", ".join([*own, *model.covariates])
                raise DataError(f"the observation has no column names: give {by_name} by name")
            names = names or own
        elif model.conditions and "noise_std" not in given:
            place = "condition"
            if model.subject.of_sets:  # rows are trials, perhaps of several observations
                names = names or model.conditions
            else:
                names = model.conditions
                numbers = conversion.columns_of(observed, names, "the observation")
        elif names is not None and "likelihood" not in given and set(names) < {*own}:
            given |= {"likelihood": "mask", "mask": names}
        table = conversion.table_of(f"the {place}", names, numbers)
        return from_values(SampleSettings, {**given, place: table})

    def evidence(self, observed: Any, **options: Any) -> ModelEvidence:
        """Compute the evidence of this likelihood and its prior.

        Args:
            observed: Trials; see ``sample``.
            options: Options of ``posterior.py compare``, by name, besides those of this posterior.
        """
        return self.compare([], observed, **options)

    def compare(
        self, others: Sequence["Posterior"], observed: Any, **options: Any
    ) -> ModelEvidence:
        """Compute evidences and probabilities of several likelihoods.

        This likelihood is the first of them.

        Args:
            others: Posteriors of further likelihoods, each with its prior.
            observed: Trials; see ``sample``.
            options: Options of ``posterior.py compare``, by name, besides those of this posterior.
        """
        several = [self, *others]
        own = {name: value for name, value in self._chosen.items() if name != "prior"}
        given = {
            **own,
            "networks": [each.model for each in several],
            "priors": [each._chosen.get("prior") for each in several],
            "observation": self._settings(observed, {}).observation,
        }
        settings = from_values(CompareSettings, {**given, **options})
        tasks, names = comparison.opened(settings)
        with collecting() as warnings, computing(settings.run.device_name, *tasks) as moved:
            on_device = moved if len(tasks) > 1 else [moved]
            result = comparison.compare(on_device, names, settings)
        return replace(result, warnings=tuple(warnings))

    def check(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """Test whether posteriors are calibrated, like ``posterior.py check``.

        Args:
            data: Rows that the model was not trained on, as ``Table`` or a path, to test the model.
                None uses draws of the flow as true values, to test the sampler.
            options: Options of ``posterior.py check``, by name.

        Returns:
            The ``verdict``, which states how large a detectable error is, ``p_values``, and the
            coverage of ``central_intervals`` and ``regions``.
        """
        given = {"network": self.model, **self._chosen, **options}
        if data is not None:
            given |= {"truth": "data", "data_root": conversion.data_set_of(data)}
        settings = from_values(CheckSettings, given)
        task = posterior_checking.opened(settings)
        cases = posterior_checking.cases_of(task)
        with computing(settings.run.device_name, task) as task:
            report = posterior_checking.check(task, cases)
        report.log()
        return report.facts
