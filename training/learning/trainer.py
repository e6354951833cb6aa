"""Trainer: the state of a training and its steps, the same for toys, tables and images.

Every random number of a step is a function of (seed, step) and of its place in the whole batch,
which the ranks share. A resumed run therefore equals an uninterrupted one bit for bit, and any
number of ranks and microbatches gives the result of one rank up to the order of summation.

Safeguards for finite numbers in training: a loss scale in float16, and skipped steps.

The loss scale, which keeps gradients from vanishing (Micikevicius et al. 2018, arXiv 1710.03740,
section 3.2), is that of PyTorch's ``GradScaler``. The device counts the steps that are skipped
because their gradients are not finite. The host does not wait for it, and reads the count only as
often as needed to detect a run of skipped steps that is too long.
"""

import copy
import inspect
import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dnnlib.errors import DataError, TrainingError
from torch_utils import distributed
from torch_utils.inert_pickle import shown
from torch_utils.seeds import hash_seed, seed_layers, seeded_generator
from torch_utils.snapshots import first_line, tensors_of
from torch_utils.stats import RunningMeans
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.flow.denoisers import NetworkDenoiser
from training.learning.loss import (
    LOT_BITS,
    DenoisingLoss,
    NoiseDraws,
    OtherPoints,
    OthersOfBatch,
    informative_axis,
)
from training.learning.soap import Soap, moments_of
from training.names import SOAP
from training.recipes import Recipe
from training.trained.network import TrainedNetwork

START = 2.0**16
"""First loss scale in float16."""
MAX_SKIPPED_IN_A_ROW = 20


class SkippedSteps:
    """Counter of skipped training steps, in total and in the latest unbroken sequence."""

    def __init__(self, device: torch.device):
        self._device = device
        self.restore(0, 0)

    def restore(self, total: int, in_a_row: int) -> None:
        """Restore the counts returned by ``read``.

        Args:
            total: Total number of skipped steps.
            in_a_row: Number of consecutive skipped steps up to now.
        """
        self._total = torch.full((), total, device=self._device)
        self._in_a_row = torch.full((), in_a_row, device=self._device)
        self._until_look = MAX_SKIPPED_IN_A_ROW - in_a_row

    def add(self, skipped: Tensor) -> None:
        """Count a step, without waiting for the device.

        Args:
            skipped: Whether the step was skipped ``[]``, bool.
        """
        self._total = self._total + skipped
        self._in_a_row = (self._in_a_row + 1) * skipped
        self._until_look -= 1

    def read(self) -> tuple[int, int]:
        """Return the number of skipped steps in total, and in the latest unbroken sequence.

        The call waits until the device has finished.
        """
        total, in_a_row = torch.stack([self._total, self._in_a_row]).tolist()
        return total, in_a_row

    def require_few_in_a_row(self, seen: int) -> None:
        """Check that few consecutive steps were skipped up to now, after ``seen`` samples.

        Raises:
            TrainingError: Too many consecutive steps were skipped.
        """
        if self._until_look > 0:
            return
        _, in_a_row = self.read()
        self._until_look = MAX_SKIPPED_IN_A_ROW - in_a_row
        if in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the loss or its gradient was not finite in {in_a_row} consecutive "
                f"steps, up to {seen} samples: lower --lr, and check that the data are "
                "finite"
            )


# Names in a state for the network and the output gain of a denoiser: trained and averaged.
TRAINED = ("network", "output_gain")
AVERAGED = ("averaged", "averaged_output_gain")
LOSS_SCALE = "loss_scale"
COORDINATES = "coordinates"
"""Name in a state for the coordinates of a table: a resumed run loads them, and does not fit them
again.
"""


# Gradients are not copied to and from communication buffers. Buffers do not change, and are the
# same on all ranks; newer versions of torch call this option forward_sync_buffers, and warn about
# the older name. A static graph would save nothing where all weights are used, and fails with
# microbatches.
_parameters = inspect.signature(DistributedDataParallel).parameters
BETWEEN_RANKS: dict[str, Any] = {
    "gradient_as_bucket_view": True,
    "forward_sync_buffers" if "forward_sync_buffers" in _parameters else "broadcast_buffers": False,
}


