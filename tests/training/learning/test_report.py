"""What a training says of its end."""

import re

import pytest

from training.learning.report import Forecast, spoken


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("step", "told_after", "words"),
    [
        (1.0, 60, r"^10 s a thousand samples: about 16 min to go, until [-\d]{10} \d\d:\d\d$"),
        (100.0, 1, r"^1e\+03 s a thousand samples: about 28 h to go, until "),
        (7000.0, 1, r"7e\+04 s .*about 81 days to go; a shorter --duration"),
    ],
)
def test_the_end_is_foretold_once_after_a_minute_or_the_first_step(
    step: float, told_after: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    forecast = Forecast(seen=0, total=100_000)
    lines = []
    clock.now += 3 if told_after > 1 else 0  # the first step is slower
    for _ in range(100):
        clock.now += step
        lines.append(forecast.line(100))
    (index,) = (index for index, line in enumerate(lines) if line)
    assert told_after - 4 <= index + 1 <= told_after
    assert re.search(words, str(lines[index]))


def test_a_training_under_a_minute_foretells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    forecast = Forecast(seen=500, total=1000)
    clock.now += 100
    assert forecast.line(500) is None


def test_times_are_spoken_in_the_largest_unit_that_fits() -> None:
    seconds = (3, 119, 121, 7300, 200_000, 3e8)
    assert [spoken(s) for s in seconds] == ["3 s", "119 s", "2 min", "2 h", "2 days", "10 years"]
