"""Settings of the C library for memory freed by CPU tensors."""

import ctypes
import sys

KEPT, AHEAD, LARGEST = 2**29, 2**24, 2**25
"""Maximum number of bytes kept, number requested at once, and size of the largest kept block."""
OPTIONS = {-1: KEPT, -2: AHEAD, -3: LARGEST}
"""Settings M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of glibc's ``malloc.h``."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for later tensors; return whether this succeeded.

    By default, glibc returns blocks of 128 KiB or more to the system as soon as they are free, and
    the system fills each new block with zeros, page by page. Sums of 512 x 128 numbers then take
    ten times as long. The setting does not change results.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(*option) for option in OPTIONS.items())
