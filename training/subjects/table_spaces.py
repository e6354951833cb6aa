"""Coordinates of a table for a flow, chosen by the log density of held-out rows.

The marginal maps of columns and their whitening change held-out likelihoods by more than the
network does. Candidates are therefore compared: each is trained for a few hundred steps, and scored
on held-out rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import islice, product
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.stats import RunningMeans
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.tables.repeated_trials import thinned
from training.data.tables.schema import CATEGORY
from training.data.tables.table import DataTable, Levels, Rows, TableBatches
from training.flow.coordinates.coordinates import Coordinates, dither
from training.learning.building import ModelConfig
from training.learning.coordinates import basis_in, fit_coordinates, over_decades
from training.learning.cost import slowest
from training.learning.finishing import NETWORK_ROWS, CalibrationPlan, LatentPlan, points_to_inflate
from training.learning.gaussian_start import fit_levels
from training.learning.held_out import HeldOut, Validation
from training.learning.loss import DenoisingLoss
from training.learning.trainer import Trainer
from training.measure.association import independence_p_values
from training.names import (
    AUTO,
    AXES_TOO,
    BOUNDED,
    COND_SCREENS,
    LINEAR_STARTS,
    LOG,
    MARGINALS,
    RANKS,
    WHITENINGS,
)
from training.recipes import FEW_ROWS, Recipe
from training.trained.network import TrainedNetwork

MOST_ROWS = 2000
"""Largest number of rows for screening.

