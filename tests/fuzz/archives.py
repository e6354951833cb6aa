"""Mutants of archives, which come past their checksums: zip, gzip and tar.

An archive is taken apart, a member is mutated by what knows its format, and it is put together
again with right checksums. Now and then it is left to ``mutate_bytes``. Members that are renamed,
doubled or not what their directory says are among the files made by hand.
"""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatch
from random import Random

from tests.fuzz.image_samples import tar
from tests.fuzz.mutations import Mutate, mutate_bytes, one_of


def in_zip(members: Mapping[str, Mutate]) -> Mutate:
    """A zip whose members are mutated as their names, patterns of ``fnmatch``, tell."""

    def mutate_member(data: bytes, other: bytes, random: Random) -> bytes:
        entries, others = _entries(data), _entries(other)
        name = random.choice(list(entries))
        how = next((how for end, how in members.items() if fnmatch(name, end)), mutate_bytes)
        twins = [content for kind, content in others.items() if kind[-4:] == name[-4:]]
        twin = random.choice(twins or [entries[name]])
        entries[name] = how(entries[name], twin, random)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in entries.items():
                archive.writestr(zipfile.ZipInfo(member), content)
        return file.getvalue()

    return one_of((1, mutate_bytes), (4, mutate_member))


def in_gzip(inner: Mutate) -> Mutate:
    """A file of gzip whose content is mutated."""

    def mutate_content(data: bytes, other: bytes, random: Random) -> bytes:
        content = inner(gzip.decompress(data), gzip.decompress(other), random)
        return gzip.compress(content, compresslevel=1, mtime=0)

    return one_of((1, mutate_bytes), (4, mutate_content))


def in_tar(inner: Mutate) -> Mutate:
    """A tar of which a member's content is mutated."""

    def mutate_member(data: bytes, other: bytes, random: Random) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        name = random.choice(list(members))
        return tar({**members, name: inner(members[name], members[name], random)})

    return one_of((1, mutate_bytes), (4, mutate_member))


def _entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}
