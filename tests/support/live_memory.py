"""Bytes of the live tensors at a time, real or fake.

The results of operations are counted by their storage, once for all views, until Python and
autograd release them. Temporary memory inside of a kernel is not counted.
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRAIN = 512
"""Granularity of CUDA's allocator, in bytes."""


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that counts the bytes of the tensors in memory.

    Attributes:
        now: Present number of bytes.
        peak: Largest number of bytes since the start, or since ``restart``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def restart(self) -> None:
        """Reset the peak to the present number of bytes."""
        self.peak = self.now

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Add tensors that existed before the context was entered to the count."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage in self._known:
                continue
            self._known.add(storage)
            size = -(-storage.nbytes() // GRAIN) * GRAIN
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, size).atexit = False

    def _release(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result
