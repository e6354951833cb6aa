"""Runs cases of readers in processes of their own, all forked from this one.

So the libraries are imported once, and a reader that crashes or hangs takes down its own process.
Reads jobs from stdin, one JSON object a line: ``reader``, ``seed``, ``first`` (number of a case),
``mutants`` (how many), ``every`` (every so many cases are run) and ``folder``. Writes to stdout, in
one line each: ``{"cases": number}`` once the reader has read its valid files; what ``Trial.run``
gives for each case; and ``{"ended": status}`` at the end of a job. ``{"failed": why}`` reports an
error in this code, or a reader that does not read its valid files.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.cases import Reader
from tests.fuzz.trial import Trial


def main(readers: dict[str, Reader]) -> None:
    results = os.dup(1)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            with os.fdopen(results, "w", buffering=1) as file:
                for result in run(readers, job):
                    print(json.dumps(result), file=file)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os.write(results, (json.dumps({"ended": status}) + "\n").encode())


def run(readers: dict[str, Reader], job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        if job["reader"] not in readers:
            raise ValueError(f"no such reader: {job['reader']}")
        reader = readers[job["reader"]]
        trial = Trial(reader, job["seed"], Path(job["folder"]))
        cases = range(0, len(reader.hostile) + job["mutants"], job["every"])
        yield {"cases": len(cases)}
        for index in cases[job["first"] :]:
            yield trial.run(index)
    except BaseException:
        yield {"failed": traceback.format_exc()}


if __name__ == "__main__":
    from tests.fuzz.readers import READERS

    main(READERS)
