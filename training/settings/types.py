"""Types of options: what click takes as a value."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click


class FiniteFloat(click.FloatRange):
    """A float range that takes neither infinities nor NaN, which compare as if in range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)


POSITIVE = FiniteFloat(min=0, min_open=True)
NOT_NEGATIVE = FiniteFloat(min=0)
AMOUNT = FiniteFloat(min=0, min_open=True, max=1e9)
"""Millions of samples."""
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)
FILE = click.Path(path_type=Path)


class Steps(click.ParamType[int | str]):
    """A positive number of steps, or ``auto``."""

    name = "integer|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if value == "auto":
            return "auto"
        return int(COUNT.convert(value, param, ctx))


STEPS = Steps()


def choice(names: Iterable[str]) -> click.Choice[str]:
    return click.Choice(list(names))


class Multipliers(click.ParamType[tuple[int, ...]]):
    """Comma-separated positive integers, such as 2,2,2."""

    name = "2,2,2"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"'{value}' is not a list of positive integers such as 2,2,2", param, ctx)
        return numbers