def optimizer_of(weights: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Create the optimizer of a training."""
    if recipe.optimizer == SOAP:
        return Soap(weights, recipe.lr, weight_decay=recipe.weight_decay)
    adam: dict[str, Any] = {"lr": recipe.lr, "betas": (0.9, 0.999), "fused": True}
    if recipe.weight_decay:
        return torch.optim.AdamW(weights, **adam, weight_decay=recipe.weight_decay)
    return torch.optim.Adam(weights, **adam)


class Trainer:
    """State of a training, with methods to take training steps."""

    def __init__(self, model: TrainedNetwork, loss: DenoisingLoss, recipe: Recipe):
        self.loss, self.recipe = loss, recipe
        self.denoiser = model.denoiser.train().requires_grad_(True)
        self.device = next(self.denoiser.parameters()).device
        averaged = copy.deepcopy(self.denoiser).eval().requires_grad_(False)
        self.averaged = replace(model, denoiser=averaged)
        # Collecting the parameters of a network takes as long as a computation with a small one.
        self._weights: list[Tensor] = list(self.denoiser.parameters())
        self._averages: list[Tensor] = list(averaged.parameters())
        self.optimizer = optimizer_of(self._weights, recipe)
        self.regression = self.over_ranks(loss.regression(self.denoiser))
        self._others: tuple[Tensor, OtherPoints] | None = None
        self.step = 0
        self.skips = SkippedSteps(self.device)
        adapts = self.denoiser.precision == "fp16"
        scale = START * recipe.ls if adapts else recipe.ls
        self.scaler = torch.amp.GradScaler(self.device.type, scale, enabled=scale != 1)

    def over_ranks(self, regression: nn.Module) -> nn.Module:
        """Wrap the regression so that gradients are averaged over the ranks.

        With one rank, the regression is returned unchanged.
        """
        if distributed.world_size() == 1:
            return regression
        return DistributedDataParallel(regression, **BETWEEN_RANKS)

    @cached_property
    def axis(self) -> int:
        """Index of the axis along which averaged targets search for near points."""
        return informative_axis(self.denoiser.basis, self.denoiser.schedule, self.loss.t_max)

    @property
    def seen(self) -> int:
        """Number of samples trained on so far."""
        return self.step * self.recipe.batch

    @property
    def skipped(self) -> int:
        """Number of steps so far with a non-finite loss or gradient.

        Reading the number waits until the device has finished.
        """
        return self.skips.read()[0]

    def train_step(self, batch: Batch, means: RunningMeans) -> None:
        """Take one training step on a batch; skip the step if the loss or gradient is not finite.

        The host does not wait for the device to detect skipped steps (``SkippedSteps``). The
        averaged weights are updated in any case, since their decay depends on the number of
        samples.

        Raises:
            TrainingError: Too many steps in a row were not finite.
        """
        recipe = self.recipe
        seed = hash_seed(recipe.seed, Stream.NETWORK, self.step, distributed.rank())
        seed_layers(self.device, seed)
        self.accumulate(batch, self.draw(batch.points.dtype), means)
        self.scaler.unscale_(self.optimizer)
        norm = self.gradient_norm()
        finite = norm.isfinite()
        self.step += 1
        self.optimizer_step(finite)
        self.update_average()
        means.add("Gradient/norm", norm, finite)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update()
        self.skips.add(~finite)
        self.skips.require_few_in_a_row(self.seen)

    def draw(self, dtype: torch.dtype) -> NoiseDraws:
        """Draw the times and the noise of this rank's samples in the present step.

        Args:
            dtype: Data type of the noise.
        """
        recipe = self.recipe
        mine, keys = distributed.shard(recipe.batch), (recipe.seed, Stream.LOSS, self.step)
        return self.loss.draw_rows(
            mine, recipe.batch, dtype, self.device, keys, antithetic=recipe.antithetic
        )

    def accumulate(self, batch: Batch, draws: NoiseDraws, means: RunningMeans) -> None:
        """Add the gradient of the mean loss over the whole batch, microbatch by microbatch."""
        recipe = self.recipe
        points = batch.points.to(self.device)
        # The rotation needs float64: an axis may have a millionth of the variance of another. The
        # rest is in the precision of the points: float32 for pixels, float64 for all else.
        clean = self.denoiser.basis.to_eigen(points).to(points.dtype)
        others = None if batch.others is None else self.dealt(batch.others)
        conditions = batch.conditions(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(self.seen)
        size = recipe.batch_gpu or len(clean)
        starts = range(0, len(clean), size)
        for start in starts:
            part = slice(start, start + size)
            with (
                # Only the last microbatch averages the gradients over ranks.
                self.regression.no_sync()
                if isinstance(self.regression, DistributedDataParallel) and start != starts[-1]
                else nullcontext()
            ):
                losses = self.add_gradient(
                    clean[part],
                    draws.of_rows(part),
                    {name: values[part] for name, values in conditions.items()},
                    None if others is None else others.of_rows(part),
                )
            means.add("Loss/loss", losses)

    def dealt(self, points: Tensor) -> OthersOfBatch:
        """Return an index of further points for averaging targets, with this step's random choices.

        The index of the last step is reused if the points are the same.

        Args:
            points: Further points ``[R, D]`` of the distribution, in image space.
        """
        recipe = self.recipe
        if self._others is None or self._others[0] is not points:
            clean = self.denoiser.basis.to_eigen(points.to(self.device)).to(points.dtype)
            self._others = points, OtherPoints.from_points(clean, self.axis)
        generator = seeded_generator(self.device, recipe.seed, Stream.LOTS, self.step)
        lots = torch.randint(
            1 << LOT_BITS, (recipe.batch,), generator=generator, device=self.device
        )
        return OthersOfBatch(self._others[1], lots[distributed.shard(recipe.batch)])

    def add_gradient(
        self,
        clean: Tensor,
        draws: NoiseDraws,
        conditions: Mapping[str, Tensor],
        others: OthersOfBatch | None = None,
    ) -> Tensor:
        """Add the gradient of some samples, and return their losses ``[b]``, detached.

        Args:
            clean: Clean points ``[b, D]`` in eigenspace.
            draws: Times and noise of the samples.
            conditions: Other inputs of the network, such as ``labels [b, L]``.
            others: Further points for averaging targets; None for none.
        """
        losses = self.loss.per_sample(self.regression, clean, draws, conditions, others)
        loss = losses.sum()
        # DistributedDataParallel averages over ranks; the batch mean needs a sum.
        factor = distributed.world_size() / self.recipe.batch
        # The square of a large error can overflow where its gradient does not. A non-finite
        # gradient makes all ranks aware of it.
        weight = torch.where(loss.isfinite(), factor, math.nan)
        torch.autograd.backward(self.scaler.scale(loss), weight)
        return losses.detach()

    def gradient_norm(self) -> Tensor:
        """Return the norm ``[]`` of the whole gradient, which is no longer scaled."""
        gradients = [p.grad for p in self._weights if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def optimizer_step(self, finite: Tensor) -> None:
        """Take an optimizer step, unless the gradient is not finite.

        The optimizer checks this on the device, by an attribute that PyTorch's gradient scaler uses
        to communicate with a fused optimizer.

        Args:
            finite: Whether the gradient is finite ``[]``, bool.
        """
        optimizer: Any = self.optimizer
        optimizer.found_inf = (~finite).float()
        optimizer.step()

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the present weights by the decay of this step."""
        decay = self.recipe.ema_decay(self.seen)
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as tensors and plain values."""
        averaged, coordinates = self.averaged.denoiser, self.averaged.coordinates
        skipped, in_a_row = self.skips.read()
        return {
            "step": self.step,
            "skipped": skipped,
            "skipped_in_a_row": in_a_row,
            "basis": self.denoiser.basis.state_dict(),
            "data_variance": self.denoiser.data_variance,
            **{name: part.state_dict() for name, part in _trained(self.denoiser, TRAINED)},
            **{name: part.state_dict() for name, part in _trained(averaged, AVERAGED)},
            "optimizer": self.optimizer.state_dict(),
            **({LOSS_SCALE: self.scaler.state_dict()} if self.scaler.is_enabled() else {}),
            **({COORDINATES: coordinates.state_dict()} if coordinates else {}),
        }

    def restore(self, state: dict[str, Any], source: str) -> None:
        """Restore a state returned by ``state``.

        Args:
            state: Training state.
            source: Name of the state in error messages.

        Raises:
            DataError: The state is incomplete, or belongs to another model.
        """
        try:
            for denoiser, names in ((self.denoiser, TRAINED), (self.averaged.denoiser, AVERAGED)):
                for name, part in _trained(denoiser, names):
                    part.load_state_dict(tensors_of(state, name))
            saved = _require_like(state.get("optimizer"), self.optimizer)
            self.optimizer.load_state_dict(saved)
            self.step = _count_in(state, "step")
            in_a_row = _count_in(state, "skipped_in_a_row")
            self.skips.restore(_count_in(state, "skipped"), in_a_row)
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(_scale_in(state.get(LOSS_SCALE)))
        except (ValueError, RuntimeError) as error:  # torch raises RuntimeError for other shapes
            raise DataError(
                f"{source} is not a state of this model: {first_line(error)}. Resume from another "
                "state"
            ) from error


def _trained(denoiser: NetworkDenoiser, names: tuple[str, str]) -> list[tuple[str, nn.Module]]:
    """Return the trained parts of a denoiser, with the names of its network and output gain."""
    parts = zip(names, (denoiser.network, denoiser.output_gain), strict=True)
    return [(name, part) for name, part in parts if part is not None]


def _count_in(state: dict[str, Any], name: str) -> int:
    count = state.get(name)
    if not isinstance(count, int) or not 0 <= count < 1 << 53:
        raise ValueError(
            f"the entry '{name}' is {shown(count)}, expected a whole number that is not negative"
        )
    return count


def _scale_in(saved: object) -> dict[str, Any]:
    """Return the state of a loss scale, after a check.

    Raises:
        ValueError: It is not such a state.
    """
    match saved:
        case {
            "scale": float(scale),
            "growth_factor": float(),
            "backoff_factor": float(),
            "growth_interval": int(),
            "_growth_tracker": int(steps),
        } if scale > 0 and steps >= 0 and isinstance(saved, dict):
            return saved
    raise ValueError("the entry 'loss_scale' is not the state of a loss scale")


def _require_like(saved: object, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer, after a check.

    PyTorch accepts any state, and fails, or aborts, in the step that follows.

    Raises:
        ValueError: It is not a state of this optimizer.
    """
    groups, known = (
        (saved.get("param_groups"), saved.get("state")) if isinstance(saved, dict) else (None, None)
    )
    if not (isinstance(saved, dict) and isinstance(groups, list) and isinstance(known, dict)):
        raise ValueError("the file has no state of an optimizer")
    if not all(isinstance(entry, dict) for entry in (*groups, *known.values())):
        raise ValueError("the state of the optimizer has entries that are not dictionaries")
    own = optimizer.state_dict()["param_groups"]
    kinds = [{name: type(value) for name, value in group.items()} for group in own]
    if [{name: type(value) for name, value in group.items()} for group in groups] != kinds:
        raise ValueError("the settings of the stored optimizer are of another kind of optimizer")
    pairs = zip(groups, own, strict=True)
    if any(one[name] != other[name] for one, other in pairs for name in other if name != "lr"):
        raise ValueError(
            "the settings of the stored optimizer differ from the settings of this run"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in known.items():
        if index not in range(len(parameters)):
            raise ValueError(f"the file has moments of an unknown parameter, {shown(index)}")
        shape = parameters[index].shape
        adam = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
        wanted = moments_of(shape) if isinstance(optimizer, Soap) else adam
        if {name: _shape_of(value) for name, value in moments.items()} != wanted:
            raise ValueError(f"the moments of parameter {index} do not match its shape")
    return saved


def _shape_of(value: object) -> object:
    """Return the shape of a tensor, or of each in a list."""
    return [*map(_shape_of, value)] if isinstance(value, list) else getattr(value, "shape", None)
