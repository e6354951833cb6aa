"""Toys: trainings, and flows of a network, of the toy's exact denoiser, or of a set of points."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training import recipes
from training.data.batches import Batch, ToyBatches
from training.data.tables.formats import TableSource
from training.data.tables.table import DataSource
from training.data.toys import LARGEST_MISMATCH, Toy
from training.files.observations import read_columns
from training.flow.denoisers import DiscreteDenoiser, MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import INFLATION_DEFAULTS
from training.learning.cost import require_batch
from training.learning.finishing import NETWORK_ROWS, LatentPlan, points_to_inflate
from training.learning.loss import MOST_NEAR
from training.learning.run import PostTraining
from training.learning.run_folder import Resumed
from training.names import INFLATION, MOST_AVERAGED, OTHERS, TOY, TOY_NAMES
from training.subjects.subject import Draw, Samples, Subject
from training.subjects.training import Start, Training
from training.trained.architecture import make_schedule
from training.trained.network import TrainedNetwork

# Each point takes 101 network evaluations, all points together about as much as training on 340,000
# points. The error of a slope is about one over the square root of their number.
CALIBRATION_POINTS = 10_000


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyTraining(Training):
    """Training on fresh draws of a toy, with its exact eigenbasis.

    Attributes:
        toy: Toy.
        others: Number of points over which training targets are averaged; None for the best number.
    """

    toy: Toy
    others: int | None = None
    # Networks of toys are good, so that slopes cost their samples nothing.
    calibration_method = "path"

    @property
    def averaged_over(self) -> int:
        """Number of points over which training targets are averaged."""
        if self.others is not None:
            return self.others
        return OTHERS if self.toy.dim <= MOST_AVERAGED else 0

    @cached_property
    def recipe(self) -> recipes.Recipe:
        """Recipe of the training, which depends on the dimension and ``averaged_over``."""
        recipe = recipes.AVERAGED_PLANE if self.toy.dim <= recipes.PLANE else recipes.AVERAGED_SPACE
        recipe = recipe if self.model_config.network == "mlp" else recipes.AVERAGED_TOY
        # A run that continues has its own choice among the amounts.
        published = {"antithetic": False} if self.others == 0 else {}
        recipe = recipe if self.averaged_over else recipes.TOY
        return recipe.but({**published, **self.amounts})

    def start(self, device: torch.device, resumed: Resumed | None) -> Start:
        """Return the start of the training, with the toy's exact eigenbasis.

        Raises:
            UsageError: Options do not fit the toy or the device.
        """
        toy, others, recipe = self.toy, self.averaged_over, self.recipe
        agree("data_dim", self.data_dim, toy.dim, f"the toy '{toy.name}'")
        model, loss = self.model_config.build(EigenBasis.from_moments(*toy.moments()))
        model.about |= {"kind": TOY, "data_name": toy.name, "augment_to": toy.augment_to}
        require_batch(recipe.batch, toy.dim, device, near=min(others, MOST_NEAR))
        return Start(
            recipe=recipe,
            model=model,
            loss=loss,
            resolved={
                "others": others,
                "antithetic": recipe.antithetic,
                **{name: getattr(recipe, name) for name in recipes.OF_TOYS},
            },
            name=(
                toy.name,
                loss.schedule.name,
                model.architecture.network,
                f"in{toy.augment_to}D" if toy.augment_to else None,
            ),
            source=lambda: ToyBatches(
                toy, recipe.batch, recipe.seed, device, others, recipe.antithetic
            ),
            ending=PostTraining(
                self.calibration(partial(calibration_points, toy, self.seed), CALIBRATION_POINTS),
                self.distribution(latent_plan(toy, points_to_inflate(recipe.samples), self.seed)),
            ),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ToyFlow(Subject):
    """A flow of a toy distribution.

    Attributes:
        toy: Toy.
    """

    toy: Toy

    kind = TOY

    @classmethod
    def of(
        cls, network: TrainedNetwork, expected: Mapping[str, Any], data_name: str | None = None
    ) -> "ToyFlow":
        """Return the flow of a network file.

        Raises:
            UsageError: An option contradicts the network.
            DataError: The network was not trained on a toy.
        """
        path, model = network.path, network
        names = ("data_name", "augment_to", "data_dim", *INFLATION)
        known = network.agreed({name: expected.get(name) for name in names}, network.known)
        name, augment_to = known["data_name"], known["augment_to"]
        if network.data_kind != TOY or name not in TOY_NAMES or not isinstance(augment_to, int):
            raise DataError(f"{path} was trained on '{name}', not on a toy")
        toy = Toy(name, augment_to)
        if toy.dim != model.denoiser.basis.dim:
            raise DataError(
                f"{path} has {model.denoiser.basis.dim} dimensions, but {name} has {toy.dim}"
            )
        basis = model.denoiser.basis
        if toy.mismatch(basis.mean, basis.covariance()) > LARGEST_MISMATCH:
            own = EigenBasis.from_moments(*toy.moments()).eigenvalues
            raise DataError(
                f"{path} was trained on data with variances {_shown(basis.eigenvalues)}, "
                f"but the toy {name} has {_shown(own)}"
            )
        return cls(
            flow=model.flow,
            data_name=name,
            t_max=network.t_max,
            known=known,
            network=network,
            toy=toy,
        )

    @classmethod
    def closed_form(
        cls,
        name: str,
        augment_to: int = 0,
        data_dim: int | None = None,
        inflation: Mapping[str, Any] | None = None,
        end_std: float = 1.0,
        points: tuple[int, int] | None = None,
    ) -> "ToyFlow":
        """Return the flow of the toy's exact denoiser, or of a finite set of points.

        Args:
            name: Name of the toy.
            augment_to: Dimension of the space that the toy is embedded in; 0 for no embedding.
            data_dim: Expected dimension, as a check; None for no check.
            inflation: Arguments of the schedule that were given, by name.
            end_std: ``A0`` of the schedule.
            points: Number and random seed of points that represent the toy, drawn like the points
                to inflate; None for the toy itself.
        """
        toy = Toy(name, augment_to)
        agree("data_dim", data_dim, toy.dim, f"the toy '{toy.name}'")
        basis = EigenBasis.from_moments(*toy.moments())
        arguments = {"dims_to_keep": toy.dim, **INFLATION_DEFAULTS, **(inflation or {})}
        schedule = make_schedule("ifs", arguments, basis, end_std)
        denoiser: DiscreteDenoiser | MixtureDenoiser
        if points is None:
            denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
        else:
            denoiser = DiscreteDenoiser(toy_points(toy, *points), basis, schedule)
        known = {
            "data_name": toy.name,
            "augment_to": augment_to,
            "data_dim": toy.dim,
            **{name: arguments[name] for name in INFLATION},
        }
        flow, t_max = ProbabilityFlow(denoiser, schedule, basis), schedule.default_t_max()
        return cls(flow=flow, data_name=toy.name, t_max=t_max, known=known, toy=toy)

    @property
    def names(self) -> list[str]:
        """Names ``x1`` to ``xD`` of the coordinates."""
        return [f"x{index + 1}" for index in range(self.toy.dim)]

    @property
    def exact(self) -> ProbabilityFlow:
        """Flow of the toy's exact denoiser, with the schedule and basis of this flow."""
        flow = self.flow
        denoiser = MixtureDenoiser(*self.toy.mixture, basis=flow.basis, schedule=flow.schedule)
        exact = flow.with_denoiser(denoiser)
        exact.integrations = {}  # those are for the network
        return exact

    def samples(self, path: DataSource | None, count: int | None, seed: int) -> Samples:
        """Return ``count`` points of the toy, drawn with a random seed."""
        assert count is not None
        return Samples(toy_points(self.toy, count, seed))

    def truths(self, path: DataSource | None, count: int, seed: int) -> Tensor:
        """Draw points ``[count, D]`` of the toy.

        Raises:
            UsageError: A data set is given.
        """
        if path is not None:
            raise UsageError("--data_root is for tables and images: toys generate their own points")
        return self.toy.sample(count, seeded_generator("cpu", seed, Stream.TRUTHS))

    def fresh(self, path: DataSource | None, count: int, seed: int) -> Draw:
        """Return a function that draws ``count`` points of the toy.

        Raises:
            UsageError: A data set is given.
        """
        if path is not None:
            raise UsageError(
                f"--data_root is for networks of tables, not for the toy {self.data_name}"
            )
        return lambda generator: self.toy.sample(count, generator)

    def points(self, path: TableSource, seen: Tensor | None = None) -> Tensor:
        """Read points ``[M, D]`` from a table with columns ``x1`` to ``xD``."""
        return read_columns(path, self.observed_names(seen), self.names, [])


def _shown(variances: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in variances[:3].tolist())


def toy_points(toy: Toy, count: int, seed: int) -> Tensor:
    """Return the points ``[count, D]`` of a toy for a random seed."""
    return toy.sample(count, seeded_generator("cpu", seed, Stream.DATA))


def calibration_points(toy: Toy, seed: int) -> Batch:
    """Return this rank's part of a fixed number of fresh draws, for calibration."""
    generator = seeded_generator("cpu", seed, Stream.CALIBRATION_POINTS, 0)
    points = toy.sample(CALIBRATION_POINTS, generator)
    return Batch(points[distributed.shard(CALIBRATION_POINTS)])


def inflated_points(toy: Toy, seed: int, count: int) -> Batch:
    """Return fresh draws to inflate, the same on all ranks."""
    return Batch(toy.sample(count, seeded_generator("cpu", seed, Stream.MELTED_POINTS)))


def latent_plan(toy: Toy, count: int, seed: int) -> LatentPlan:
    """Return the plan for learning the distribution of a toy's latents from ``count`` draws."""
    return LatentPlan(partial(inflated_points, toy, seed), None, count, seed, NETWORK_ROWS)
