"""What is simulated of a flow: data is melted, brought back, and generated from fresh latents.

The three simulations are the same for toys, images and tables. Where points come from, and which
facts the parameters hold, the subject knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.trajectory import SavedEnd
from training.flow.likelihood import DensityPlan, DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver, get_solver
from training.inference.weights import weighted_picks
from training.measure.posterior.importance import effective_size
from training.names import DEFAULT_SOLVER
from training.runs.latents import LatentChoice
from training.runs.simulator import Simulation, Simulator
from training.subjects import Subject
from training.subjects.samples import Returns, Samples, Source


@dataclass(frozen=True)
class Chapter:
    """A simulation that has ended, and is in its file.

    Attributes:
        kind: One of ``KINDS``.
        simulation: Of all samples.
        facts: What the parameters say of it.
    """

    kind: str
    simulation: Simulation
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Story:
    """Simulations of one flow along the same times.

    Attributes:
        subject: What is simulated.
        flow: Its flow, on this rank's device.
        samples: What is melted; None where nothing is.
        times: Increasing ``[steps + 1]``.
        solver: How to take a step.
        latent: What generation starts from.
        count: N, of a generation.
        seed: Seed of all that is drawn at random.
        paths: Files of the simulations, by kind.
        save_every: Steps between saved states.
        by_course: Whether densities of melts, and of cells, go by the network's course.
        start_noise: Whether melts start with the noise of the first time.
        class_number: Class to generate; None draws one for each image.
        density_plan: What to compute of log densities; None for nothing.
        correct: Whether what a student generates is to be its teacher's.
    """

    subject: Subject
    flow: ProbabilityFlow
    samples: Samples | None
    times: Tensor
    solver: Solver
    latent: LatentChoice
    count: int
    seed: int
    paths: Mapping[str, Path]
    save_every: int
    by_course: bool = False
    start_noise: bool = False
    class_number: int | None = None
    density_plan: DensityPlan | None = None
    correct: bool = False

    def start_of(self, points: Tensor) -> Tensor:
        """Where the melt of points ``[N, D]`` starts: at themselves, or with noise."""
        if not self.start_noise:
            return points
        generator = seeded_generator("cpu", self.seed, Stream.MELT_NOISE)
        first = self.times[0].to(self.flow.device)
        noise = self.flow.schedule.sample_noise(len(points), first, generator)
        return points + self.flow.basis.rotate_back(noise).cpu()

    def densities(self, samples: Samples) -> Simulation | None:
        """Log densities of a melt by an integration of their own; None if the melt's do."""
        if not self.density_plan:
            return None
        flow, times, solver = self.given(samples.labels), self.times, self.solver
        points = self.subject.density_points(samples, self.seed)
        if self.by_course and "densities" in flow.courses:
            times, solver = flow.course("densities")
            points = self.start_of(samples.points) if points is None else points
        if points is None:
            return None
        simulator = Simulator(flow, times, solver, len(times), self.density_plan)
        return simulator.melt(points, "log_prob")

    def tell(self, kinds: Sequence[str], melted: SavedEnd | None = None) -> Iterator[Chapter]:
        """Runs the simulations of these kinds, some of ``KINDS`` in their order, one after the
        other, each into its file. Kinds without a melt of their own go on from an earlier one."""
        start = end = labels = gap = None
        arrays: Mapping[str, Tensor] = {}
        if melted is not None:
            start, end, labels, arrays = melted.start, melted.x, melted.labels, melted.arrays
            gap = melted.gap_for(self.solver)
        melt: Simulation | None = None
        if "melt" in kinds:
            assert self.samples is not None, "a melt has samples"
            samples = self.samples
            own = self.densities(samples)
            simulator = self._simulator(samples.labels, None if own else self.density_plan)
            file = self._file(samples.labels, {**samples.arrays, **(own.densities if own else {})})
            began = self.start_of(samples.points)
            melt = simulator.melt(began, "melt", self.paths["melt"], **file)
            start, end = melt.trajectory.states[0], melt.trajectory.end
            gap = melt.trajectory.gap
            labels, arrays = samples.labels, samples.arrays
            of_subject = self.subject.melt_facts(self.flow, melt.trajectory)
            facts = {**melt.facts(self.flow), **of_subject}
            if own:
                melt = replace(melt, densities=own.densities)
                facts["likelihood"] = own.likelihood_facts()
            yield Chapter("melt", melt, facts)
        if "roundtrip" in kinds:
            assert start is not None, "a roundtrip starts from a melt"
            assert end is not None
            back = self._generate("roundtrip", end, labels, arrays, gap)
            start = start.to(self.flow.device)
            facts = self.subject.return_facts(self.flow, back.trajectory, start)
            yield Chapter("roundtrip", back, {**back.facts(self.flow), **facts})
        if "gen" in kinds:
            end = None if end is None else end.to(self.flow.device)
            kept = self.subject.dims_to_keep
            law = self.latent.law(self.flow, float(self.times[-1]), kept, end)
            latents = law.sample(self.count, seeded_generator("cpu", self.seed, Stream.LATENT))
            facts = {}
            if self.correct:
                latents, facts["effective_share"] = self._of_teacher(latents)
            labels = self.subject.drawn_labels(self.count, self.seed, self.class_number)
            gen = self._generate("gen", latents, labels, {})
            beside = {}
            if melt and melt.densities and gen.densities:
                both = melt.densities["log_prob"], gen.densities["log_prob"]
                beside = self.subject.density_facts(*both)
            yield Chapter("gen", gen, {**gen.facts(self.flow), **beside, **facts})

    def check_labels(self, melted: SavedEnd) -> None:
        """Raises DataError if a melt has other labels than the network takes."""
        length = 0 if melted.labels is None else melted.labels.shape[1]
        if length != self.subject.label_dim:
            assert self.subject.file is not None
            raise DataError(
                f"{melted.path} has labels of length {length}, but {self.subject.file.name} takes "
                f"{self.subject.label_dim}"
            )

    def _of_teacher(self, latents: Tensor) -> tuple[Tensor, float]:
        """Latents ``[N, D]`` taken again by the density of what the student makes of them, by its
        teacher over its own; and which share of them is effective."""
        flow, exact, rows = self.flow, Trace("exact"), slice(0, len(latents))
        solvers = (self.solver, get_solver(DEFAULT_SOLVER))
        own, right = (DivergenceIntegral(each, exact, rows, flow.basis.dim) for each in solvers)
        made = flow.generate(latents, self.times, own.solver)
        back = flow.simulate(made.end, flow.times(), right.solver)
        weights = flow.log_prob_along(back, right).log_prob
        weights = (weights - flow.log_prob_along(made, own).log_prob)[None]
        order, seeds = torch.arange(len(latents), device=flow.device)[None], [self.seed]
        picks = weighted_picks(weights, torch.tensor(seeds), len(latents), order)[0]
        share = float(effective_size(weights)) / len(latents)
        logger.info(f"Effective share of the student's draws under its teacher: {share:.1%}")
        if self.density_plan:
            logger.warning(
                "Warning: log densities of these draws are the student's own; a melt of them by "
                f"--solver={DEFAULT_SOLVER} has those of its teacher"
            )
        return latents[picks], share

    def _generate(
        self,
        kind: str,
        latents: Tensor,
        labels: Tensor | None,
        arrays: Mapping[str, Tensor],
        gap: Tensor | None = None,
    ) -> Simulation:
        file = self._file(labels, arrays)
        simulator = self._simulator(labels, self.density_plan)
        return simulator.generate(latents, kind, self.paths[kind], gap, **file)

    def _simulator(self, labels: Tensor | None, densities: DensityPlan | None) -> Simulator:
        flow = self.given(labels)
        known = (self.times, self.solver, self.save_every, densities, self.by_course)
        return Simulator(flow, *known)

    def given(self, labels: Tensor | None) -> ProbabilityFlow:
        """The flow for this rank's share of samples with these labels ``[N, L]``."""
        if labels is None:
            return self.flow
        share = labels[distributed.shard(len(labels))]
        return self.flow.given(labels=share.to(self.flow.device))

    def _file(self, labels: Tensor | None, arrays: Mapping[str, Tensor]) -> dict[str, Any]:
        given = {} if labels is None else {"labels": labels}
        return {
            "dtype": self.subject.dtype,
            "network_sha256": self.subject.digest,
            "names": self.subject.columns,
            **self.subject.arrays,
            **given,
            **arrays,
        }


