"""Steps, times and latents as they are typed."""

import pytest

from dnnlib.errors import UsageError
from training.flow.solvers import DEFAULT_STEPS
from training.settings.integration import ImageTimeOptions, steps_and_end
from training.settings.latents import latent_choice, recorded_eps
from training.simulation.latents import LatentChoice


@pytest.mark.parametrize(
    ("steps", "h", "expected"),
    [
        (None, None, (DEFAULT_STEPS, 7.01)),
        (20, None, (20, 7.01)),
        (701, 0.01, (701, 7.01)),
        (100, 0.02, (100, 2.0)),
        (10, 1.0, (10, 10.0)),
        (None, 0.01, (701, 7.01)),
        ("auto", None, (None, 7.01)),
    ],
)
def test_the_end_is_steps_times_h_and_by_default_the_networks(
    steps: int | str | None, h: float | None, expected: tuple[int | None, float]
) -> None:
    count, end = steps_and_end(steps, h, 7.01)
    assert count == expected[0]
    assert end == pytest.approx(expected[1], rel=1e-12)


def test_an_end_equal_up_to_rounding_is_the_networks_to_the_last_digit() -> None:
    assert 3 * 0.1 != 0.3
    assert steps_and_end(3, 0.1, 0.3) == (3, 0.3)


def test_a_step_size_alone_has_to_divide_the_last_time() -> None:
    with pytest.raises(UsageError, match=r"--h=3 .* T = 7\.01: add --steps=2, to end at T = 6"):
        steps_and_end(None, 3.0, 7.01)


def test_an_earlier_end_may_be_asked_for_and_the_last_digit_of_it_does_not_matter() -> None:
    assert ImageTimeOptions(end_time=2.5).chosen(6.0, "n").end == 2.5
    assert ImageTimeOptions(end_time=6 * (1 + 1e-12)).chosen(6.0, "n").end == 6.0
    with pytest.raises(UsageError, match=r"--end_time is 6\.01, but n was trained up to T = 6"):
        ImageTimeOptions(end_time=6.01).chosen(6.0, "n")


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("auto", LatentChoice()),
        ("empirical", LatentChoice(empirical=True)),
        ("2.5e-3", LatentChoice(2.5e-3)),
        ("paper", LatentChoice(paper=True)),
        ("paper:1e-2", LatentChoice(1e-2, paper=True)),
    ],
)
def test_eps_by_name_and_by_number(text: str, choice: LatentChoice) -> None:
    assert latent_choice(text) == choice
    assert recorded_eps(text, choice) == text


def test_what_is_recorded_is_what_was_used() -> None:
    assert recorded_eps("1e-2", LatentChoice()) == "auto"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "small", "", "paper:0", "auto:1"])
def test_other_eps_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="auto, empirical, or a positive"):
        latent_choice(text)
