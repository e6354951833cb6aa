"""Choices of a simulation: the base distribution of generation, and the time grid."""

from dataclasses import dataclass, replace
from math import inf, isclose, nan

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.warned import warn
from torch_utils import distributed
from training.flow.latent import GaussianLatents, LatentDistribution
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.names import LEARNED

PAPER = "paper"
WRONG_BY = 2.0
"""Factor between variances from which a base distribution causes a warning."""


@dataclass(frozen=True)
class LatentChoice:
    """Base distribution that generation starts from; the closed form if no attribute is set.

    Attributes:
        eps: Variance of all compressed dimensions; None for the closed form.
        paper: Whether kept dimensions have the variance ``A0 ** 2``, as in the paper's tables.
        empirical: Whether the variances are estimated from inflated data (the end of a melt).
        learned: Whether to use the learned distribution in the network file; None to use it if
            there is one.
    """

    eps: float | None = None
    paper: bool = False
    empirical: bool = False
    learned: bool | None = False

    @property
    def name(self) -> float | str:
        """Name of the choice in parameters files.

        It is ``learned``, ``auto``, a variance, ``paper``, ``paper:`` and a variance, or
        ``empirical``.
        """
        if self.learned:
            return LEARNED
        if self.empirical:
            return "empirical"
        if self.paper:
            return "paper" if self.eps is None else f"paper:{self.eps:g}"
        return "auto" if self.eps is None else self.eps

    def settled(self, flow: ProbabilityFlow, end_time: float, dims_to_keep: int) -> "LatentChoice":
        """Return the choice with the values that apply to a flow.

        It is decided whether the learned distribution is used. A variance of compressed dimensions
        is dropped if there are none.

        Args:
            flow: Flow.
            end_time: End time T.
            dims_to_keep: Number of dimensions that are not compressed.

        Raises:
            UsageError: The learned distribution was requested, but there is none, or it is for
                another time.
        """
        dim, elsewhere = flow.basis.dim, None
        if flow.learned is None:
            elsewhere = "the network file has no learned latent distribution"
        elif not isclose(end_time, flow.end_time, rel_tol=1e-9):
            elsewhere = (
                "the learned latent distribution belongs to T = "
                f"{flow.end_time:.4g}, not {end_time:.4g}"
            )
        if self.learned and elsewhere:
            raise UsageError(f"--eps is 'learned', but {elsewhere}: give auto")
        if self.learned is None:
            if flow.learned is not None and elsewhere:
                _warn(f"{elsewhere}: latents are drawn from the closed-form Gaussian")
            return replace(self, learned=elsewhere is None)
        if self.eps is None or dims_to_keep < dim:
            return self
        _warn(f"--eps={self.name} has no effect: none of the {dim} dimensions is compressed")
        return replace(self, eps=None)

    def distribution(
        self,
        flow: ProbabilityFlow,
        end_time: float,
        dims_to_keep: int,
        melted: Tensor | None = None,
    ) -> LatentDistribution:
        """Return the base distribution at T, with a warning if it is far from the closed form.

        Args:
            flow: Flow.
            end_time: End time T.
            dims_to_keep: Number of dimensions that are not compressed.
            melted: End ``[N, D]`` of a melt in scaled eigenspace, for ``empirical``.

        Raises:
            UsageError: There are no inflated data for ``empirical``, or ``paper`` lacks a variance
                or is used with an isotropic model.
        """
        if self.empirical:
            if melted is None:
                raise UsageError(
                    "--eps=empirical needs the variances of inflated data: give a saved melt"
                )
            return GaussianLatents.empirical(melted)
        end = torch.tensor(end_time, dtype=torch.float64, device=flow.device)
        if self.learned:
            return flow.latent_law(end)
        distribution = flow.gaussian_latents(end)
        if self.eps is not None and dims_to_keep < distribution.dim:
            self._compare(distribution.variance[dims_to_keep:], self.eps, end_time)
        if self.paper:
            return self._paper_law(flow, dims_to_keep)
        return (
            distribution
            if self.eps is None
            else distribution.with_compressed(self.eps, dims_to_keep)
        )

    def on(self, flow: ProbabilityFlow) -> ProbabilityFlow:
        """Return the flow with the learned base distribution if chosen, otherwise without it."""
        return flow if self.learned else flow.with_distribution(None)

    def _compare(self, exact: Tensor, eps: float, end_time: float) -> None:
        """Warn of a variance that is far from those of the closed form."""
        low, high = float(exact.min()), float(exact.max())
        if low / WRONG_BY <= eps <= high * WRONG_BY:
            return
        closed = f"{low:.3g} to {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"{low:.3g}"
        _warn(
            f"--eps={self.name}, but the variance of compressed dimensions at T = "
            f"{end_time:.4g} is {closed}: generated samples will not have the "
            "distribution of the data; --eps=auto uses the correct variances"
        )

    def _paper_law(self, flow: ProbabilityFlow, dims_to_keep: int) -> GaussianLatents:
        schedule, dim = flow.schedule, flow.basis.dim
        if not isinstance(schedule, InflationSchedule):
            raise UsageError(
                f"eps is '{self.name}', but {schedule.name} is not an inflationary flow: give auto"
            )
        if self.eps is None and dims_to_keep < dim:
            raise UsageError(
                f"eps is '{self.name}', but {dim - dims_to_keep} dimensions are "
                "compressed: give their variance, for example paper:1e-2"
            )
        distribution = GaussianLatents.paper(dim, dims_to_keep, self.eps or 1, schedule.end_std)
        return GaussianLatents(distribution.variance.to(flow.device))


