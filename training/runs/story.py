"""What is simulated of a flow: data is melted, brought back, and generated from fresh latents.

The three simulations are the same for toys, images and tables. What differs is where samples come
from, and which facts the parameters hold: the hooks of ``Story``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.trajectory import SavedEnd
from training.flow.likelihood import Likelihood
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.runs.latents import LatentChoice
from training.runs.simulator import Simulation, Simulator


@dataclass(frozen=True)
class Samples:
    """Points of a data set that are to be melted, the same on every rank.

    Attributes:
        points: ``[N, D]`` in image space.
        labels: ``[N, L]``; None for a network without classes.
        arrays: What else the file of the melt says of them.
    """

    points: Tensor
    labels: Tensor | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


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
class Story(ABC):
    """Simulations of one flow along the same times.

    Attributes:
        flow: The flow, on this rank's device.
        times: Increasing ``[steps + 1]``.
        solver: How to take a step.
        dims_to_keep: Number of dimensions that are not compressed.
        latent: What generation starts from.
        count: N, of a melt and of a generation.
        seed: Seed of all that is drawn at random.
        paths: Files of the simulations, by kind.
        save_every: Steps between saved states.
        likelihood: What to compute of log densities; None for nothing.
        network_sha256: Digest of the network; None without one.
        dtype: Of the states in the files.
    """

    flow: ProbabilityFlow
    times: Tensor
    solver: Solver
    dims_to_keep: int
    latent: LatentChoice
    count: int
    seed: int
    paths: Mapping[str, Path]
    save_every: int
    likelihood: Likelihood | None = None
    network_sha256: str | None = None
    dtype: str = "float64"

    @abstractmethod
    def samples(self) -> Samples:
        """What is melted."""

    @abstractmethod
    def roundtrip_facts(self, back: Simulation, start: Tensor) -> dict[str, Any]:
        """How well samples came back to where their melt started ``[N, D]``, scaled eigenspace."""

    def start_of(self, points: Tensor) -> Tensor:
        """Where the melt of points ``[N, D]`` starts: at themselves, if nothing is added."""
        return points

    def melt_facts(self, melt: Simulation) -> dict[str, Any]:
        """What else the parameters say of a melt."""
        return {}

    def kept_variances(self, melt: Simulation) -> dict[str, float]:
        """Variances of kept dimensions at a melt's end over their closed form."""
        exact = self.flow.gaussian_law(melt.trajectory.times[-1]).variance
        measured = melt.trajectory.end.square().mean(dim=0)
        return summarize_variances(measured, exact, self.dims_to_keep)

    def gen_facts(self, gen: Simulation, melt: Simulation | None) -> dict[str, Any]:
        """What else the parameters say of a generation, beside a melt if there was one."""
        return {}

    def densities(self, samples: Samples) -> Simulation | None:
        """Log densities of a melt by an integration of their own; None if the melt's do."""
        return None

    def drawn_labels(self) -> Tensor | None:
        """Labels ``[N, L]`` of what is generated; None for a network without classes."""
        return None

    def arrays(self) -> dict[str, Tensor]:
        """What every file has beside the states."""
        return {}

    def names(self) -> Sequence[str] | None:
        """Names of the columns of a table; None for other data."""
        return None

    def tell(self, kinds: Sequence[str], melted: SavedEnd | None = None) -> Iterator[Chapter]:
        """Runs the simulations of these kinds, one after the other, each into its file.

        Args:
            kinds: Some of ``KINDS``, in their order.
            melted: An earlier melt to go on from, for kinds without a melt of their own.
        """
        start, end, labels = (
            (None, None, None) if melted is None else (melted.start, melted.x, melted.labels)
        )
        arrays = {} if melted is None else melted.arrays
        gap = None if melted is None else melted.gap_for(self.solver)
        melt: Simulation | None = None
        if "melt" in kinds:
            samples = self.samples()
            own = self.densities(samples)
            melt = self._melt(samples, own)
            start, end = melt.trajectory.states[0], melt.trajectory.end
            gap = melt.trajectory.gap
            labels, arrays = samples.labels, samples.arrays
            facts = {**melt.facts(self.flow), **self.melt_facts(melt)}
            if own:
                facts["likelihood"] = own.likelihood_facts()
            yield Chapter("melt", melt, facts)
        if "roundtrip" in kinds:
            assert start is not None, "a roundtrip starts from a melt"
            assert end is not None
            back = self._generate("roundtrip", end, labels, arrays, gap)
            facts = self.roundtrip_facts(back, start.to(self.flow.device))
            yield Chapter("roundtrip", back, {**back.facts(self.flow), **facts})
        if "gen" in kinds:
            end = None if end is None else end.to(self.flow.device)
            law = self.latent.law(self.flow, float(self.times[-1]), self.dims_to_keep, end)
            latents = law.sample(self.count, seeded_generator("cpu", self.seed, Stream.LATENT))
            gen = self._generate("gen", latents, self.drawn_labels(), {})
            yield Chapter("gen", gen, {**gen.facts(self.flow), **self.gen_facts(gen, melt)})

    def _melt(self, samples: Samples, own: Simulation | None) -> Simulation:
        simulator = self._simulator(samples.labels, None if own else self.likelihood)
        arrays = {**samples.arrays, **(own.densities if own else {})}
        file = self._file(samples.labels, arrays)
        return simulator.melt(self.start_of(samples.points), "melt", self.paths["melt"], **file)

    def _generate(
        self,
        kind: str,
        latents: Tensor,
        labels: Tensor | None,
        arrays: Mapping[str, Tensor],
        gap: Tensor | None = None,
    ) -> Simulation:
        file = self._file(labels, arrays)
        simulator = self._simulator(labels, self.likelihood)
        return simulator.generate(latents, kind, self.paths[kind], gap, **file)

    def _simulator(self, labels: Tensor | None, likelihood: Likelihood | None) -> Simulator:
        flow = self.given(labels)
        return Simulator(flow, self.times, self.solver, self.save_every, likelihood)

    def given(self, labels: Tensor | None) -> ProbabilityFlow:
        """The flow for this rank's share of samples with these labels ``[N, L]``."""
        if labels is None:
            return self.flow
        share = labels[distributed.shard(len(labels))]
        return self.flow.given(labels=share.to(self.flow.device))

    def _file(self, labels: Tensor | None, arrays: Mapping[str, Tensor]) -> dict[str, Any]:
        told = {} if labels is None else {"labels": labels}
        return {
            "dtype": self.dtype,
            "network_sha256": self.network_sha256,
            "names": self.names(),
            **self.arrays(),
            **told,
            **arrays,
        }


def summarize_variances(measured: Tensor, exact: Tensor, dims_to_keep: int) -> dict[str, float]:
    """Variances ``[D]`` of kept dimensions over their closed form: mean, and farthest from 1."""
    ratios = (measured / exact)[:dims_to_keep]
    farthest = ratios[(ratios - 1).abs().argmax()]
    return {"mean": float(ratios.mean()), "worst": float(farthest)}