Their n² distances take a twentieth of a second per condition, and a correlation of 0.1 has a
p-value of 1e-5.
"""
FALSE_SHARE = 0.05
"""False discovery rate: expected fraction of irrelevant conditions among those found relevant."""


def relevant_conditions(rows: Rows, seed: int) -> list[int]:
    """Return the indices of the conditions on which some column depends.

    The result is empty if all conditions are relevant, or if none is.

    Each condition is screened by itself, by its distance correlation with each column (Fan and Lv
    2008, "Sure independence screening"; Li, Zhong and Zhu 2012, "Feature screening via distance
    correlation learning"). The false discovery rate is controlled by the procedure of Benjamini and
    Hochberg (1995). A condition that is informative only together with another is not found.

    Args:
        rows: Training rows.
        seed: Random seed for choosing rows.
    """
    assert rows.conditions is not None
    if len(rows) > MOST_ROWS:
        generator = seeded_generator("cpu", seed, Stream.SCREENING)
        rows = rows.at(torch.randperm(len(rows), generator=generator)[:MOST_ROWS])
    assert rows.conditions is not None
    each = independence_p_values(rows.points, rows.conditions)
    least = (each.min(dim=1).values * each.shape[1]).clamp_max(1)
    if least.max() <= FALSE_SHARE:
        return []  # the procedure then finds all
    from scipy.stats import false_discovery_control  # takes most of a second to import

    telling = false_discovery_control(least.numpy()) <= FALSE_SHARE
    return [] if telling.all() else telling.nonzero()[0].tolist()


FAR = 20.0
"""Distance, in standard deviations along a whitened axis, at which a row is far from all others."""
PILOT_STEPS, LONGER_STEPS, FINALISTS = 400, 1600, 3
"""Training steps in each space, more steps in the best spaces, and the number of best spaces.

First steps favor spaces that are easy to learn, such as powers of diamonds' columns, over those
that end better.
"""
TIMED_STEPS = 40
"""Training steps that are timed where the time is limited, and least number for a comparison."""
FEW_STEPS = 200
"""Training steps in each space for few rows with conditions.

The whole training takes 1,500 steps, and half as many distinguish spaces as well.
"""
MOST_NAMED = 12
"""Largest number of conditions named in a line of the log."""
MOST_CALIBRATED = 10_000
"""Largest number of rows for fitting a calibration.

The error of a slope is about one over the square root of this number.
"""


MOST_FITTED = 100_000
"""Largest number of rows that coordinates are fitted to, besides the extremes of columns.

The error of a mean is then 0.3 % of the standard deviation, and the network corrects it.
"""


def places_for_fits(rows: Rows) -> Tensor | slice:
    """Return the indices of rows that represent all: all rows, or evenly many of a large table.

    The rows with the smallest and the largest value of each column are among them.
    """
    if len(rows) <= MOST_FITTED:
        return slice(None)
    extremes = [
        place
        for values in (rows.points, rows.conditions)
        for column in (() if values is None else values.T)
        for place in (
            column.nan_to_num(torch.inf).argmin(),
            column.nan_to_num(-torch.inf).argmax(),
        )
    ]
    evenly = torch.arange(0, len(rows), -(-len(rows) // MOST_FITTED))
    return torch.unique(torch.cat([evenly, torch.stack(extremes)]))


@dataclass(frozen=True)
class Space:
    """Coordinates of a table for a flow.

    Attributes:
        marginals: Marginal map of columns, a name in ``MARGINALS``.
        whiten: Whitening of columns, a name in ``WHITENINGS``.
        linear_start: Whether the best linear prediction from conditions is subtracted first, a name
            in ``LINEAR_STARTS``.
        bounded: Treatment of columns with bounds, a name in ``BOUNDED``: mapped to the line, or
            unchanged, with posterior draws outside the bounds rejected.
        cond_screen: Whether conditions on which no column depends are left out, a name in
            ``COND_SCREENS``.
    """

    marginals: str
    whiten: str
    linear_start: str = "off"
    bounded: str = "map"
    cond_screen: str = "off"

    @classmethod
    def of(cls, chosen: Mapping[str, Any]) -> "Space":
        """Return coordinates from the record of a run.

        Raises:
            DataError: A name is missing or unknown.
        """
        known: dict[str, Sequence[str]] = {
            "marginals": (*MARGINALS, LOG, AXES_TOO),
            "whiten": WHITENINGS,
            "linear_start": LINEAR_STARTS,
            "bounded": BOUNDED,
            "cond_screen": COND_SCREENS,
        }
        for name, names in known.items():
            if chosen.get(name) not in names:
                raise DataError(f"the record of the run has no valid '{name}': start a new run")
        return cls(**{name: chosen[name] for name in known})

    def __str__(self) -> str:
        starts = {"on": ", linear start", "mean": ", mean start", "gaussian": ", Gaussian start"}
        start = starts.get(self.linear_start, "")
        left = ", bounds left alone" if self.bounded == "reject" else ""
        some = ", conditions screened" if self.cond_screen == "on" else ""
        return f"marginals {self.marginals}, whitening {self.whiten}{start}{left}{some}"


@dataclass(frozen=True)
class Preparation:
    """A table and its training, independent of the coordinates.

    Attributes:
        table: Table.
        model_config: Configuration of the model to build.
        recipe: Recipe of the training.
        device: Device of the training.
        likelihood: Whether points are data, given parameters.
        of_sets: Whether the conditions are sets of trials.
        seconds: Seconds for each comparison of coordinates; None for no limit.
    """

    table: DataTable
    model_config: ModelConfig
    recipe: Recipe
    device: torch.device
    likelihood: bool = False
    of_sets: bool = False
    seconds: float | None = None

    @cached_property
    def relevant(self) -> list[int]:
        """Indices of the relevant conditions; empty if all conditions are relevant, or none is."""
        return relevant_conditions(self.table.train_rows, self.recipe.seed)

    @property
    def quick(self) -> "Preparation":
        """Preparation for comparisons, whose network reads raw data by summary statistics alone."""
        arguments = self.model_config.network_arguments
        raw = arguments.get("raw")
        if raw is None or not raw["summaries"]:
            return self
        own = {**arguments, "raw": {**raw, "learned": 0}}
        return replace(self, model_config=replace(self.model_config, network_arguments=own))

    @cached_property
    def fitted(self) -> Tensor | slice:
        """Indices of the training rows that coordinates are fitted to."""
        return places_for_fits(self.table.train_rows)

    @cached_property
    def levels(self) -> Levels | None:
        """Categories of a trial's data, for a likelihood; None if the data has other columns."""
        return self.table.levels if self.likelihood else None

    @cached_property
    def coordinates(self) -> Callable[[Space], Coordinates]:
        """Function that returns the coordinates of a ``Space``, fitted to the training rows."""
        return cache(self._fit)

    def _fit(self, space: Space) -> Coordinates:
        generator = seeded_generator("cpu", self.recipe.seed, Stream.DEQUANTIZATION)
        rows = self._some_trials(self.table.train_rows.at(self.fitted), generator)
        datasets = self._datasets
        points = dither(rows.points, self.table.steps, generator)
        return fit_coordinates(
            points,
            self.table,
            space.marginals,
            space.whiten,
            rows.conditions,
            space.linear_start,
            space.bounded == "map",
            self.relevant if space.cond_screen == "on" else (),
            self.levels,
            None if datasets is None else datasets[self.fitted],
            self.table.condition_dim if self.of_sets else 0,
            None if self.table.raw is None else self.table.raw.plain,
        )

    def learn_levels(self, coordinates: Coordinates) -> None:
        """Fit the distribution of categories, if the data of a trial has numbers and categories."""
        table, given = self.table, self.table.rows.conditions
        conditions = table.train_rows.conditions
        count = sum(column.type == CATEGORY for column in table.condition_columns)
        if given is None or conditions is None or not count:
            return
        first = -count
        levels = Levels.from_values(table.conditions_schema.steps[first:], given[:, first:])
        distribution = coordinates.know_levels(levels.counts)
        distribution.hold(first=levels.first, step=levels.steps)
        labels = coordinates.given(conditions).labels
        assert labels is not None
        fit_levels(distribution, labels[:, :first], conditions[:, first:], self._datasets)

    @property
    def _datasets(self) -> Tensor | None:
        """Datasets of the training rows, if trials with other covariates share a dataset."""
        table = self.table
        if table.datasets is None or not table.covariates:
            return None
        return torch.from_numpy(table.datasets[~table.held_out])

    def _some_trials(self, rows: Rows, generator: torch.Generator) -> Rows:
        """Return rows with random subsets of the trials in each set as conditions.

        The posterior given a subset is simulated as well as that given all trials.
        """
        if not self.of_sets or rows.conditions is None:
            return rows
        some = thinned(rows.conditions, self.table.condition_dim, generator)
        return replace(rows, conditions=some)

    def describe_far_rows(self, coordinates: Coordinates, space: Space) -> str | None:
        """Describe rows whose density in these coordinates would be near 0; None if there are none.

        On diamonds, a few such rows among 8,000 reduced the mean log density by up to 3 nats.
        """
        if space.whiten == "none":
            return None
        each = (
            coordinates.given(rows.conditions).to_flow(rows.points).abs().amax(dim=1)
            for rows in self.table.train_rows.blocks()
        )
        farthest = torch.cat([*each])
        far = int((farthest > FAR).sum())
        where = f"up to {float(farthest.max()):.0f} standard deviations from the others"
        return f"{far} row(s) are {where} along a whitened axis: check them" if far else None

    def build(self, coordinates: Coordinates) -> tuple[TrainedNetwork, DenoisingLoss]:
        """Return an untrained model in these coordinates, on the device, and its loss."""
        rows = self.table.train_rows.at(self.fitted)
        basis = basis_in(coordinates.given(rows.conditions), rows.points)
        choices = self.model_config
        if coordinates.relevant:
            seen = {**choices.network_arguments, "label_dim": coordinates.label_dim}
            choices = replace(choices, network_arguments=seen)
        model, loss = choices.build(basis)
        model.denoiser.to(self.device)
        return replace(model, coordinates=coordinates), loss

    def held_out(self, coordinates: Coordinates, loss: DenoisingLoss) -> HeldOut | None:
        """Return the evaluation of a model on held-out rows; None without held-out rows."""
        rows = self.table.held_out_rows
        if not len(rows):
            return None
        generator = seeded_generator("cpu", self.recipe.seed, Stream.HELD_OUT)
        given = coordinates.given(rows.conditions)
        points, log_det = given(given.dequantized(rows.points, generator))
        embedded = self.table.raw is not None
        return HeldOut.of_rows(points, log_det, loss, self.recipe.seed, given.labels, embedded)

    def source(self, coordinates: Coordinates) -> TableBatches:
        """Return batches of the training rows."""
        rows, recipe = self.table.train_rows, self.recipe

        def in_flow(rows: Rows, generator: torch.Generator) -> Batch:
            whole: Batch | None = None
            start = 0
            for block in self._some_trials(rows, generator).blocks():
                points, labels, *_ = self.placed(coordinates, block, generator)
                if whole is None:
                    whole = self._space_for(len(rows), points, labels)
                place = slice(start, start + len(points))
                whole.points[place] = points
                if whole.labels is not None and labels is not None:
                    whole.labels[place] = labels
                start += len(points)
            assert whole is not None
            return whole

        return TableBatches(rows, in_flow, self.draws(coordinates), recipe.batch, recipe.seed)

    def _space_for(self, count: int, points: Tensor, labels: Tensor | None) -> Batch:
        """Return an empty batch of ``count`` rows like some others, on the device."""
        made = points.new_empty((count, points.shape[1]), device=self.device)
        if labels is None:
            return Batch(made)
        shape = (count, labels.shape[1])
        return Batch(made, torch.empty(shape, dtype=torch.float32, device=self.device))

    def draws(self, coordinates: Coordinates) -> bool:
        """Return whether the network's input changes from epoch to epoch."""
        return self.of_sets or bool((coordinates.steps > 0).any())

    def calibration(self, coordinates: Coordinates) -> CalibrationPlan:
        """Return the plan for calibrating the trained model.

        Held-out rows are used if there are any.
        """
        seed, rows, kind = self.recipe.seed, self.table.held_out_rows, "held-out rows"
        if not len(rows):
            rows, kind = self.table.train_rows, "training rows, because none are held out"

        def points() -> Batch:
            generator = seeded_generator("cpu", seed, Stream.CALIBRATION_POINTS)
            chosen = torch.randperm(len(rows), generator=generator)[:MOST_CALIBRATED]
            logger.info(f"The calibration is fitted to {len(chosen)} {kind}")
            mine = chosen[distributed.shard(len(chosen))]
            return self.placed(coordinates, rows.at(mine), generator)

        return CalibrationPlan(points, min(len(rows), MOST_CALIBRATED), seed, "gain")

    def distribution(self, coordinates: Coordinates) -> LatentPlan:
        """Return the plan for learning the distribution of the trained model's latents."""
        table, recipe = self.table, self.recipe
        count = points_to_inflate(recipe.samples)
        rows = table.train_rows, table.held_out_rows
        return rows_to_inflate(*rows, coordinates, recipe.seed, count, self.placed)

    def placed(self, coordinates: Coordinates, rows: Rows, generator: torch.Generator) -> Batch:
        """Convert rows to the network's input with the function ``placed``."""
        return placed(coordinates, rows, generator)

    def pilot(self, space: Space, steps: int) -> float:
        """Return the held-out log density, nats per row, after at most ``steps`` training steps."""
        coordinates = self.coordinates(space)
        steps = min(steps, self.recipe.steps)
        shorter = replace(
            self, recipe=replace(self.recipe, duration=steps * self.recipe.batch / 1e6)
        )
        model, held_out = shorter.trained(coordinates)
        nats = held_out.score(model).nats
        assert nats is not None
        return nats

    def trained(
        self, coordinates: Coordinates, patience: int | None = None
    ) -> tuple[TrainedNetwork, HeldOut]:
        """Train a model as a run does, but without files.

        Args:
            coordinates: Coordinates of the flow.
            patience: Number of reports without a better held-out score that ends the training. The
                model then has the weights that scored best. None to train all steps and keep the
                last weights.

        Returns:
            The model with averaged weights, and the held-out rows.
        """
        model, loss = self.build(coordinates)
        recipe, held_out = self.recipe, self.held_out(coordinates, loss)
        assert held_out is not None
        watch = None if patience is None else Validation(held_out, True, patience)
        trainer, means = Trainer(model, loss, recipe), RunningMeans(self.device)
        for batch in islice(self.source(coordinates).batches(0), recipe.steps):
            trainer.train_step(batch, means)
            due = recipe.is_reported(trainer.seen) or trainer.step == recipe.steps
            if watch and due:
                watch.look(trainer.averaged, trainer.seen)
                if watch.exhausted:
                    break
        if watch:
            watch.put_best(trainer.averaged)
        return trainer.averaged, held_out


def placed(coordinates: Coordinates, rows: Rows, generator: torch.Generator) -> Batch:
    """Convert rows to dequantized points in flow space and to the network's condition inputs."""
    given = coordinates.given(rows.conditions)
    return Batch(given.to_flow(given.dequantized(rows.points, generator)), given.labels)


def rows_to_inflate(
    train: Rows,
    held_out: Rows,
    coordinates: Coordinates,
    seed: int,
    count: int,
    place: Callable[[Coordinates, Rows, torch.Generator], Batch] = placed,
) -> LatentPlan:
    """Return the plan for learning the distribution of latents from rows of a table.

    Args:
        train: Training rows.
        held_out: Rows for validation, possibly none.
        coordinates: Coordinates of the flow.
        seed: Random seed.
        count: Number of rows to inflate; rows repeat with other noise if there are fewer.
        place: Function that converts rows to the network's input, like ``placed``.
    """

    def points(rows: Rows, index: int, wanted: int) -> Batch:
        generator = seeded_generator("cpu", seed, Stream.MELTED_POINTS, index)
        order = torch.randperm(len(rows), generator=generator)
        if not index:  # each validation row is used once, so that their number is right
            order = order.repeat(-(-wanted // len(rows)))
        chosen, device = rows.at(order[:wanted]), coordinates.steps.device
        chosen = Rows(chosen.points.to(device), chosen.conditions)
        points, labels, *_ = place(coordinates, chosen, generator)
        return Batch(points.cpu(), labels)

    judged = partial(points, held_out, 1) if len(held_out) else None
    return LatentPlan(partial(points, train, 0), judged, count, seed, NETWORK_ROWS)


def choose_space(preparation: Preparation, wanted: Space) -> Space:
    """Return the requested coordinates of a table; choices left open are made on held-out rows.

    Args:
        preparation: Table and training.
        wanted: Requested names, in which ``auto`` leaves the choice open. For ``marginals``,
            ``auto`` prefers ``ranks-axes`` over ``ranks`` if rows are far from all others.
            For ``whiten``, it uses ``none`` for flows that compress, because these depend on the
            directions. For ``cond_screen``, both values are tried in the best space; the result is
            ``off`` if all conditions are relevant, or none is. A table without conditions has no
            linear start, and its bounds are mapped.
    """
    conditional = preparation.table.conditions is not None
    cond_screen = wanted.cond_screen
    if preparation.likelihood and cond_screen == AUTO:
        cond_screen = "off"  # parameters that move no mean are hardly detected, but matter
    screen = _screened(preparation, cond_screen) if conditional else "off"
    spaces = [
        replace(space, cond_screen="off" if screen == "off" else "on")
        for space in _candidates(preparation, wanted)
    ]
    if not len(preparation.table.held_out_rows) or (len(spaces) == 1 and screen != AUTO):
        return spaces[0]
    many = len(preparation.table.train_rows) >= FEW_ROWS
    steps = PILOT_STEPS if many or not conditional else FEW_STEPS
    best = _tried(preparation, spaces, steps) if len(spaces) > 1 else spaces
    # With few rows, a longer training without early stopping overfits. Starts and bounds differ by
    # more, and trainings on simulations are short.
    if many and len(spaces) > FINALISTS and not conditional:
        best = _tried(preparation, best[:FINALISTS], LONGER_STEPS)
    if screen == AUTO:
        best = _tried(preparation, [best[0], replace(best[0], cond_screen="off")], steps)
    chosen = best[0]
    if wanted.marginals == AUTO and chosen.marginals == RANKS:
        far = preparation.describe_far_rows(preparation.coordinates(chosen), chosen)
        if far:
            logger.info(f"  {far}; splines along the axes draw them in")
            chosen = replace(chosen, marginals=AXES_TOO)
    logger.info(f"Chosen: {chosen}")
    return chosen


def _candidates(preparation: Preparation, wanted: Space) -> list[Space]:
    """Return all candidates that are left open, except for the screening of conditions."""
    if preparation.levels:  # their probabilities describe them completely
        return [_of_levels(preparation, wanted)]
    table, marginals, whiten = preparation.table, wanted.marginals, wanted.whiten
    all_kept = preparation.model_config.inflation.get("dims_to_keep", table.dim) >= table.dim
    whitenings: Sequence[str] = [whiten]
    if whiten == AUTO:
        whitenings = ["zca", "pca"] if all_kept else ["none"]
    candidates: Sequence[str] = [marginals] if marginals != AUTO else MARGINALS
    starts = [wanted.linear_start]
    if wanted.linear_start == AUTO:
        starts = ["gaussian", "mean", "on"] if preparation.likelihood else ["on", "off"]
    limited = bool((table.low.isfinite() | table.high.isfinite()).any())
    bounds = [wanted.bounded]
    if wanted.bounded == AUTO:
        bounds = ["map", "reject"] if limited else ["map"]
    if table.conditions is None:
        starts, bounds = ["off"], ["map"]
    elif all_kept:
        # The distribution of points given conditions is not the marginal one, which a spline of the
        # columns would distort. The residuals of the prediction are whitened in any case.
        half = table.steps / 2
        positive = over_decades(table.train_rows.points - half)
        positive &= (table.points - half > 0).all(dim=0)  # also in held-out rows
        wide = [name for name, each in zip(table.names, positive, strict=True) if each]
        if wide and marginals == AUTO:
            names = ", ".join(wide[:MOST_NAMED])
            logger.info(f"Positive over three decades or more: {names}; the log transform is tried")
        if marginals == AUTO:
            candidates = [LOG, "none"] if wide else ["none"]
        whitenings = ["zca"] if whiten == AUTO else whitenings
    return [Space(*each) for each in product(candidates, whitenings, starts, bounds)]


def _of_levels(preparation: Preparation, wanted: Space) -> Space:
    """Return the coordinates of data that are all categories.

    Raises:
        UsageError: Others are requested.
    """
    kept, dim = preparation.model_config.inflation.get("dims_to_keep"), preparation.table.dim
    own = Space("none", "none")
    if wanted.marginals not in (AUTO, own.marginals) or kept not in (None, dim):
        raise UsageError(
            "a table with category data only has probabilities but no coordinates: leave "
            "--marginals and --dims_to_keep out"
        )
    return own


def _screened(preparation: Preparation, cond_screen: str) -> str:
    """Return the possible result of screening: ``off`` if it leaves no condition out."""
    if cond_screen == "off":
        return "off"
    names = preparation.table.condition_names
    telling = [names[place] for place in preparation.relevant]
    if not telling:
        return "off"
    shown = ", ".join([*telling[:MOST_NAMED], *["..."] * (len(telling) > MOST_NAMED)])
    logger.info(f"Informative conditions: {len(telling)} of {len(names)}, {shown}")
    return cond_screen


def _tried(preparation: Preparation, spaces: Sequence[Space], steps: int) -> list[Space]:
    """Return the spaces, best first, or in the given order if there is no time to compare them."""
    if preparation.seconds is not None:
        began = monotonic()
        preparation.pilot(spaces[0], TIMED_STEPS)
        spent = slowest(monotonic() - began, preparation.device)
        fitting = int(TIMED_STEPS * preparation.seconds / (len(spaces) * spent))
        if fitting < TIMED_STEPS:
            logger.info(
                f"Not comparing {len(spaces)} coordinate systems of the columns: it would take "
                f"more than {preparation.seconds:.0f} s"
            )
            return list(spaces)
        steps = min(steps, fitting)
    logger.info(
        f"Comparing {len(spaces)} coordinate systems of the columns with {steps} "
        "training steps each"
    )
    nats = {}
    for space in spaces:
        nats[space] = preparation.pilot(space, steps)
        logger.info(f"  {space}: {nats[space]:.3f} nats on validation rows")
    return sorted(spaces, key=lambda space: nats[space], reverse=True)


def kept_dimensions(wanted: int | str | None, table: DataTable) -> int:
    """Return the number of dimensions to keep for a table.

    Args:
        wanted: Requested number; None for all; ``auto`` for the participation ratio of the
            standardized columns.
        table: Table.
    """
    if wanted != AUTO:
        return table.dim if wanted is None else int(wanted)
    rows = table.train_rows
    points = rows.points[places_for_fits(rows)]
    basis = basis_in(fit_coordinates(points, table, "none", "none"), points)
    return max(1, round(basis.participation_ratio))
