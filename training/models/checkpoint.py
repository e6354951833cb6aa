"""Results of many observations, group by group: computed by all ranks, kept, and resumed.

Ranks share the groups. Each finished group is kept in a folder next to the results until all are
done, so that an interrupted run can continue. The results of a group depend only on its own numbers
and the seed.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.files import require_folder
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import open_arrays

EVERY = 30.0
"""Seconds between lines of the log."""


@contextmanager
def progress(begun: str, name: str, total: int, unit: str) -> Iterator[Callable[[float], object]]:
    """Log the progress of a step on the first rank, after a line at its start.

    Args:
        begun: Line at the start.
        name: Name of the step.
        total: Number of units.
        unit: Name of a unit.

    Yields:
        Function that advances the progress by a number of units.
    """
    main = distributed.is_main()
    with distributed.progress_bar(total=total, desc=name, unit=unit) as bar:
        if not (main and bar.disable):
            yield bar.update
            return
        logger.info(begun)
        start = last = monotonic()
        done = 0.0

        def move(units: float) -> None:
            nonlocal done, last
            done, now = done + units, monotonic()
            if now - last >= EVERY and done < total:
                last, left = now, (total - done) / max(done, 1e-9)
                logger.info(
                    f"{name.capitalize()}: {100 * done / total:.0f} % after "
                    f"{duration(now - start)}, about {duration((now - start) * left)} left"
                )

        yield move


GROUP = 16
"""Number of observations sampled together: enough to fill the evaluations of small networks."""


T = TypeVar("T")


class PartFormat(NamedTuple, Generic[T]):
    """Format of the file of a finished group.

    Attributes:
        save: Function that writes the result of a group, given the fingerprint of the run.
        load: Function that loads this result, or returns None if there is none of this run.
    """

    save: Callable[[Path, T, str], None]
    load: Callable[[Path, str], T | None]


class Parts(Generic[T]):
    """Results of all groups, in order. They are in memory, or are loaded when they are used."""

    def __init__(self, load: Callable[[int], T], count: int):
        self._load, self._count = load, count

    def __iter__(self) -> Iterator[T]:
        return map(self._load, range(self._count))

    def each(self, change: Callable[[T], T]) -> "Parts[T]":
        """Return these results with a change, which is made when a result is used."""
        return Parts(lambda index: change(self._load(index)), self._count)


@dataclass(frozen=True)
class Checkpoint:
    """Division of the observations or runs of a command into groups that are sampled together.

    Attributes:
        count: Number of observations or runs.
        size: Number of observations in a group.
        fingerprint: Digest of everything that the results depend on.
        folder: Folder that keeps finished groups, so that an interrupted run can resume;
            None keeps the results in memory. Several ranks need a folder to share the groups;
            without one, each rank computes all of them.
    """

    count: int
    size: int = GROUP
    fingerprint: str = ""
    folder: Path | None = None

    @property
    def places(self) -> list[Tensor]:
        """Indices of the observations of each group."""
        return list(torch.split(torch.arange(self.count), self.size))

    def path(self, index: int) -> Path:
        """Return the path of the file of a group."""
        assert self.folder is not None
        return self.folder / f"group-{index:05d}.npz"

    def compute(
        self, make: Callable[[Tensor, "Progress"], T], form: PartFormat[T] | None = None
    ) -> Parts[T]:
        """Compute the groups that are not finished yet, on all ranks, and return all results.

        Args:
            make: Function of the indices of a group's observations that computes its result.
            form: Format of the files of finished groups.
        """
        results, kept = dict[int, T](), 0
        groups = list(enumerate(self.places))
        if self.folder is not None:
            require_folder(self.folder)
            groups = groups[distributed.rank() :: distributed.world_size()]
        begun = f"Sampling {self.count:,} posteriors"
        with progress(begun, "posteriors", len(groups), "group") as move:
            for index, places in groups:
                part = Progress(move)
                if self.folder is None:
                    results[index] = make(places, part)
                else:
                    assert form is not None
                    there = form.load(self.path(index), self.fingerprint) is not None
                    if not there:
                        form.save(self.path(index), make(places, part), self.fingerprint)
                    kept += there
                part.finish()
        distributed.barrier()
        if kept and distributed.is_main():
            logger.info(f"{kept} group(s) of {self.size} already exist from an interrupted run")

        def load(index: int) -> T:
            if self.folder is None:
                return results[index]
            assert form is not None
            part = form.load(self.path(index), self.fingerprint)
            if part is None:
                raise DataError(
                    f"{self.path(index)}, the part of another rank, is missing: give a --save_dir "
                    "that all nodes share"
                )
            return part

        return Parts(load, len(self.places))

    @contextmanager
    def report_interruption(self) -> Iterator[None]:
        """If the run ends early, log which results are kept and how to continue.

        Empty folders are removed.
        """
        try:
            yield
        except BaseException:
            if self.folder is not None and distributed.is_main():
                self._report_kept(self.folder)
            raise

    def _report_kept(self, folder: Path) -> None:
        done = 0
        for index, places in enumerate(self.places):
            with suppress(DataError), open_arrays(self.path(index)) as saved:
                done += len(places) * (str(saved.read("fingerprint")) == self.fingerprint)
        if done:
            logger.warning(
                f"Interrupted: {done:,} of {self.count:,} posteriors are done and saved "
                f"in {folder}. Run the same command to continue"
            )
        for empty in (folder, folder.parent):
            with suppress(OSError):  # the folder is not empty
                empty.rmdir()


class Progress:
    """Progress within a group; ``move`` advances it by a number of groups."""

    def __init__(self, move: Callable[[float], object]):
        self._move, self._part = move, 0.0

    def __call__(self, part: float) -> None:
        """Advance by a fraction of the group, but not beyond its end."""
        part = min(part, 1 - self._part)
        self._part += part
        self._move(part)

    def finish(self) -> None:
        """Advance to the end of the group."""
        self(1 - self._part)


def fingerprint(
    options: Mapping[str, Any],
    digest: str | None,
    seen: Sequence[Tensor | None],
    files: Sequence[object],
) -> str:
    """Return a digest of everything that the draws of a run depend on.

    Args:
        options: Options of the command that affect draws.
        digest: Digest of the network; None for none.
        seen: Observations, or true values of a check.
        files: Values of options that may be files, whose contents count; others are ignored.
    """
    content = sha256(json.dumps(dict(options), sort_keys=True, default=str).encode())
    content.update(str(digest).encode())
    for part in seen:
        if part is not None:
            content.update(part.cpu().numpy().tobytes())
    for file in files:
        if isinstance(file, str | Path) and file and Path(file).is_file():
            content.update(Path(file).read_bytes())
    return content.hexdigest()


def duration(seconds: float) -> str:
    """Format a duration in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
