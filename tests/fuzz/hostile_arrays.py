"""Files of NumPy, and text files, made by hand to do harm."""

import io
import json
import os
import zipfile

import numpy as np

from tests.fuzz import hostile
from tests.fuzz.hostile import COMMAND, MIB, UP, inside, named, npy, zip_of
from tests.fuzz.hostile_pickles import Call


def header(descr="'<f8'", shape="(3,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def object_array():
    return saved(np.array([Call(os.system, COMMAND)], dtype=object))


FIELDS = str([(f"f{n}", "<f8") for n in range(400)])
ARRAYS = {
    "objects": object_array,
    "objects by their header": npy(header("'|O'", "(1,)"), b"cposix\nsystem\n(S'touch RAN'\ntR."),
    "objects in fields": npy(header("[('a', '|O')]", "(1,)"), bytes(8)),
    "a header that calls": npy(f"__import__('os').system({COMMAND!r})", b""),
    "a header that calls in it": npy(header(shape=f"(__import__('os').system({COMMAND!r}),)"), b""),
    "a header of brackets": npy("(" * 9000, b""),
    "a header of signs": npy(header(shape=f"({'-' * 9000}1,)"), b""),
    "a header of many fields": npy(header(FIELDS), bytes(9600)),
    "a header that is long": npy(header() + " " * 60_000, bytes(24)),
    "a header of old": npy(header(shape="(3L,)"), bytes(24)),
    "a header of version 9": npy(header(), bytes(24), b"\x09\x00"),
    "a header that goes on": b"\x93NUMPY\x01\x00\xff\xff{",
    "2^60 numbers": npy(header(shape=f"({2**60},)"), bytes(24)),
    "2^1000 numbers": npy(header(shape=f"({2**1000},)"), bytes(24)),
    "fewer than no numbers": npy(header(shape="(-1,)"), bytes(24)),
    "no numbers, 2^62 times": npy(header(shape=f"(0, {2**62})"), b""),
    "numbers without size": npy(header("'|V0'", f"({2**40},)"), b""),
    "a word of a gigabyte": npy(header("'<U268435456'", "()"), bytes(24)),
    "axes that are true": npy(header(shape="(True, 3)"), bytes(24)),
    "letters beyond all": npy(header("'<U1'"), b"\xff" * 12),
    "not finite": npy(header(), np.array([np.nan, np.inf, 1]).tobytes()),
    "columns": npy(header(order="True", shape="(1, 3)"), bytes(24)),
    "no array": b"cposix\nsystem\n(S'touch RAN'\ntR.",
    "nothing": b"",
}
"""Files of one array."""


def npz(file_name, arrays, victim):
    """Hostile files where an ``.npz`` with these arrays is read; ``victim`` is the bad one."""
    good = {f"{name}.npy": saved(np.asarray(value)) for name, value in arrays.items()}
    member = f"{victim}.npy"
    bomb = npy(header(shape=f"({150 * MIB},)"), b"")
    lzma = zip_of(good, zipfile.ZIP_LZMA)
    files = {
        **inside(lambda content: zip_of({**good, member: content}), ARRAYS),
        **hostile.strange_zips(member, good[member]),
        "a gigabyte of zeros": lambda: hostile.zip_bomb(member, 1200, bomb),
        "packed by bzip2": zip_of(good, zipfile.ZIP_BZIP2),
        "packed by LZMA": lzma,
        "packed by LZMA, broken": lzma.replace(b"\x5d\x00\x00", b"\xff\xff\xff"),
        "twice": lambda: _twice(good, member),
        "outside": zip_of({f"{UP}RAN.npy": good[member], **good}),
        "one array": good[member],
        "one array of objects": object_array,
        "a bare pickle": b"\x80\x02cposix\nsystem\nX\x09\x00\x00\x00touch RAN\x85R.",
    }
    return {**hostile.anything(file_name), **named(file_name, files)}


def _twice(members, name):
    file = io.BytesIO(zip_of(members))
    with zipfile.ZipFile(file, "a") as archive:
        archive.fp.seek(0, 2)
        info = zipfile.ZipInfo(name)
        archive.NameToInfo.pop(name)
        archive.writestr(info, object_array())
    return file.getvalue()


DEEP = 100_000
TEXTS = {
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a number of a million digits": b'{"seen": ' + b"9" * 1_000_000 + b"}",
    "a number beyond all": b'{"seen": 1e999}',
    "not a number": b'{"seen": NaN, "Loss/loss": NaN}',
    "half a letter": b'{"\\ud800": "\\udfff"}',
    "no letters": b'{"seen": "\xff\xfe"}',
    "a mark of byte order": b'\xef\xbb\xbf{"seen": 1}',
    "four bytes a letter": '{"seen": 1}'.encode("utf-32"),
    "terminal codes": json.dumps({"\x1b[2J\n": "\x1b]0;x\x07"}).encode(),
    "a list": b"[1]",
    "a long name": b'{"' + b"x" * MIB + b'": 1}',
    "many names": lambda: json.dumps({str(n): None for n in range(200_000)}).encode(),
    "more lists": b'{"a": [' + b"[]," * 3_000_000 + b"[]]}",
    "other ends of lines": b'{"seen": 1}\x0b{"seen": 2}\x85{"seen": 3}\xe2\x80\xa8',
}
"""JSON, in one line or many."""


