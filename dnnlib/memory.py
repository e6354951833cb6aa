"""What the C library does with memory that tensors on a CPU gave back."""

import ctypes
import sys

KEPT, AHEAD, LARGEST = 2**29, 2**24, 2**25
"""Bytes that are kept at most, that are asked for at once, and of the largest block among these."""
OPTIONS = {-1: KEPT, -2: AHEAD, -3: LARGEST}
"""M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of glibc's ``malloc.h``."""


def keep_freed_memory() -> bool:
    """Keeps memory for the next tensors where this is glibc; whether it is.

    Blocks of 128 KiB go back to the system by default as soon as they are free, and the next come
    page by page, filled with zeros: sums of 512 x 128 numbers take ten times as long as in memory
    that is there. No result changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(*option) for option in OPTIONS.items())