def latent_choice(text: str | None, otherwise: str | None = None) -> LatentChoice:
    """Return the choice that an option states.

    Args:
        text: ``learned``, ``auto``, ``empirical``, ``paper``, a positive number, or ``paper:`` and
            a number. None stands for the learned distribution if there is one.
        otherwise: Advice for the error message if ``empirical`` is impossible; None if it is
            possible.

    Raises:
        UsageError: The text is something else, or ``empirical`` is impossible.
    """
    if text == "empirical" and otherwise is not None:
        raise UsageError(f"--eps is 'empirical', but no inflated data are given: {otherwise}")
    if text is None or text == LEARNED:
        return LatentChoice(learned=None if text is None else True)
    if text in ("auto", "empirical", PAPER):
        return LatentChoice(paper=text == PAPER, empirical=text == "empirical")
    kind, colon, number = text.partition(":")
    paper = bool(kind == PAPER and colon)
    try:
        value = float(number if paper else text)
    except ValueError:
        value = nan
    if not 0 < value < inf:
        raise UsageError(
            f"--eps is '{text}': give learned, auto, empirical or a positive variance, "
            "for example 1e-2 or paper:1e-2"
        )
    return LatentChoice(eps=value, paper=paper)


def recorded_eps(text: str | None, used: LatentChoice) -> str:
    """Return the value of the option to record: the text, or the choice used instead."""
    return text if text is not None and latent_choice(text) == used else str(used.name)


def _warn(text: str) -> None:
    if distributed.is_main():
        warn("latents", f"{text}")


@dataclass(frozen=True)
class TimeChoice:
    """Choice of the times of an integration.

    Attributes:
        steps: Number of steps.
        end: End time T.
        first: First time of an even grid; None for the schedule's own times.
        given: Times themselves, if they are known.
    """

    steps: int
    end: float
    first: float | None = None
    given: Tensor | None = None

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """Return increasing times ``[steps + 1]``, float64 on the CPU.

        They are evenly spaced; isotropic schedules use their own times instead.

        Raises:
            UsageError: The first time is not before the last.
        """
        if self.given is not None:
            return self.given
        if self.end <= schedule.t_min:
            raise UsageError(f"T is {self.end:g}, but simulations start at t = {schedule.t_min:g}")
        if self.first is None:
            return schedule.times(self.steps, self.end)
        if not schedule.t_min <= self.first < self.end:
            raise UsageError(
                f"--vpode_disc_eps is {self.first:g}: give at least {schedule.t_min:g}, and "
                f"less than T = {self.end:g}"
            )
        return torch.linspace(self.first, self.end, self.steps + 1, dtype=torch.float64)
