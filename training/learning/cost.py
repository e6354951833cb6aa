"""Cost of a training step, and choices that make it faster on this machine.

Estimated cost of a training step, computed on tensors that have shapes but no values.

The step is the trainer's own, run in PyTorch's ``FakeTensorMode``, which needs no GPU, hardly any
memory and little time. Tensors are counted while they are alive: weights, averages, gradients, the
moments of Adam, bases, the batch, and activations that wait for the backward pass.

Not counted are the context of CUDA, workspaces of cuDNN and other kernels, fragmentation of the
allocator, augmentation, points that targets are averaged over, the buckets of several ranks, and
what ``torch.compile`` saves.

Choices that make a training faster on this machine: precision and compilation.

The precision is chosen by a short trial.

Processors with matrix units for bfloat16 train about three times as fast in it. On others the loss
of digits brings hardly any gain, or bfloat16 is slower.
"""

import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import mean
from time import process_time
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.live_memory import LiveMemory
from torch_utils.snapshots import first_line
from torch_utils.stats import RunningMeans
from training.data.batches import BatchSource
from training.learning.held_out import Validation
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.learning.trainer import Trainer, TrainingConfig
from training.model.trained_network import TrainedNetwork
from training.networks import NETWORKS, TOY_NETWORKS

USED = 0.75
"""Fraction of a GPU's memory that a step may take; the rest is left to what is not counted. On a
CPU, whose convolutions keep copies in layouts of their own, processes grew by 1.24 to 1.27 times
what is counted here.
"""
IN_SINGLE = (functional.group_norm, functional.layer_norm, functional.softmax, Tensor.softmax)
"""Functions that autocasting on CUDA, unlike on the CPU, computes in float32."""
Conditions = Mapping[str, Tensor]


@dataclass(frozen=True)
class StepCost:
    """Estimated cost of a training step on one rank.

    Attributes:
        parameters: Number of trained parameters.
        forward_flops: Floating-point operations per sample of the forward pass, for matrix
            products, convolutions and attention.
        flops: Floating-point operations per sample, including the backward pass.
        state_bytes: Bytes that stay between steps: weights, averages, moments and bases.
        peak_bytes: Peak memory of a step, in bytes.
        rows: Number of samples of this rank per step.
        batch_gpu: Number of samples processed at a time.
        precision: Precision of the network.
        card: Memory in GiB of a GPU that training should fill; None for no GPU.
        largest: Largest number of samples at a time that fits into the GPU; 0 if no sample fits.
    """

    parameters: int
    forward_flops: float
    flops: float
    state_bytes: int
    peak_bytes: int
    rows: int
    batch_gpu: int
    precision: str
    card: float | None = None
    largest: int | None = None

    def describe(self) -> str:
        """Return a description of the cost as text of one or two lines."""
        text = (
            f"Estimated cost of a step: {self.parameters:,} parameters, "
            f"{_flops(self.forward_flops)} per sample, {_flops(self.flops)} with the "
            f"backward pass, peak memory {_memory(self.peak_bytes)} for {self.batch_gpu} "
            f"samples at a time in {self.precision}; {_memory(self.state_bytes)} stay "
            "allocated between steps. Not counted: the CUDA context, workspaces of "
            "kernels, fragmentation"
        )
        if self.card is None:
            return text
        if not self.largest:
            fits = "not even one sample fits"
        elif self.largest == self.rows:
            fits = f"the whole batch fits: {self.rows} samples at a time"
        else:
            fits = f"at most --batch-gpu={self.largest} fits"
        return (
            f"{text}\nWith {self.card:g} GiB, a quarter of it reserved for what is not "
            f"counted, {fits}"
        )


