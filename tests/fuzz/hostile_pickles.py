"""Pickles made by hand to do harm, bare and in the files of torch."""

import io
import pickle
import struct

import torch

from tests.fuzz import hostile, samples
from tests.fuzz.hostile import COMMAND, named, zip_of
from tests.support.image_files import tar
from torch_utils.snapshots import NETWORK_FORMAT, STATE_FORMAT, VERSION

START, STOP = b"\x80\x02", b"."


class Call:
    """Pickled as a call of a function; with a state, as an object that is given it."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def text(value):
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value):
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    if len(encoded) < 256:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<I", len(encoded)) + encoded


def name(module_and_name):
    """A function or class, by module and name with a space between."""
    return b"c" + module_and_name.replace(" ", "\n").encode() + b"\n"


def sequence(*items):
    return b"(" + b"".join(items) + b"t"


def call(function, *arguments):
    return name(function) + sequence(*arguments) + b"R"


def doubled(depth, start=b")", pair=b"\x86", place=200):
    """A tuple of a thing and itself, of which a tuple is made likewise: 2^depth leaves."""
    put = bytes([place])
    return start + (b"q" + put + b"h" + put + pair) * depth


BASIS = ("mean", "eigenvalues", "eigenvectors")
_NO_HOOKS = call("collections OrderedDict")


def storage(count, kind="FloatStorage", key="0", place="cpu"):
    values = (text("storage"), name(f"torch {kind}"), text(key), text(place), number(count))
    return sequence(*values) + b"Q"


def tensor(stored, size, stride, offset=0, hooks=_NO_HOOKS):
    numbers = (sequence(*map(number, values)) for values in (size, stride))
    arguments = (stored, number(offset), *numbers, b"\x89", hooks)
    return call("torch._utils _rebuild_tensor_v2", *arguments)


VALUES = {
    # What would run something.
    "os.system": call("posix system", text(COMMAND)),
    "subprocess": call("subprocess check_call", b"]" + text("touch") + b"a" + text("RAN") + b"a"),
    "an import": call("builtins __import__", text("antigravity")),
    "a pickle in it": call("pickle loads", text("cposix\nsystem\n(X\x05\0\0\0touch RANtR.")),
    "code compiled by torch": call("torch.jit._script script", text("def f(): pass")),
    "an attribute of a function": call("builtins getattr", name("os system"), text("__globals__")),
    "an instance with arguments": b"(" + text(COMMAND) + b"iposix\nsystem\n",
    "an extension": b"\x82\x01",
    "a new object with keywords": name("subprocess Popen") + b")}\x92",
    # What would import a module.
    "a codec": call("_codecs encode", text("a"), text("rot_13")),
    "a codec that unpacks": call("_codecs decode", text("a"), text("zlib_codec")),
    # What would take memory.
    "two gigabytes of zeros": call("builtins bytearray", number(2 << 30)),
    "a tensor without values": call("torch Tensor", number(1 << 29)),
    "a storage without values": call("torch UntypedStorage", number(2 << 30)),
    "a storage of 2^60 values": tensor(storage(2**60), [2**60], [1]),
    "a storage of a gigabyte": tensor(storage(1 << 28), [1 << 28], [1]),
    "one value seen 2^60 times": tensor(storage(4), [2**30, 2**30], [0, 0]),
    "one value seen 2^30 times": tensor(storage(4), [2**15, 2**15], [0, 0]),
    "a tensor beyond its storage": tensor(storage(4), [4], [1], offset=10**6),
    "a storage of another file": tensor(storage(4, key="../../../etc/passwd"), [4], [1]),
    "a storage of a GPU": tensor(storage(4, place="cuda:7"), [4], [1]),
    "an odd storage": tensor(sequence(text("storage")) + b"Q", [4], [1]),
    "a string of four gigabytes": b"X\xff\xff\xff\xff" + b"x" * 100,
    "a frame of 2^62 bytes": b"\x95" + struct.pack("<Q", 2**62),
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "a place of 2^32": b"]r" + struct.pack("<I", 2**32 - 1),
    # What would take time.
    "2^60 tuples": doubled(60),
    "a key of 2^60 tuples": b"}" + doubled(60) + b"Ns",
    "a set of 2^60 tuples": b"\x8f(" + doubled(60) + b"\x90",
    "an ordered key": call("collections OrderedDict", b"](" + sequence(doubled(60), b"N") + b"e"),
    "a list in itself": b"]q\x01h\x01a",
    "lists in lists": b"]" * 20_001 + b"a" * 20_000,
    "many marks": b"(" * 300_000,
    "many numbers": b"](" + b"K\x01" * 100_000 + b"e",
    # What is broken.
    "a place that is not there": b"h\x05",
    "a name that is none": sequence(number(1), number(2)) + b"\x93",
    "an object that is built": _NO_HOOKS + b"}" + text("items") + b"Nsb",
    "a name with terminal codes": call("evil\x1b[2J name\x07", number(1)),
    "a long name": call(f"evil{'x' * 100_000} name", number(1)),
}
"""By what they would do where a pickle is trusted: opcodes that leave one value."""


def program(value):
    return START + value + STOP


def bare(file_name):
    return named(file_name, {key: program(value) for key, value in VALUES.items()})


def torch_file(pickled):
    """What ``torch.save`` writes of a pickle, with a storage of 16 bytes."""
    return zip_of({"a/data.pkl": pickled, "a/data/0": bytes(16), "a/version": b"3\n"})


def saved(content, zipped=True):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def legacy(pickled, keys=b"]"):
    """The form before torch 1.6."""
    number_of_form = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
    machine = b"}" + text("little_endian") + b"\x88s"
    parts = (number_of_form, b"M\xe9\x03", machine, pickled[2:-1], keys)
    return b"".join(map(program, parts))


def torch_files(file_name):
    files = {}
    for key, value in VALUES.items():
        files[key] = torch_file(program(value))
        files[f"{key}, deep in it"] = torch_file(program(b"}" + text("parts") + value + b"s"))
    for key in ("os.system", "two gigabytes of zeros", "a codec", "a storage of a gigabyte"):
        files[f"{key}, bare"] = program(VALUES[key])
        files[f"{key}, of old"] = legacy(program(VALUES[key]))
    pickled = program(b"}")
    files |= {
        "no pickle": zip_of({"a/data/0": bytes(16)}),
        # The form before torch 1.0.
        "a tar": tar(dict.fromkeys(("storages", "tensors", "pickle", "../../RAN"), pickled)),
        "a packed storage": lambda: hostile.zip_bomb("a/data/0", 1200),
        **hostile.strange_zips("a/data.pkl", pickled),
    }
    return {**hostile.anything(file_name), **named(file_name, files)}


def networks(file_name):
    """Network files that are well-formed, but for one thing that no other test spoils."""
    model, _ = samples.toy_model()
    arguments, basis = model.architecture.network_arguments, model.denoiser.basis.state_dict()
    weights = dict(model.denoiser.network.state_dict())
    parts = {
        "schedule": ("ifs", model.architecture.schedule_arguments, {}),
        "basis": ("EigenBasis", {}, dict(basis)),
        "network": ("mlp", arguments, weights),
        "denoiser": ("NetworkDenoiser", model.architecture.denoiser_arguments, {}),
    }

    def network(about=None, **changes):
        entries = {
            key: {"class": kind, "arguments": given, "state": state}
            for key, (kind, given, state) in {**parts, **changes}.items()
        }
        whole = {"format": NETWORK_FORMAT, "version": VERSION, "parts": entries}
        return lambda: saved({**whole, "about": {**model.about, **(about or {})}})

    side = [3, 65536, 65536]
    large = {"image_shape": side, "model_channels": 65536}
    dense = {"image_shape": [1, 8, 8], "channel_mult": [1] * 5000, "num_blocks": 5000}
    image = {"image_shape": side, "attention_resolutions": [65536]}
    spread = torch.zeros(1, dtype=torch.float64).expand(30_000, 30_000)
    schedule = {**model.architecture.schedule_arguments, "rho": 1e300}
    beyond = {key: torch.full_like(value, 3e38) for key, value in weights.items()}
    files = {
        "arguments that are lists": network(
            network=("mlp", {**arguments, "noise_range": [[0.0] * 300] * 300}, weights)
        ),
        "a large image": network(network=("ddpmpp", large, {})),
        "many levels": network(network=("ncsnpp", dense, {})),
        "attention everywhere": network(network=("adm", image, {})),
        "a basis of one number": network(
            basis=("EigenBasis", {}, {**basis, "eigenvectors": spread})
        ),
        "a class of another part": network(network=("EigenBasis", dict(basis), {})),
        "a time beyond all": network({"tmax": 1e308}),
        "a rate beyond all": network(schedule=("ifs", schedule, {})),
        "weights beyond all": network(network=("mlp", arguments, beyond)),
    }
    return named(file_name, files)


def states(file_name):
    """Training states that are well-formed, but for one thing that no other test spoils."""
    whole = {"format": STATE_FORMAT, "version": VERSION, **samples.toy_trainer().state()}

    def of(**changes):
        return lambda: saved({**whole, **changes})

    def with_moments(value):
        optimizer = samples.toy_trainer().optimizer.state_dict()
        for moments in optimizer["state"].values():
            moments["exp_avg"] = value
        return of(optimizer=optimizer)

    spread = torch.zeros(1).expand(1 << 15, 1 << 15)
    files = {
        "a step that is not finite": of(step=float("inf")),
        "moments that are not finite": with_moments(torch.tensor(float("nan"))),
        "moments that are one number": with_moments(spread),
        "a basis of one number": of(basis=dict.fromkeys(BASIS, spread)),
        "variances that are not finite": of(data_variance=torch.full((2,), float("nan"))),
        "no networks": of(network=None, averaged=3),
    }
    return named(file_name, files)
