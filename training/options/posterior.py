"""Settings of ``posterior.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from training import flow, inference
from training import runs as _runs
from training.names import FEWEST_NEIGHBORS, FEWEST_RUNS, MOST_DEBLURRED, NEIGHBORS
from training.options.common import RunOptions, save_dir
from training.options.declared import Declared, option, options_of
from training.options.inference import (
    CHECK_DRAWS,
    DRAWS,
    LIKELIHOODS,
    LikelihoodOptions,
    PriorOptions,
    SamplerOptions,
)
from training.options.schedules import InflationOptions
from training.options.types import FILE, choice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Declared):
    """Options of all commands: where results go, the prior and the likelihood."""

    save_dir: Path = save_dir()
    prior: PriorOptions = options_of(PriorOptions)
    inflation: InflationOptions = options_of(InflationOptions, unset="{}; only with --data_name")
    likelihood: LikelihoodOptions = options_of(LikelihoodOptions)
    run: RunOptions = options_of(RunOptions)

    @property
    def learned(self) -> bool:
        """Whether the flow has learned the posterior itself, so that there is no likelihood."""
        return False

    def __post_init__(self) -> None:
        if not self.learned:
            self.likelihood.require()

    def opened(self) -> tuple[_runs.PosteriorSubject, _runs.LatentChoice]:
        """The prior's network or toy, and its law of latents.

        Raises:
            UsageError: Options contradict it.
            DataError: The network file is missing or broken.
        """
        subject = self.prior.subject(self.inflation)
        known = (subject.flow, subject.t_max, subject.dims_to_keep)
        return subject, self.prior.latent().settled(*known)


@dataclass(frozen=True, kw_only=True)
class CommonSettings(InferenceSettings):
    """Options of the commands that sample posteriors of points."""

    sampler: SamplerOptions = options_of(SamplerOptions)
    sharpen: bool = option(
        "--sharpen/--no-sharpen",
        default=True,
        help="Without a likelihood: take the noise of the first time off draws, to first order in "
        "its variance, by one more step of the ODE; of tables of up to 16 columns, without "
        "--deblur or --correct.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior.deblur and self.sampler.sampler == "hmc":
            raise UsageError("--deblur has no gradients: take another --sampler than hmc")
        if "sharpen" in self.given and not self.learned:
            raise UsageError("--sharpen is for draws without a likelihood: leave it out")

    def sharpened(self, subject: _runs.PosteriorSubject, prior: inference.Prior) -> inference.Prior:
        """The prior as draws without a likelihood have it."""
        small = subject.dim <= MOST_DEBLURRED
        wanted = self.sharpen and small and not (prior.deblurred or subject.images)
        return replace(prior, sharpened=wanted)

    def fine(self, subject: _runs.PosteriorSubject) -> inference.Prior:
        """The prior of final draws."""
        return self.prior.fine(subject, self.learned)

    def plan(self, subject: _runs.PosteriorSubject) -> inference.SamplingPlan:
        """How to sample."""
        return self.sampler.plan(subject)

    def require_alone(self) -> None:
        """Raises UsageError if an option was typed that is for a likelihood."""
        of_samplers = {"sampler", "warmup", "thin", "pool", "particles", "chain_n_iters"}
        for name in sorted(self.given & of_samplers):
            raise UsageError(f"--{name} is for a likelihood, and there is none: leave it out")

    def problem(
        self,
        subject: _runs.PosteriorSubject,
        likelihood: inference.Likelihood,
        observed: Tensor,
        labels: Tensor | None = None,
    ) -> inference.Problem:
        """The posteriors, on the flow's device.

        Args:
            subject: The prior.
            likelihood: Of what was observed.
            observed: What was, ``[M, K]``.
            labels: What a conditional network is given with each, ``[M, L]``.
        """
        fine, coarse = self.prior.fine(subject), self.prior.coarse(subject)
        device = fine.flow.device
        target = inference.Target(
            fine,
            likelihood.to(device),
            observed.to(device),
            self.prior.rows(subject),
            None if labels is None else labels.to(device),
        )
        # What a user's likelihood raises is shown here, before anything is sampled.
        mean, _ = fine.moments(target.labels)
        smooth = target.likelihood.is_differentiable(mean[None]) and not fine.deblurred
        return inference.Problem(target, coarse, list(range(len(observed))), smooth)


@dataclass(frozen=True, kw_only=True)
class SampleSettings(CommonSettings):
    """Options of ``sample``."""

    observation: Path | None = option(
        type=FILE,
        unset="none",
        help="Observations, one in each row of a table (CSV, TSV, npy, npz, Parquet), or images in "
        "a zip or folder; a likelihood of your own needs none",
    )
    condition: Path | None = option(
        type=FILE,
        unset="none",
        help="What a conditional network is given, one observation in each row of a table: its "
        "conditions by name, or its class. Alone, without --observation, it is all that was "
        "observed, and the flow's own draws are the posterior's",
    )
    log_prob: bool = option(
        "--log_prob/--no-log_prob",
        default=True,
        help="With --condition alone: the log density of each draw too, by exact traces; not of "
        "images, and not with --deblur.",
    )
    correct: str | None = option(
        unset="none",
        help="With --condition alone: weight draws by the posterior itself, FILE.py:function, log "
        "densities up to a constant [N] of points [N, D] given conditions [N, C]",
    )
    truth: Path | None = option(
        type=FILE,
        unset="none",
        help="What observations are of, where it is known: a point in each row of a table, or "
        "images. Pictures show it, and results say how often intervals hold it",
    )
    strict: bool = option(is_flag=True, help="Exit with code 3 if a posterior has not converged.")

    @property
    def learned(self) -> bool:
        alone = self.condition is not None and self.observation is None
        return alone and not self.likelihood.said

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.observation, self.condition, self.truth)
        if self.learned:
            self.require_alone()
            if self.correct and (self.prior.deblur or not self.log_prob):
                other = "--deblur" if self.prior.deblur else "--no-log_prob"
                raise UsageError(f"--correct needs log densities: leave {other} out")
            return
        for name in sorted(self.given & {"log_prob", "correct"}):
            raise UsageError(f"--{name} goes with --condition alone: leave it out")
        own = self.likelihood.likelihood not in LIKELIHOODS
        if own != (self.observation is None):
            raise UsageError(
                "--observation goes with gaussian, mask and linear, and is needed there"
            )

    def truths(self, subject: _runs.PosteriorSubject, count: int) -> Tensor | None:
        """The points ``[M, D]`` that so many observations are of; None where they are not known.

        Raises:
            UsageError: They are others.
            DataError: The file is broken.
        """
        if self.truth is None:
            return None
        found = subject.points(self.truth)
        if len(found) != count:
            raise UsageError(f"--truth has {len(found)} points, but there are {count} observations")
        return found

    def sharpened(self, subject: _runs.PosteriorSubject, prior: inference.Prior) -> inference.Prior:
        """The prior as draws without a likelihood have it: weights of a correction are the more
        even if draws are rather wider than the posterior."""
        return prior if self.correct else super().sharpened(subject, prior)

    def amortized(
        self, subject: _runs.PosteriorSubject, prior: inference.Prior, conditions: Tensor
    ) -> inference.Amortized:
        """How to draw from posteriors that the flow has learned.

        Raises:
            UsageError: Log densities are needed, but there are none.
            DataError: The file of a correction is broken.
        """
        wanted = self.log_prob and not self.prior.deblur and not subject.images
        if self.correct and not wanted:
            raise UsageError("--correct needs log densities, which images do not get here")
        plan = self.plan(subject)
        return inference.Amortized(
            self.sharpened(subject, prior),
            conditions,
            self.prior.amortized_rows(subject),
            plan.chains,
            plan.draws,
            plan.seed,
            flow.Trace("exact") if wanted else None,
            inference.UserFunction.load(self.correct, "correct") if self.correct else None,
            plausible=True,
        )


@dataclass(frozen=True, kw_only=True)
class CheckSettings(CommonSettings):
    """Options of ``check``."""

    truth: str = option(
        type=choice(["flow", "data"]),
        default="flow",
        help="Where truths come from: flow asks whether the sampler is right, data whether the "
        "model is.",
    )
    data_root: Path | None = option(
        type=FILE, unset="none", help="Data set that the network was not trained on, for data"
    )
    runs: int = option(
        type=click.IntRange(min=FEWEST_RUNS),
        default=1000,
        help="Truths to find again; if it is left out, all that the data set has to test, where "
        "these are fewer.",
    )
    level: float = option(
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.01,
        help="p-value, the number of comparisons accounted for, below which a check fails.",
    )
    condition: Path | None = option(
        type=FILE,
        unset="none",
        help="Without a likelihood: observations, as sample takes them, near each of which a "
        "conditional network is checked too",
    )
    neighbors: int | None = option(
        type=click.IntRange(min=FEWEST_NEIGHBORS),
        unset=f"{NEIGHBORS}, or a tenth of the rows to test if that is less",
        help="Simulations nearest to an observation that are tested, at most a tenth",
    )
    strict: bool = option(is_flag=True, help="Exit with code 3 if a test fails.")

    @property
    def learned(self) -> bool:
        return self.prior.network is not None and not self.likelihood.said

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_root is not None and self.truth != "data":
            raise UsageError("--data_root goes with --truth=data")
        if self.condition is not None and not self.learned:
            raise UsageError("--condition is for a check without a likelihood: leave that out")
        if self.neighbors is not None and self.condition is None:
            raise UsageError("--neighbors goes with --condition")

    def require_for(self, subject: _runs.PosteriorSubject) -> None:
        """Raises UsageError unless the options are those of a check of this."""
        if subject.table is None and subject.label_dim:
            raise UsageError("check is for networks without classes")
        if not subject.condition_names:
            self.likelihood.require()
            if self.condition is not None:
                raise UsageError("--condition is for networks with conditions, which this has not")
            return
        if not self.learned:
            raise UsageError(
                "a network with conditions is checked without a likelihood: leave "
                f"--{min(self.likelihood.said)} out"
            )
        self.require_alone()
        if self.truth == "flow":
            raise UsageError(
                "draws of the flow are calibrated however wrong it is, as it has learned the "
                "posterior itself: give --truth=data --data_root=SIMULATIONS"
            )

    def for_data(self, subject: _runs.PosteriorSubject) -> CheckSettings:
        """The same with no more runs than the data set has truths, unless their number was typed.

        Raises:
            UsageError: There is no data set, or it has too few truths for any check.
            DataError: It is broken.
        """
        if self.truth != "data" or "runs" in self.given:
            return self
        there = subject.testable(self.data_root)
        if there is None or there >= self.runs:
            return self
        if there < FEWEST_RUNS:
            raise UsageError(
                f"{self.data_root} has {there} truths to find again: a check needs {FEWEST_RUNS}"
            )
        return replace(self, runs=there)

    def learned_runs(
        self, subject: _runs.PosteriorSubject, observed: Tensor | None
    ) -> _runs.LearnedRuns:
        """Simulations to find again, also near observations ``[M, C]``, if there are some.

        Raises:
            UsageError: There is no data set, or neighbors are too many.
            DataError: It is broken, has other columns, or too few rows.
        """
        assert subject.table is not None
        path, seed = _runs.required(self.data_root), self.sampler.seed
        return _runs.LearnedRuns.draw(
            subject.table, path, self.runs, seed, observed, self.neighbors
        )

    def plan(self, subject: _runs.PosteriorSubject) -> inference.SamplingPlan:
        """How to sample."""
        return self.sampler.plan(subject, CHECK_DRAWS if self.learned else DRAWS)

    def amortized(
        self, subject: _runs.PosteriorSubject, prior: inference.Prior, conditions: Tensor
    ) -> inference.Amortized:
        """How to draw from posteriors that the flow has learned."""
        plan, rows = self.plan(subject), self.prior.amortized_rows(subject)
        sharp = self.sharpened(subject, prior)
        return inference.Amortized(sharp, conditions, rows, plan.chains, plan.draws, plan.seed)
