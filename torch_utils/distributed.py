"""Process groups: NCCL on CUDA, gloo on CPU, none for a plain ``python``."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

from dnnlib.errors import DataError, UsageError
from torch_utils.threads import cpu_threads

TF32 = False
"""Whether single precision on CUDA may use TF32, with 3 digits in convolutions and products.

TF32 would make round trips inexact, and results different from those on a CPU. By default, torch
permits it in convolutions.
"""


@contextmanager
def process_group(
    device_name: str | None, threads: int | None = None, useful: int | None = None
) -> Iterator[torch.device]:
    """Join the process group of ``torchrun``, if there is one; yield this rank's device.

    In the block, CUDA computes float32 in full precision rather than in TF32.

    Args:
        device_name: ``cpu``, ``cuda``, ``cuda:1``, ...; None for CUDA if available, else the CPU.
        threads: Number of CPU threads of a process without ``torchrun``; None for the number of
            idle cores.
        useful: Upper limit on the number of threads if ``threads`` is None; None for no limit.

    Raises:
        UsageError: The device does not exist.
        DataError: The ranks cannot connect, or the device is out of memory.
    """
    device = _device(device_name)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        try:
            store, rank, ranks = next(rendezvous("env://"))
            # Ranks restarted by torchrun would find the addresses of dead ranks in its store.
            start = f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore(start, store),
                rank=rank,
                world_size=ranks,
            )
        except (RuntimeError, ValueError, dist.DistError) as error:
            raise DataError(
                f"the ranks could not connect: {error}. Check the address and the port of torchrun"
            ) from error
    threads = threads if world_size() == 1 else None
    cpu = nullcontext() if device.type != "cpu" else cpu_threads(threads, useful)
    try:
        with _float32(TF32), cpu:
            yield device
        barrier()  # a rank that leaves early would close connections that others still use
    except torch.OutOfMemoryError as error:
        raise DataError(f"{device} is out of memory: use smaller batches") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _float32(tf32: bool) -> Iterator[None]:
    """Set whether CUDA computes float32 in TF32, for the duration of the block."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


def first_rank_only(command: Callable[[S], R]) -> Callable[[S], R | None]:
    """Return a function that runs a command in the first process of ``torchrun`` only.

    In other processes the function returns None. A process group that the command joins has a
    single rank.
    """

    @wraps(command)
    def run(settings: S) -> R | None:
        # Known before the process group is joined; torchrun sets it.
        if int(os.environ.get("RANK", "0")) != 0:
            return None
        world = os.environ.pop("WORLD_SIZE", None)
        try:
            return command(settings)
        finally:
            if world is not None:
                os.environ["WORLD_SIZE"] = world

    return run


def rank() -> int:
    """Return the index of this rank in the process group; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks in the process group; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this rank is the main one, which prints and writes files."""
    return rank() == 0


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """Return a tqdm progress bar, which is shown on the main rank only, and only in a terminal."""
    return tqdm(items, **options, disable=None if is_main() else True)


def barrier() -> None:
    """Wait until all ranks have called this function; do nothing without a process group."""
    if dist.is_initialized():
        dist.barrier()


def shard(count: int) -> slice:
    """Return this rank's slice of ``count`` rows; slices differ in length by at most one row."""
    ranks, index = world_size(), rank()
    return slice(count * index // ranks, count * (index + 1) // ranks)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Replace a tensor by its sum over all ranks, on every rank, and return it."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def of_all_ranks(value: T) -> list[T]:
    """Return the values that all ranks have given, in the order of the ranks, on every rank."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def gather_rows(local: Tensor, count: int, dim: int = 0) -> Tensor:
    """Return the concatenation of the rows of all ranks, on every rank.

    Args:
        local: This rank's rows, selected by ``shard``.
        count: Number of rows over all ranks.
        dim: Axis of the rows.
    """
    if world_size() == 1:
        return local
    ranks = world_size()
    sizes = [count * (index + 1) // ranks - count * index // ranks for index in range(ranks)]
    # Collectives require equal shapes, and shards can differ by a row.
    rows = local.movedim(dim, 0).contiguous()
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    shares = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(shares, padded)
    whole = torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])
    return whole.movedim(0, dim)


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}': give cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"device_name is {name}, but PyTorch finds no CUDA device: give cpu")
        index: int | None = device.index
        if index is None:
            index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UsageError(
                f"CUDA device {index} does not exist: the number of devices is "
                f"{torch.cuda.device_count()}, so give a smaller index"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"device_name is {name}: give cpu, cuda or cuda:N")
    return device
