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
"""Whether single precision on CUDA may mean TF32, which has 3 digits in convolutions and products.

It would make round trips inexact, and results unlike those of a CPU. torch allows it in
convolutions by default."""


@contextmanager
def process_group(
    device_name: str | None, threads: int | None = None, useful: int | None = None
) -> Iterator[torch.device]:
    """Joins the group that ``torchrun`` describes, if it describes one; yields this rank's device.

    While it lasts, single precision means single precision: see ``TF32``.

    Args:
        device_name: ``cpu``, ``cuda``, ``cuda:1``, ...; None is CUDA where there is one.
        threads: Of a CPU, and of a plain ``python``; None is for as many as it has idle cores.
        useful: Threads beyond which nothing is gained, if nobody says how many; None for no limit.

    Raises:
        UsageError: No such device.
    """
    device = _device(device_name)
    if world_from_environment() > 1:
        try:
            store, rank, ranks = next(rendezvous("env://"))
            # Ranks that torchrun has restarted would find the addresses of the dead in its store.
            start = f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore(start, store),
                rank=rank,
                world_size=ranks,
            )
        except (RuntimeError, ValueError, dist.DistError) as error:
            raise DataError(f"the ranks did not find each other: {error}") from error
    threads = threads if world_size() == 1 else None
    cpu = nullcontext() if device.type != "cpu" else cpu_threads(threads, useful)
    try:
        with _float32(TF32), cpu:
            yield device
        barrier()  # a rank that leaves early would take down connections that others still use
    except torch.OutOfMemoryError as error:
        raise DataError(f"{device} is out of memory: use smaller batches") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _float32(tf32: bool) -> Iterator[None]:
    """While it lasts, CUDA computes float32 in TF32, or not."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def world_from_environment() -> int:
    """Number of ranks that ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank_from_environment() -> int:
    """This rank as ``torchrun`` numbers it, known before the group is joined."""
    return int(os.environ.get("RANK", "0"))


S = TypeVar("S")
R = TypeVar("R")


def first_rank_only(command: Callable[[S], R]) -> Callable[[S], R | None]:
    """A command that only the first of several processes runs, which makes the files.

    It is alone then, also for groups that the command makes.
    """

    @wraps(command)
    def run(settings: S) -> R | None:
        if rank_from_environment() != 0:
            return None
        world = os.environ.pop("WORLD_SIZE", None)
        try:
            return command(settings)
        finally:
            if world is not None:
                os.environ["WORLD_SIZE"] = world

    return run


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """True on the rank that prints and writes."""
    return rank() == 0


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """A bar of tqdm, which the main rank alone shows, and in a terminal."""
    return tqdm(items, **options, disable=None if is_main() else True)


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def shard(count: int) -> slice:
    """This rank's contiguous share of ``count`` rows; sizes differ by one at most."""
    ranks, index = world_size(), rank()
    return slice(count * index // ranks, count * (index + 1) // ranks)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on every rank; in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_rows(local: Tensor, count: int, dim: int = 0) -> Tensor:
    """The shares of ``count`` rows along ``dim`` put together again, on every rank."""
    if world_size() == 1:
        return local
    ranks = world_size()
    sizes = [count * (index + 1) // ranks - count * index // ranks for index in range(ranks)]
    # Collectives want equal shapes, and shares differ by a row.
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
            raise UsageError(
                f"device_name is {name}, but PyTorch sees no CUDA device here: give cpu"
            )
        index: int | None = device.index
        if index is None:
            index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UsageError(
                f"CUDA device {index} was asked for, but there are {torch.cuda.device_count()}"
            )
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UsageError(f"device_name is {name}: give cpu, cuda or cuda:N")
    return device
