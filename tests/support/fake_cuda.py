"""CUDA devices on a machine that has none: which device each tensor is on, and who waits for it.

Each tensor of PyTorch's ``FakeTensorMode`` on ``cuda`` has its values beside it, computed on the
CPU by the same operation (docs/howto/gpu.md). *Host reads*, as ``bool(x)``, ``x.cpu()`` and
``x.nonzero()`` make them, are counted by the line of this project that makes them, and so are
*uploads*, copies from the host's memory. PyTorch's own code takes these tensors to be on ``meta``:
what it would do otherwise for ``cuda`` is done here (``PythonCalls``).
"""

import sys
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

# Where PyTorch moves its private names, which an AttributeError here tells, its own tests of
# FakeTensorMode use the new ones. ``_make_subclass`` is only for deep copies of parameters.
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
MEMORY = 80 << 30
Generator = torch.Generator
aten = torch.ops.aten
LOOKS_AT_ERRORS = (aten._linalg_check_errors.default, aten._linalg_eigh.default)
"""Operations that wait for an error code of the card's linear algebra."""
WRITES_BY_INDEX = (aten.index_put_.default, aten.index_put.default)
"""Operations that wait for the number of elements, if they are given a mask."""
LOWERED = (
    *(functional.linear, functional.conv1d, functional.conv2d, torch.addmm, torch.baddbmm),
    *(torch.bmm, torch.einsum, torch.matmul, Tensor.matmul, Tensor.__matmul__),
    functional.scaled_dot_product_attention,
)
RAISED = (functional.group_norm, functional.layer_norm, functional.softmax, Tensor.softmax)
"""What networks call that autocasting does in less precision, and in more."""


class FakeCuda(FakeTensorMode):
    """What happens on the cards: host reads and uploads, by the line that makes them, and the cards
    whose own generator was seeded, and with what."""

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.reads = Counter()
        self.uploads = Counter()
        self.seeded = {}
        self._inside = False
        self._latest = torch.device("cuda", 0)

    @classmethod
    def _should_skip_dynamo(cls):
        """False spares the import of the compiler, which takes seconds: nothing is compiled."""
        return False

    @property
    def avoid_device_init(self):
        """There is no device to call, whatever ``torch.cuda`` says."""
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given, form = tree_flatten((args, dict(kwargs or {})))
        given = [self._placed(value) for value in given]
        args, kwargs = tree_unflatten(given, form)
        if self._inside:  # an operation that another one is made of
            return self.dispatch(func, types, args, kwargs)
        require_indices_near(func, given)
        if not any(is_on_card(value) for value in given):
            return func(*args, **kwargs)

        self._count(func, given)
        positional, named = tree_unflatten([on_host(value) for value in given], form)
        try:
            self._inside = True
            fake = self.dispatch(func, types, args, kwargs)
        except (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException):
            self.reads[project_line()] += 1
            return self._carried(func(*positional, **named), self._latest)
        finally:
            self._inside = False
        return with_values(fake, func(*positional, **named))

    def read(self, tensor):
        self.reads[project_line()] += 1
        return tensor.values_on_host

    def _placed(self, value):
        """A device with its number; ``meta`` is where PyTorch takes the latest tensor to be."""
        if isinstance(value, FakeTensor) and value.device.type == "cuda":
            self._latest = value.device
        if not isinstance(value, torch.device):
            return value
        return self._latest if value.type == "meta" else with_index(value)

    def _carried(self, found, device):
        """What an operation gave on the CPU, as it would be on a device."""
        if not isinstance(found, Tensor):
            return found
        fake = self.dispatch(
            aten.empty.memory_format, (), [found.shape], {"dtype": found.dtype, "device": device}
        )
        return with_values(fake, found)

    def _count(self, func, given):
        """Notes reads and uploads that the fake operation would not refuse."""
        tensors = [value for value in given if isinstance(value, Tensor)]
        masked = any(tensor.dtype == torch.bool for tensor in tensors[1:-1])
        if func in LOOKS_AT_ERRORS or (func in WRITES_BY_INDEX and masked):
            self.reads[project_line()] += 1
        if func is aten._to_copy.default:
            devices = [value for value in given if isinstance(value, torch.device)]
            self._copied(tensors[0].device, (devices or [tensors[0].device])[0])
        elif func is aten.copy_.default:
            self._copied(tensors[1].device, tensors[0].device)

    def _copied(self, source, target):
        if source.type == "cuda" and target.type == "cpu":
            self.reads[project_line()] += 1
        elif source.type == "cpu" and target.type == "cuda":
            self.uploads[project_line()] += 1


