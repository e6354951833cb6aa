"""What a user decides about the rows of a table, whatever these hold."""

from dataclasses import dataclass
from numbers import Real

from dnnlib.errors import UsageError
from dnnlib.numbers import natural
from training.names import MISSING


@dataclass(frozen=True)
class RowChoices:
    """Which rows are taken, and for what.

    Attributes:
        missing: One of ``MISSING``.
        max_rows: Rows to take at most, the first ones; None for all.
        held_out: Fraction of the rows that is not to be trained on.
        seed: Seed of the choice of these.

    Raises:
        UsageError: One of them is none of these; from Python nothing else looks at them.
    """

    missing: str = "keep"
    max_rows: int | None = None
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise UsageError(f"missing is {self.missing!r}: give one of {', '.join(MISSING)}")
        natural("max_rows", self.max_rows or 0)
        natural("seed", self.seed)
        given: object = self.held_out
        if not (isinstance(given, Real) and 0 <= float(given) <= 1):
            raise UsageError(f"held_out is {given!r}: give a part of the rows, as 0.1")
