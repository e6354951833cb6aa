"""Files appear whole or not at all, and existing ones are not lost."""

import io
import os
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from unittest.mock import Mock

import pytest
import torch

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path, require_folder, require_new, require_room, require_writable
from dnnlib.logs import copy_log_to, logger, setup_logging
from tests.support.running import full_disk, log_put_back, refusal


@pytest.mark.parametrize("old", [None, "old"])
def test_the_destination_holds_what_the_block_wrote(tmp_path, old):
    path = tmp_path / "x" / "y" / "a.npz"
    if old:
        require_folder(path.parent)
        path.write_text(old)
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"
        assert temporary.name.startswith(".")
        assert path.read_text() == old if old else not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["a.npz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_block_that_raises_changes_nothing(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    with pytest.raises(error), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    got = [(file.name, file.read_text()) for file in tmp_path.iterdir()]
    assert got == ([("a.txt", "old")] if old else [])


def test_files_and_folders_do_not_take_each_others_place(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").is_dir()
    file = tmp_path / "b"
    file.write_text("old")
    with pytest.raises(FileExistsError), atomic_path(file / "c.txt"):
        pass
    for _ in range(2):
        require_folder(tmp_path / "c" / "d")
    assert (tmp_path / "c" / "d").is_dir()
    for below in ("", "b", "b/c"):
        with pytest.raises(DataError, match=str(file)):
            require_folder(file / below)
        assert "cannot be written" in refusal(require_writable, file / below)
    assert file.read_text() == "old"
    before = sorted(tmp_path.rglob("*"))
    require_writable(tmp_path / "e" / "f")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_ordinary_new_files(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
    finally:
        after = os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode
    assert after == mask, "the process's own mask was changed"


def test_parallel_writers_leave_one_whole_file_and_readers_see_no_half(tmp_path):
    path = tmp_path / "a.txt"
    texts = [str(index) * 20_000 for index in range(8)]
    path.write_text(texts[0])

    def write(text):
        with atomic_path(path) as temporary, temporary.open("w") as file:
            for start in range(0, len(text), 4000):
                file.write(text[start : start + 4000])
                file.flush()

    with ThreadPoolExecutor(len(texts)) as pool:
        writers = [pool.submit(write, text) for text in texts]
        while not all(writer.done() for writer in writers):
            assert path.read_text() in texts
        for writer in writers:
            writer.result()
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["a.txt"]


def test_existing_results_are_refused_by_name_unless_overwrite(tmp_path):
    file, folder, new = (tmp_path / name for name in ("file.npz", "folder.npz", "new.npz"))
    file.touch()
    folder.mkdir()
    require_new([new], overwrite=False)
    require_new([new, file, folder], overwrite=True)
    for old in (file, folder):
        with pytest.raises(UsageError, match=rf"{old.stem}\.npz exists.*--overwrite"):
            require_new([new, old], overwrite=False)


def test_no_file_is_open_between_writes(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, before[1]))
        for index in range(100):
            stack.enter_context(atomic_path(tmp_path / f"{index}.txt")).write_text("new")
    assert len(os.listdir(tmp_path)) == 100


LEAVE = """
import os, sys
from pathlib import Path
from dnnlib.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os._exit(0)
"""


def leave_temporary(path):
    """What a process leaves that is killed while it writes a file."""
    before = set(path.parent.iterdir())
    subprocess.run([sys.executable, "-c", LEAVE, str(path)], check=True)
    (left,) = set(path.parent.iterdir()) - before
    assert left.name.startswith(f".{path.stem}-partial-")
    assert left.suffix == path.suffix
    return left


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    leave_temporary(path)
    other = leave_temporary(tmp_path / "b.txt")
    with atomic_path(path) as temporary:
        assert temporary.read_text() == ""
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == [other.name, "a.txt"]
    # What another machine left goes after a day.
    left = leave_temporary(path)
    monkeypatch.setattr("dnnlib.files._machine", lambda: "other")
    for age, stays in ((3600, True), (90000, False)):
        os.utime(left, (time.time() - age,) * 2)
        with atomic_path(path) as temporary:
            temporary.write_text("new")
        assert left.exists() == stays


def test_the_temporary_of_a_living_writer_is_left_alone(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second:
            assert first != second
            second.write_text("second")
        assert first.read_text() == "first"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_an_error_that_names_the_file_even_if_torch_hides_it(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("old")
    with pytest.raises(OSError, match="too large"), full_disk(1000), atomic_path(path) as temporary:
        temporary.write_bytes(bytes(5000))
    with pytest.raises(OSError, match=r"too large.*a\.pt"), full_disk(1000):  # noqa: SIM117
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save({"a": torch.zeros(5000)}, file)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.pt", "old")]
    path.write_bytes(b"")
    require_room(path, 2**16)
    with full_disk(2**12), pytest.raises(OSError, match="too large"):
        require_room(path, 2**13)
    assert path.stat().st_size == 0, "nothing is written before"


@pytest.fixture(autouse=True)
def quiet():
    yield
    log_put_back()


def speak():
    logger.debug("a detail")
    logger.info("a fact")
    logger.warning("a doubt")


def test_rank_0_prints_facts_and_others_only_warn_on_stderr(capsys, caplog):
    # A second setup does not double the lines.
    for rank, printed in ((3, ("", "a doubt\n")), (0, ("a fact\na doubt\n", ""))):
        setup_logging(rank)
        speak()
        assert capsys.readouterr() == printed
    assert not caplog.records, "the root logger repeats the lines"


def test_a_console_without_a_reader_says_nothing(capsys, monkeypatch):
    unread = io.StringIO()
    monkeypatch.setattr(unread, "write", Mock(side_effect=BrokenPipeError))
    monkeypatch.setattr("sys.stdout", unread)
    setup_logging()
    speak()
    assert capsys.readouterr().err == ""


def test_the_copy_has_times_and_appends(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    setup_logging()
    copy_log_to(path)
    logger.info("größer")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +größer", lines[1])
