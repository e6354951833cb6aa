"""C2ST as the benchmark takes it: how well a classifier tells draws from the reference.

A perceptron with two hidden layers of 10 D units; rows standardized by the reference; mean accuracy
over five folds. 0.5 means that there is nothing to tell.
"""

import numpy as np
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

FOLDS, ROUNDS, SEED = 5, 1000, 1


def c2st(reference: np.ndarray, draws: np.ndarray) -> float:
    """Accuracy of telling draws ``[N, D]`` from a reference ``[N, D]``."""
    rows = (np.concatenate([reference, draws]) - reference.mean(axis=0)) / reference.std(axis=0)
    drawn = np.repeat([0, 1], [len(reference), len(draws)])
    classifier = MLPClassifier(
        hidden_layer_sizes=(10 * rows.shape[1],) * 2,
        solver="adam",
        max_iter=ROUNDS,
        random_state=SEED,
    )
    folds = KFold(FOLDS, shuffle=True, random_state=SEED)
    return float(cross_val_score(classifier, rows, drawn, cv=folds, scoring="accuracy").mean())
