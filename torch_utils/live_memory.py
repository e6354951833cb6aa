"""Bytes of the tensors that live at a time, real or fake.

What operations return is counted by its storage, once however many views it has, until Python and
autograd let go of it. What a kernel takes and gives back while it runs is not seen.
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
"""Bytes of which the allocator of CUDA gives whole multiples."""


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts while it is entered.

    Attributes:
        now: Bytes that live.
        peak: The most since ``restart``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def restart(self) -> None:
        """Forgets the peak, but not what lives."""
        self.peak = self.now

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Takes in tensors that were there before."""
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