class PythonCalls(TorchFunctionMode):
    """Calls that PyTorch's own code answers by the device that it takes a tensor to be on."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        options = dict(kwargs or {})
        require_own_generator(args, options)
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            own, other, *rest = args
            return own.to(other.device, other.dtype, *rest, **options)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and is_on_card(args[0]):
            own, index, *rest = args
            return func(own, sent(index, own.device), *rest)
        if func is Tensor.new_tensor:
            like, data = args
            return torch.tensor(data, **{"dtype": like.dtype, "device": like.device, **options})
        if func is Tensor.cpu:
            return args[0].to("cpu", **options)
        if torch.is_autocast_enabled("cuda"):
            args, options = autocast(func, args, options)
        return func(*args, **options)


class CardGenerator(Generator):
    """A generator of a card, which draws what one of the CPU does."""

    _card: torch.device

    def __new__(cls, device="cpu"):
        made = Generator("cpu") if torch.device(device).type == "cpu" else super().__new__(cls)
        if isinstance(made, CardGenerator):
            made._card = with_index(torch.device(device))
        return made

    @property
    def device(self):
        return self._card


def autocast(func, args, options):
    """The arguments of a call as ``torch.autocast("cuda")`` would have them."""
    dtype = torch.get_autocast_dtype("cuda") if func in LOWERED else torch.float32

    def cast(value):
        eligible = is_on_card(value) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype) if eligible else value

    if func not in LOWERED and func not in RAISED:
        return args, dict(options)
    return [cast(value) for value in args], {name: cast(value) for name, value in options.items()}


def sent(index, device):
    """An index whose lists are tensors of a device, as PyTorch makes them."""
    if isinstance(index, tuple):
        return tuple(sent(part, device) for part in index)
    return torch.tensor(index, device=device) if isinstance(index, list) else index


def with_index(device):
    """The device itself; the current one, where ``cuda`` has no number."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def is_on_card(value):
    of_card = isinstance(value, torch.device) and value.type == "cuda"
    return of_card or isinstance(value, FakeTensor)


def on_host(value):
    if isinstance(value, FakeTensor):
        return value.values_on_host
    return CPU if isinstance(value, torch.device) else value


def with_values(fake, real):
    """What an operation gave: fake tensors with their values beside them, and those of the CPU."""
    fakes, form = tree_flatten(fake)
    reals, _ = tree_flatten(real)
    for index, (one, values) in enumerate(zip(fakes, reals, strict=True)):
        if isinstance(one, FakeTensor) and one.device.type == "cpu":
            fakes[index] = values
        elif isinstance(one, FakeTensor) and not hasattr(one, "values_on_host"):
            one.values_on_host = laid_out(values, one)
    return tree_unflatten(fakes, form)


def laid_out(values, like):
    """The values in the memory format of a tensor, which can be another one on a card."""
    if values.stride() == like.stride() or values.layout != torch.strided:
        return values
    return torch.empty_strided(like.shape, like.stride(), dtype=values.dtype).copy_(values)


def require_own_generator(args, options):
    """As PyTorch does, refuses the generator of another device than that of what is drawn."""
    generator = options.get("generator")
    if generator is not None:
        tensors = [value for value in args if isinstance(value, Tensor)]
        wanted = options.get("device") or (tensors[0].device if tensors else CPU)
        if generator.device.type != torch.device(wanted).type:
            raise RuntimeError(f"a generator of {generator.device} cannot draw on {wanted}")


def require_indices_near(func, given):
    """As PyTorch does, refuses indices on a card into a tensor that is not on one."""
    by_index = func in (aten.index.Tensor, *WRITES_BY_INDEX)
    if by_index and not is_on_card(given[0]) and any(map(is_on_card, given[1:])):
        raise RuntimeError("indices on a card cannot index a tensor on the CPU")


def project_line():
    """The innermost line of this project that is running, but for this module."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        own = path.is_relative_to(ROOT) and "site-packages" not in path.parts
        if own and path != Path(__file__):
            return f"{path.relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@contextmanager
def fake_cuda(devices=1):
    """In the block there are so many CUDA devices, the first of them current at its start."""
    mode = FakeCuda()
    with ExitStack() as stack:
        for name, stub in _cuda_stubs(mode, devices).items():
            stack.enter_context(mock.patch.object(torch.cuda, name, stub))
        for name, method in _reading_methods(mode).items():
            stack.enter_context(mock.patch.object(FakeTensor, name, method, create=True))
        stack.enter_context(mock.patch.object(torch, "Generator", CardGenerator))
        stack.enter_context(mock.patch.object(Tensor, "_make_subclass", _on_meta(), create=True))
        stack.enter_context(warnings.catch_warnings())
        # Of deep copies.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        stack.enter_context(PythonCalls())
        stack.enter_context(mode)
        yield mode


def _cuda_stubs(mode, devices):
    current = [0]

    def select(device):
        current[0] = device if isinstance(device, int) else with_index(device).index

    @contextmanager
    def selected(device):
        before = current[0]
        select(device)
        yield
        current[0] = before

    return {
        "is_available": lambda: devices > 0,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: devices,
        "current_device": lambda: current[0],
        "set_device": select,
        "device": selected,
        "manual_seed": lambda seed: mode.seeded.update({current[0]: seed}),
        "is_bf16_supported": lambda: True,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "max_memory_allocated": lambda device=None: 0,
    }


def _reading_methods(mode):
    def reading(name):
        return lambda tensor: getattr(mode.read(tensor), name)()

    names = ("item", "tolist", "__float__", "__int__", "__index__", "__bool__")
    on_card = property(lambda tensor: tensor.device.type == "cuda")
    return {**{name: reading(name) for name in names}, "is_cuda": on_card}


def _on_meta():
    """Makes fake tensors that PyTorch's own code takes to be on ``meta``."""
    make = Tensor._make_subclass

    def made(cls, elem, requires_grad=False, **options):
        options.pop("dispatch_device", None)
        return make(cls, elem, requires_grad, **options)

    return staticmethod(made)
