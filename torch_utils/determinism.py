"""The same bytes every time, where PyTorch has algorithms for it."""

import os

import torch


def set_deterministic(asked: bool) -> None:
    """Whether this process uses only algorithms that give the same bytes every time.

    Call it before CUDA is used. An operation that has no such algorithm raises RuntimeError.
    """
    if asked:
        # cuBLAS reads it when it starts: with a workspace of fixed sizes it sums in a fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = asked
    torch.use_deterministic_algorithms(asked)