def measure_returns(
    flow: ProbabilityFlow,
    times: Tensor,
    solver: Solver,
    source: Source,
    returns: Returns,
    batch: int,
) -> int:
    """Measures how well points survive, and returns the denoiser calls of a point. Every rank reads
    each batch, of so many points in flight over all ranks, of which it integrates its share, and
    holds no more than one."""
    count, most_calls = len(source), 0
    starts = range(0, count, batch)
    total = 2 * (len(times) - 1) * len(starts)
    with distributed.progress_bar(total=total, desc="roundtrip", unit="step") as bar:
        for start in starts:
            places = range(start, min(start + batch, count))
            bar.set_postfix_str(f"{places.start} to {places.stop - 1} of {count}")
            samples = source.read(places)
            share, own = distributed.shard(len(places)), flow
            if samples.labels is not None:
                own = flow.given(labels=samples.labels[share].to(flow.device))
            data = samples.points[share].to(flow.device).double()
            melt = own.melt(data, times, solver, on_step=bar.update)
            back = own.generate(melt.end, times, solver, on_step=bar.update, gap=melt.gap)
            ends = torch.stack([melt.end, own.to_data(back.end, back.times[-1])])
            latents, returned = distributed.gather_rows(ends, len(places), dim=1).cpu()
            most_calls = max(most_calls, melt.calls + back.calls)
            returns.add(flow, samples, latents, returned)
    return most_calls
