"""Flows of toys: by a trained network, by the toy's own denoiser, or by a set of points."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dnnlib.errors import DataError, agree
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.toys import LARGEST_MISMATCH, Toy
from training.flow.denoisers import DiscreteDenoiser, MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import INFLATION_DEFAULTS
from training.model.recipe import make_schedule
from training.names import TOY_NAMES
from training.runs.networks import NetworkChoice, NetworkFile
from training.runs.simulator import Simulation
from training.runs.story import Samples, Story

SCHEDULE = ("dims_to_keep", "rho", "gamma0", "g_type", "inflation_gap", "g_rescaling")
"""What is known of a toy's schedule, by the names of options."""


@dataclass(frozen=True)
class ToyChoice:
    """A toy and a schedule, where no network knows them.

    Attributes:
        name: Of the toy.
        augment_to: Dimensions that it is embedded in; 0 for its own.
        data_dim: Its dimensions, as a check; None if they were not said.
        inflation: Arguments of the schedule that were given, by name.
        end_std: ``A0`` of the schedule.
    """

    name: str
    augment_to: int = 0
    data_dim: int | None = None
    inflation: Mapping[str, Any] = field(default_factory=dict)
    end_std: float = 1.0


@dataclass(frozen=True)
class ToyFlow:
    """A toy and a flow for it.

    Attributes:
        toy: The toy.
        flow: The flow, on the CPU.
        t_max: The last time of the training, or that which the schedule proposes.
        known: The toy and the schedule, by the names of options.
        file: Where the network is from; None for a flow without one.
    """

    toy: Toy
    flow: ProbabilityFlow
    t_max: float
    known: Mapping[str, Any]
    file: NetworkFile | None = None

    @property
    def stem(self) -> str:
        """How results are named."""
        return f"{self.toy.name}_{self.flow.schedule.name}"

    @property
    def dims_to_keep(self) -> int:
        return int(self.known["dims_to_keep"])

    @classmethod
    def trained(cls, choice: NetworkChoice) -> "ToyFlow":
        """Opens a network that was trained on a toy.

        Raises:
            UsageError: What was said of it contradicts the network.
            DataError: The file is missing or broken, or was not trained on a toy.
        """
        return cls.of(NetworkFile.open(choice), choice.said)

    @classmethod
    def of(cls, file: NetworkFile, said: Mapping[str, Any]) -> "ToyFlow":
        """The flow of a network file that is open; raises as ``trained`` does."""
        path, model = file.path, file.model
        names = ("data_name", "augment_to", "data_dim", *SCHEDULE)
        known = file.agreed({name: said.get(name) for name in names}, file.known)
        name, augment_to = known["data_name"], known["augment_to"]
        if name not in TOY_NAMES or not isinstance(augment_to, int):
            raise DataError(f"{path} was not trained on a toy, but on '{name}'")
        toy = Toy(name, augment_to)
        if toy.dim != model.denoiser.basis.dim:
            raise DataError(
                f"{path} has {model.denoiser.basis.dim} dimensions, but {name} has {toy.dim}"
            )
        basis = model.denoiser.basis
        if toy.mismatch(basis.mean, basis.covariance()) > LARGEST_MISMATCH:
            own = EigenBasis.from_moments(*toy.moments()).eigenvalues
            raise DataError(
                f"{path} was trained on data with the variances {_shown(basis.eigenvalues)}, but "
                f"the toy {name} has {_shown(own)}"
            )
        return cls(toy, model.flow, file.t_max, known, file)

    @classmethod
    def exact(cls, choice: ToyChoice) -> "ToyFlow":
        """The flow of the toy's own denoiser, which is known in closed form."""
        return cls._without_network(choice, None)

    @classmethod
    def discrete(cls, choice: ToyChoice, count: int, seed: int) -> "ToyFlow":
        """The flow of a finite set of points that stands for the toy: those that a melt takes."""
        return cls._without_network(choice, (count, seed))

    @classmethod
    def _without_network(cls, choice: ToyChoice, points: tuple[int, int] | None) -> "ToyFlow":
        toy = Toy(choice.name, choice.augment_to)
        agree("data_dim", choice.data_dim, toy.dim, f"the toy '{toy.name}'")
        basis = EigenBasis.from_moments(*toy.moments())
        arguments = {"dims_to_keep": toy.dim, **INFLATION_DEFAULTS, **choice.inflation}
        schedule = make_schedule("ifs", arguments, basis, choice.end_std)
        denoiser: DiscreteDenoiser | MixtureDenoiser
        if points is None:
            denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
        else:
            denoiser = DiscreteDenoiser(toy_points(toy, *points), basis, schedule)
        known = {
            "data_name": toy.name,
            "augment_to": choice.augment_to,
            "data_dim": toy.dim,
            **{name: arguments[name] for name in SCHEDULE},
        }
        flow = ProbabilityFlow(denoiser, schedule, basis)
        return cls(toy, flow, schedule.default_t_max(), known)

    def exact_counterpart(self) -> ProbabilityFlow:
        """The flow of the toy's own denoiser, with all else from this one."""
        flow = self.flow
        exact = MixtureDenoiser(*self.toy.mixture, basis=flow.basis, schedule=flow.schedule)
        return flow.with_denoiser(exact)


def _shown(variances: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in variances[:3].tolist())


def toy_points(toy: Toy, count: int, seed: int) -> Tensor:
    """The points ``[count, D]`` of a toy that a seed stands for."""
    return toy.sample(count, seeded_generator("cpu", seed, Stream.DATA))


@dataclass(frozen=True, kw_only=True)
class ToyStory(Story):
    """Simulations of a toy's points.

    Attributes:
        toy: The toy.
    """

    toy: Toy

    def samples(self) -> Samples:
        return Samples(toy_points(self.toy, self.count, self.seed))

    def roundtrip_facts(self, back: Simulation, start: Tensor) -> dict[str, Any]:
        """Errors in data units."""
        error = back.trajectory.end - start
        error = error / self.flow.schedule.scale(back.trajectory.times[-1])
        return {
            "rms_error": float(error.square().mean().sqrt()),
            "max_abs_error": float(error.abs().max()),
        }
