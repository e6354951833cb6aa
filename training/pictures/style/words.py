"""Words on pictures: lines of them, and brief numbers."""

from typing import Any


def joined(*words: str, by: str = " · ") -> str:
    """Words in one line, without those that are empty."""
    return by.join(word for word in words if word)


def brief(value: float) -> str:
    """A number that is not negative with two digits, or all of those before its point."""
    if value == 0 or value >= 1e-3:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    first, power = f"{value:.1e}".split("e")
    return f"{first.removesuffix('.0')}·{power_of_ten(int(power))}"


def power_of_ten(power: int) -> str:
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def words_for(value: Any, words: dict[str, str]) -> str:
    """The words for a value; none for what there are no words for."""
    return words.get(value, "") if isinstance(value, str) else ""