def texts(file_name):
    return {**hostile.anything(file_name), **named(file_name, TEXTS)}


def training_options():
    def options(**changes):
        known = {"outdir": "out", "data_name": "circles", "batch": 8, "duration": 1.0}
        return json.dumps({"options": {**known, **changes}, "chosen": {}}).encode()

    files = {
        "no options": b'{"options": null}',
        "an option that is a list": options(batch=[1]),
        "an option beyond all": options(batch=10**30),
        "a number that is none": options(lr=float("nan")),
        "a device that is not there": options(device_name="cuda:99"),
        "an unknown toy": options(data_name="../../evil"),
        "an unknown option": options(run="touch RAN"),
        "a folder that is elsewhere": options(outdir=f"{UP}tmp/RAN"),
        "a folder with a zero": options(outdir="a\0b"),
        "half a letter": options(desc="\ud800"),
        "threads that are a word": b'{"options": {}, "chosen": {"threads": "many"}}',
    }
    return {**texts("training_options.json"), **named("training_options.json", files)}


def statistics():
    line = b'{"seen": %d, "Loss/loss": 0.5, "Progress/learning_rate": 0.001}\n'
    few = {name: content for name, content in TEXTS.items() if name != "more lists"}
    lines = inside(lambda text: line % 1 + text + b"\n" + line % 2, few)
    lines = {f"line: {name}": content for name, content in lines.items()}
    return {**hostile.anything("stats.jsonl"), **named("stats.jsonl", {**few, **lines})}


def rows():
    body = b"1,2\n" * 12
    files = {
        "a formula": b"a,=cmd|' /C touch RAN'!A0\n" + body,
        "half a letter": b"a,\xed\xa0\x80\n" + body,
        "a zero in a cell": b"a,b\n1,\0\n" + body,
        "code": b"a,b\n" + body + b"__import__('os').system('touch RAN'),1\n",
        "infinite": b"a,b\n" + body + b"inf,-Infinity\n",
        "beyond numbers": b"a,b\n" + body + b"1e999,1\n",
        "an open quote": b"a,b\n" + body + b'"1,2\n' * 2000,
        "a cell of a megabyte": b"a,b\n1," + b"9" * MIB + b"\n",
        "a line without end": lambda: b"a," * (12 * MIB),
        "columns without end": lambda: b",".join(b"%d" % n for n in range(10**6)),
        "only ends of lines": b"\n" * 5000,
    }
    return {**hostile.anything("rows.csv"), **named("rows.csv", files)}
