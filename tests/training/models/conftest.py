"""Public calls write no files, unless they are given a path."""

import os
import re
import sys
from unittest import mock

import pytest

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGING = ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "tempfile.mkdtemp")
OTHERS = re.compile("^/dev/|__pycache__|torchinductor|matplotlib|arviz|sklearn_testing|pytest-of-")
"""Files that Python and other packages write themselves."""


class Watch:
    """Audit hook that lists changes of the file system while it is on; hooks cannot be removed."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if self.on and (opened or event in CHANGING):
            name = arguments[0]
            self.seen.append(os.fsdecode(name) if isinstance(name, str | bytes) else str(name))

    def outside(self, folder):
        """The files that were changed outside a folder."""
        return [
            name
            for name in self.seen
            if not (name.startswith(str(folder)) or name.isdecimal() or OTHERS.search(name))
        ]


@pytest.fixture(scope="session")
def watch():
    return Watch()


@pytest.fixture(autouse=True)
def files_are_written_only_where_a_path_is_given(watch, tmp_path_factory):
    watch.on, watch.seen = True, []
    yield
    watch.on = False
    assert not watch.outside(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def pools_of_prior_draws_are_small():
    with mock.patch("training.subjects.subject.Subject.pool", 4096):
        yield