def _memory(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def _flops(count: float) -> str:
    for factor, name in ((1e12, "TFLOP"), (1e9, "GFLOP")):
        if count >= factor:
            return f"{count / factor:.3g} {name}"
    return f"{count / 1e6:.3g} MFLOP"


class _Alone(Trainer):
    """Trainer that does not synchronize with other ranks."""

    def over_ranks(self, regression: nn.Module) -> nn.Module:
        return regression


class _Fake(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Mode of tensors with shapes but without values."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False to avoid importing the compiler, which takes seconds.

        Nothing is compiled.
        """
        return False


class _Calls(TorchFunctionMode):
    """Function calls that need special treatment for fake tensors, or for steps of a GPU."""

    def __init__(self, card: bool):
        super().__init__()
        self._card = card

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is Tensor.__deepcopy__:  # for a fake tensor, it would copy the whole mode
            tensor, known = args
            return known.setdefault(id(tensor), tensor.detach().clone())
        if self._card and func is functional.dropout and named.get("training", True):
            # The CUDA kernel keeps a mask of bytes, the CPU kernel one of floats.
            return torch.native_dropout(args[0], named["p"], True)[0]
        if self._card and func in IN_SINGLE and torch.is_autocast_enabled("cpu"):
            args = [_in_single(value) for value in args]
            named = {name: _in_single(value) for name, value in named.items()}
        return func(*args, **named)


def _in_single(value: Any) -> Any:
    lower = (torch.bfloat16, torch.float16)
    return value.float() if isinstance(value, Tensor) and value.dtype in lower else value


class PaperStep:
    """Simulated training step of one rank, on tensors without values.

    Args:
        model: The model; it is not changed.
        loss: The loss.
        config: Settings of the training.
        precision: Precision of the network.
        card: Whether to model a step on a GPU; otherwise on a CPU.
        fake: Whether tensors have no values; otherwise everything is computed, on the CPU.

    Attributes:
        parameters: Number of trained parameters.
        rows: Number of samples of the rank per step.
        state_bytes: Bytes that stay allocated between steps.
    """

    def __init__(
        self,
        model: TrainedNetwork,
        loss: DenoisingLoss,
        config: TrainingConfig,
        precision: str = "fp32",
        card: bool = False,
        fake: bool = True,
    ):
        self._batch_gpu, self._precision = config.batch_gpu, precision
        # Pixels come in single precision, other points in double.
        self._dtype = torch.float64 if model.recipe.network in TOY_NETWORKS else torch.float32
        self._memory, self._calls = LiveMemory(), _Calls(card)
        self._peaks: dict[int, int] = {}
        self._mode = _Fake(allow_non_fake_inputs=True) if fake else nullcontext()
        arguments = model.recipe.network_arguments
        sizes = {"labels": "label_dim", "augment_labels": "augment_dim"}
        self._conditions = {name: arguments.get(size) or 0 for name, size in sizes.items()}
        self.rows = len(range(config.batch)[distributed.shard(config.batch)])
        with self._mode, self._calls:
            denoiser = copy.deepcopy(model.denoiser)
            denoiser.precision = precision
        with self._on_paper():
            self.parameters = sum(weights.numel() for weights in denoiser.parameters())
            self._memory.count([*denoiser.parameters(), *denoiser.buffers()])
            self._trainer = _Alone(replace(model, denoiser=denoiser), loss, config)
            self._step(1, 1)  # Adam creates its moments in its first step
        self.state_bytes = self._memory.now

    def peak(self, batch_gpu: int) -> int:
        """Return the peak memory in bytes of a step with ``batch_gpu`` samples at a time."""
        if batch_gpu not in self._peaks:
            with self._on_paper():
                self._memory.restart()
                self._step(self.rows, batch_gpu)
            self._peaks[batch_gpu] = self._memory.peak
        return self._peaks[batch_gpu]

    def flops(self, rows: int = 2) -> tuple[float, float]:
        """Return the floating-point operations per sample, without and with the backward pass."""
        trainer = self._trainer
        with self._on_paper():
            _, part = self._samples(rows)
            with _flop_counter() as both:
                trainer.add_gradient(*part)
            trainer.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad(), _flop_counter() as forward:
                trainer.loss.per_sample(trainer.regression, *part)
        return forward.get_total_flops() / rows, both.get_total_flops() / rows

    def cost(self, card: float | None) -> StepCost:
        """Return the estimated cost of the step.

        Args:
            card: Memory in GiB of a GPU that training should fill; None for no GPU.
        """
        size = min(self._batch_gpu or self.rows, self.rows)
        room = None if card is None else int(card * USED * 2**30)
        return StepCost(
            self.parameters,
            *self.flops(),
            self.state_bytes,
            self.peak(size),
            self.rows,
            size,
            self._precision,
            card,
            None if room is None else largest_that_fits(self.peak, room, self.rows),
        )

    def seconds(self, rows: int) -> float:
        """Return the CPU seconds for the gradient of ``rows`` samples.

        Tensors must have values.
        """
        _, part = self._samples(rows)
        began = process_time()
        self._trainer.add_gradient(*part)
        taken = process_time() - began
        self._trainer.optimizer.zero_grad(set_to_none=True)
        return taken

    @contextmanager
    def _on_paper(self) -> Iterator[None]:
        with self._mode, self._calls, self._memory:
            yield

    def _samples(self, rows: int) -> tuple[Tensor, tuple[Tensor, NoiseDraws, Conditions]]:
        """Return the tensors of a rank in a step.

        Returns:
            The points; and these in eigenspace, their draws, and the conditions.
        """
        basis = self._trainer.denoiser.basis
        points = torch.zeros(rows, basis.dim, dtype=self._dtype)
        times = torch.full((rows,), self._trainer.loss.t_max, dtype=torch.float64)
        draws = NoiseDraws(times, torch.zeros(rows, basis.dim, dtype=self._dtype))
        wide = {name: width for name, width in self._conditions.items() if width}
        conditions = {name: torch.zeros(rows, width) for name, width in wide.items()}
        return points, (basis.to_eigen(points).to(self._dtype), draws, conditions)

    def _step(self, rows: int, batch_gpu: int) -> None:
        """Run a step.

        If it has more than two microbatches, run two: the second already finds gradients.
        """
        trainer, part = self._trainer, slice(batch_gpu)
        points, (clean, draws, conditions) = self._samples(rows)
        for _ in range(1 if batch_gpu >= rows else 2):
            named = {name: values[part] for name, values in conditions.items()}
            trainer.add_gradient(clean[part], draws.of_rows(part), named)
        trainer.optimizer_step(trainer.gradient_norm().isfinite())
        trainer.update_average()
        trainer.optimizer.zero_grad(set_to_none=True)
        del points  # a step keeps them to its end


def print_dry_run(
    record: Mapping[str, Any],
    model: TrainedNetwork,
    loss: DenoisingLoss,
    config: TrainingConfig,
    card: float | None,
    device_type: str,
) -> None:
    """Log the cost of a step, and the record of a run that is not started.

    The argument ``card`` is the memory in GiB of a GPU that training should fill, and that the cost
    refers to; None for no GPU.
    """
    on_card = card is not None or device_type == "cuda"
    cost = PaperStep(model, loss, config, model.denoiser.precision, on_card).cost(card)
    logger.info(cost.describe())
    logger.info(json.dumps({**record, "step": asdict(cost)}, indent=2, default=str))


def _flop_counter() -> FlopCounterMode:
    """Return a counter that also counts the CPU's attention."""

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]

    def backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(  # type: ignore[no-untyped-call]
            gradient, query, key, value
        )

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    known = {attention: forward, attention_backward: backward}
    return FlopCounterMode(display=False, custom_mapping=known)


def largest_that_fits(needed: Callable[[int], int], room: int, most: int) -> int:
    """Return the largest number of samples that fit into the available memory; 0 if none fits.

    Memory is nearly an affine function of the number, so the search interpolates linearly.

    Args:
        needed: Function from a number of samples to the memory in bytes.
        room: Available memory in bytes.
        most: Largest number of samples to return.
    """
    if needed(most) <= room:
        return most
    low, high = 1, most
    at_low, at_high = needed(low), needed(max(1, most - 1))
    if at_low > room:
        return 0
    while high - low > 1:
        share = (room - at_low) / max(at_high - at_low, 1)
        guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        size = needed(guess)
        if size <= room:
            low, at_low = guess, size
        else:
            high, at_high = guess, size
    return low


PARAMETER_BYTES = 20
"""Bytes per parameter: the parameter, its average, its gradient and its two moments in Adam, all in
float32.
"""
NUMBER_BYTES = 24
"""Bytes per value of a batch: clean, noise, and noisy, in float64."""
NEAR_BYTES = 4
"""Bytes per value of a neighboring point, in float32."""


def require_network(name: str, arguments: Mapping[str, Any], device: torch.device) -> None:
    """Check that a network can be built and fits into the memory of the device.

    Args:
        name: A name in ``NETWORKS``.
        arguments: Constructor arguments of the network.
        device: Device of the training.

    Raises:
        UsageError: The network cannot be built, or needs more memory than the device has.
    """
    with torch.device("meta"):
        network = NETWORKS[name](**arguments)
    count = sum(parameter.numel() for parameter in network.parameters())
    _require(f"a network of {count:,} parameters", count * PARAMETER_BYTES, device)


def require_batch(batch: int, dim: int, device: torch.device, near: int = 0) -> None:
    """Check that a batch of points fits into the memory of its device.

    Args:
        batch: Number of samples.
        dim: Number of dimensions.
        device: Device of the batch.
        near: Largest number of near points over which the target of a sample is averaged.

    Raises:
        UsageError: The batch needs more memory than the device has.
    """
    needed = batch * dim * (NUMBER_BYTES + near * NEAR_BYTES)
    _require(f"--batch={batch} of {dim} dimensions", needed, device)


def _require(what: str, needed: int, device: torch.device) -> None:
    there = psutil.virtual_memory().total
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    if needed > there:
        raise UsageError(
            f"{what} needs at least {needed / 2**30:.3g} GiB of memory, but {device.type} has "
            f"{there / 2**30:.3g}: give a smaller size"
        )


LEAST = 10_000
"""Number of training samples from which on a trial pays off: it costs as much as about 60
samples.
"""
ROWS, REPEATS = 8, 2
TRIED, MOST_TRIED, TRIAL = 3, 50, 5.0
"""Smallest and largest number of steps of a trial, and seconds after which it ends."""
FASTER = 1.5
"""Speedup that justifies fewer digits. It exceeds the variation of times on busy machines."""


def fastest_precision(model: TrainedNetwork, loss: DenoisingLoss, config: TrainingConfig) -> str:
    """Return the faster precision for training on a CPU, from a short trial.

    The precision is ``bf16`` if gradients take at most two thirds of the CPU time of ``fp32``, else
    ``fp32``. The result is the same on all ranks. The model is not changed.
    """
    if config.total < LEAST:
        return "fp32"
    rows = min(ROWS, config.batch_gpu or ROWS)
    single = gradient_seconds(model, loss, config, "fp32", rows)
    factors = torch.tensor([single / gradient_seconds(model, loss, config, "bf16", rows, single)])
    factor = float(distributed.sum_over_ranks(factors)) / distributed.world_size()
    chosen = "bf16" if factor >= FASTER else "fp32"
    logger.info(
        f"In a short trial fp32 took {factor:.2f} times the CPU time of bf16: using {chosen}"
    )
    return chosen


def gradient_seconds(
    model: TrainedNetwork,
    loss: DenoisingLoss,
    config: TrainingConfig,
    precision: str,
    rows: int,
    enough: float = torch.inf,
) -> float:
    """Return the CPU seconds of a gradient in a given precision: the minimum of several trials.

    Args:
        model: The model.
        loss: Training loss.
        config: Settings of the training.
        precision: Precision of the network.
        rows: Number of samples.
        enough: Seconds to compare with. If the first trial takes at least twice as long, no other
            trial follows.
    """
    with torch.random.fork_rng(devices=[]):  # dropout must not affect training
        step = PaperStep(model, loss, config, precision, fake=False)
        taken = [step.seconds(rows)]
        while taken[0] < 2 * enough and len(taken) <= REPEATS:
            taken.append(step.seconds(rows))
        return min(taken)


def step_seconds(
    model: TrainedNetwork, loss: DenoisingLoss, config: TrainingConfig, source: BatchSource
) -> float:
    """Return the mean seconds of a training step on the slowest rank, without the first step.

    The mean includes steps that take far longer than most, such as the first step of an epoch,
    which imputes missing values anew. The model, on its device, is not changed.
    """
    trainer, taken = Trainer(copy.deepcopy(model), loss, config), list[float]()
    means, batches = RunningMeans(trainer.device), source.batches(0)
    try:
        while len(taken) < TRIED or (sum(taken) < TRIAL and len(taken) < MOST_TRIED):
            began = time.monotonic()
            trainer.train_step(next(batches), means)
            means.collect()  # collecting waits for the device
            taken.append(time.monotonic() - began)
    finally:
        del batches  # this ends the reader processes
    return _slowest(mean(taken[1:]), trainer.device)


def look_seconds(model: TrainedNetwork, watch: Validation | None) -> float:
    """Return the seconds of a validation on the slowest rank; 0 without validation.

    The score is not stored.
    """
    if watch is None:
        return 0.0
    began = time.monotonic()
    watch.held_out.score(model)
    return _slowest(time.monotonic() - began, model.denoiser.basis.mean.device)


def _slowest(seconds: float, device: torch.device) -> float:
    """Return the largest of the seconds of all ranks."""
    of_each = torch.zeros(distributed.world_size(), device=device, dtype=torch.float64)
    of_each[distributed.rank()] = seconds
    return float(distributed.sum_over_ranks(of_each).max())


def compile_network(trainer: Trainer, source: BatchSource) -> None:
    """Compile the network of a trainer, with the help of a batch that is not trained on.

    Raises:
        UsageError: PyTorch cannot compile here, for example because there is no C++ compiler.
    """
    batch = next(source.batches(0))
    try:
        trainer.denoiser.network.compile()
    except RuntimeError as error:  # for example, Python is too new
        raise _refusal(error) from error
    from torch._dynamo.exc import TorchDynamoException  # the import takes a second

    try:
        trainer.accumulate(batch, trainer.draw(batch.points.dtype), RunningMeans(trainer.device))
    except TorchDynamoException as error:
        raise _refusal(error) from error
    trainer.optimizer.zero_grad(set_to_none=True)


def _refusal(error: Exception) -> UsageError:
    return UsageError(
        f"PyTorch cannot compile the network on this machine ({first_line(error)}): leave "
        "--compile out"
    )
