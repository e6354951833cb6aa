"""Deterministic algorithms of PyTorch, where available."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def algorithms(deterministic: bool, benchmark: bool) -> Iterator[None]:
    """Select deterministic or fast algorithms of PyTorch in this process, during the block.

    Enter the block before CUDA is used. In a deterministic block, an operation without a
    deterministic algorithm raises RuntimeError.

    Args:
        deterministic: Whether to use only algorithms that give the same bytes in every run.
        benchmark: Whether cuDNN searches for its fastest algorithms; ignored if deterministic.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode()
    if deterministic:
        # cuBLAS reads it at its start: a workspace of fixed sizes gives a fixed order of summation.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        cudnn.benchmark, cudnn.deterministic = benchmark and not deterministic, deterministic
        # Like torch.use_deterministic_algorithms, which first imports the compiler for two seconds.
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        torch.set_deterministic_debug_mode(before[2])
