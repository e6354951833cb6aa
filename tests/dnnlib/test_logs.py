"""Rank 0 speaks on stdout, the others only warn, and a file keeps a copy."""

import io
import re
from unittest.mock import Mock

import pytest

from dnnlib.logs import copy_log_to, logger, setup_logging
from tests.support.running import log_put_back


@pytest.fixture(autouse=True)
def quiet():
    yield
    log_put_back()


def speak():
    logger.debug("a detail")
    logger.info("a fact")
    logger.warning("a doubt")


@pytest.mark.parametrize(
    ("ranks", "printed"),
    [
        ([0], ("a fact\na doubt\n", "")),
        ([3], ("", "a doubt\n")),
        ([1, 0], ("a fact\na doubt\n", "")),  # the second setup does not double the lines
    ],
)
def test_rank_0_prints_facts_on_stdout_and_others_only_warn_on_stderr(capsys, ranks, printed):
    for rank in ranks:
        setup_logging(rank)
    speak()
    assert capsys.readouterr() == printed


def test_a_console_without_a_reader_says_nothing(capsys, monkeypatch):
    unread = io.StringIO()
    monkeypatch.setattr(unread, "write", Mock(side_effect=BrokenPipeError))
    monkeypatch.setattr("sys.stdout", unread)
    setup_logging()
    speak()
    assert capsys.readouterr().err == ""


def test_the_root_logger_does_not_repeat_the_lines(capsys, caplog):
    setup_logging()
    speak()
    assert capsys.readouterr().err == ""
    assert not caplog.records


def test_the_copy_has_times_and_appends(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("before\n")
    setup_logging()
    copy_log_to(path)
    logger.info("größer")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +größer", lines[1])
