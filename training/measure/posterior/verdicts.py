"""One verdict of many tests, with their number accounted for."""

from collections.abc import Mapping

import torch

from dnnlib.errors import DataError

NAMED_FAILURES = 3


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values that account for their number (Holm 1979), in the order given.

    The i-th smallest of K is multiplied by ``K - i + 1``, and none is less than a smaller one's. If
    all K hypotheses are right, the smallest is at most p with probability p, or less, whatever the
    dependence of the tests.

    Raises:
        DataError: Some are not between 0 and 1.
    """
    wrong = [name for name, p in p_values.items() if not 0 <= p <= 1]
    if wrong:
        raise DataError(
            f"the p-value of {wrong[0]} is {p_values[wrong[0]]:g}: it must be in [0, 1]"
        )
    names = sorted(p_values, key=p_values.__getitem__)
    factors = torch.arange(len(names), 0, -1, dtype=torch.float64)
    ordered = torch.tensor([p_values[name] for name in names], dtype=torch.float64)
    adjusted = (ordered * factors).cummax(dim=0).values.clamp(max=1).tolist() if names else []
    by_name = dict(zip(names, adjusted, strict=True))
    return {name: by_name[name] for name in p_values}


def verdict(adjusted: Mapping[str, float], level: float, runs: int) -> str:
    """One sentence: which tests fail, the clearest first, or that none does.

    Args:
        adjusted: P-values by what was tested, such as "ranks of x1", their number accounted for.
        level: Those below it fail.
        runs: The number of runs behind them.

    Raises:
        DataError: There are none.
    """
    if not adjusted:
        raise DataError("nothing was tested: there is no verdict")
    many = f"{len(adjusted)} tests" if len(adjusted) > 1 else "one test"
    names = sorted(adjusted, key=adjusted.__getitem__)
    failures = [name for name in names if adjusted[name] < level]
    if not failures:
        least = adjusted[names[0]]
        # Where all are 1, none is the smallest.
        smallest = f" (smallest: {names[0]}, p = {least:.2g})" if least < 1 else ""
        return (
            f"No miscalibration seen in {many} of {runs} runs at level {level:g}, their number "
            f"accounted for{smallest}."
        )
    shown = [f"{name} (p = {adjusted[name]:.2g})" for name in failures[:NAMED_FAILURES]]
    more = len(failures) - len(shown)
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return (
        f"Not calibrated: {listed} failed, of {many} of {runs} runs at level {level:g}, their "
        "number accounted for."
    )
