"""The same bytes every time, where PyTorch has algorithms for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def algorithms(deterministic: bool, benchmark: bool = False) -> Iterator[None]:
    """Which algorithms of PyTorch this process uses in the block.

    Enter it before CUDA is used. A deterministic block raises RuntimeError at an operation that has
    no such algorithm.

    Args:
        deterministic: Use only algorithms that give the same bytes every time.
        benchmark: Let cuDNN look for its fastest ones; not if they have to be deterministic.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode()
    if deterministic:
        # cuBLAS reads it when it starts: with a workspace of fixed sizes it sums in a fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        cudnn.benchmark, cudnn.deterministic = benchmark and not deterministic, deterministic
        # As torch.use_deterministic_algorithms, which first imports the compiler for two seconds.
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before[:2]
        torch.set_deterministic_debug_mode(before[2])
