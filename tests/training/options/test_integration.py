"""Steps, times and latents as they are typed."""

import pytest

from dnnlib.errors import UsageError
from training.commands.shared import image_times, steps_and_end
from training.names import DEFAULT_STEPS
from training.options.shared import ImageTimeOptions
from training.runs.latents import LatentChoice, latent_choice, recorded_eps


def test_the_end_is_steps_times_h_and_by_default_the_networks() -> None:
    for steps, h, *expected in (
        (None, None, DEFAULT_STEPS, 7.01),
        (20, None, 20, 7.01),
        (701, 0.01, 701, 7.01),
        (100, 0.02, 100, 2.0),
        (10, 1.0, 10, 10.0),
        (None, 0.01, 701, 7.01),
        ("auto", None, None, 7.01),
    ):
        count, end = steps_and_end(steps, h, 7.01)
        assert [count, end] == [expected[0], pytest.approx(expected[1], rel=1e-12)]
    # An end equal up to rounding is the network's, to the last digit.
    assert 3 * 0.1 != 0.3
    assert steps_and_end(3, 0.1, 0.3) == (3, 0.3)
    with pytest.raises(UsageError, match=r"--h=3 .* T = 7\.01: add --steps=2, to end at T = 6"):
        steps_and_end(None, 3.0, 7.01)


def test_an_earlier_end_may_be_asked_for_and_the_last_digit_of_it_does_not_matter() -> None:
    assert image_times(ImageTimeOptions(end_time=2.5), 6.0, "n").end == 2.5
    assert image_times(ImageTimeOptions(end_time=6 * (1 + 1e-12)), 6.0, "n").end == 6.0
    with pytest.raises(UsageError, match=r"--end_time is 6\.01, but n was trained up to T = 6"):
        image_times(ImageTimeOptions(end_time=6.01), 6.0, "n")


def test_eps_is_a_name_or_a_number_and_what_is_recorded_was_used() -> None:
    for text, choice in (
        ("auto", LatentChoice()),
        ("empirical", LatentChoice(empirical=True)),
        ("2.5e-3", LatentChoice(2.5e-3)),
        ("paper", LatentChoice(paper=True)),
        ("paper:1e-2", LatentChoice(1e-2, paper=True)),
    ):
        assert latent_choice(text) == choice
        assert recorded_eps(text, choice) == text
    assert recorded_eps("1e-2", LatentChoice()) == "auto"
    for text in ("0", "-1", "nan", "inf", "small", "", "paper:0", "auto:1"):
        with pytest.raises(UsageError, match="auto, empirical, or a positive"):
            latent_choice(text)
