"""Which law of latents is drawn from, and what is said of one that is wrong."""

import logging

import pytest
import torch

from dnnlib.errors import UsageError
from tests.support.draws import double, normal
from tests.support.flows import exact_flow
from training.flow.latent.conditional import ConditionalMixture
from training.flow.latent.laws import GaussianLaw, LearnedLaw
from training.runs.latents import LatentChoice


def test_the_choice_decides_the_law() -> None:
    _, flow = exact_flow("s_curve", 1)
    law = flow.latent_law(double(6.0))
    melted = normal(500, 3)
    expected = {
        LatentChoice(): law,
        LatentChoice(2.5e-3): law.with_compressed(2.5e-3, 1),
        LatentChoice(empirical=True): GaussianLaw.empirical(melted),
        LatentChoice(0.01, paper=True): GaussianLaw(double([1.0, 0.01, 0.01])),
    }
    for choice, right in expected.items():
        assert torch.equal(choice.law(flow, 6.0, 1, melted).variance, right.variance)
    names = ["auto", 2.5e-3, "empirical", "paper:0.01"]
    assert [choice.name for choice in expected] == names


def test_the_papers_law_needs_compressed_variances_and_an_empirical_one_a_melt() -> None:
    paper = LatentChoice(paper=True)
    _, flow = exact_flow("circles")
    assert torch.equal(paper.law(flow, 6.0, 2).variance, torch.ones(2).double())
    _, flow = exact_flow("circles", 1)
    with pytest.raises(UsageError, match="1 dimensions are compressed"):
        paper.law(flow, 6.0, 1)
    with pytest.raises(UsageError, match="melt"):
        LatentChoice(empirical=True).law(exact_flow("circles")[1], 6.0, 2)


def test_a_variance_far_from_the_closed_form_is_told(caplog: pytest.LogCaptureFixture) -> None:
    _, flow = exact_flow("circles", 1)
    exact = float(flow.latent_law(double(6.0)).variance[1])
    with caplog.at_level(logging.WARNING):
        LatentChoice(exact * 1.5).law(flow, 6.0, 1)
        assert not caplog.messages
        LatentChoice(exact / 3).law(flow, 6.0, 1)
    (message,) = caplog.messages
    assert f"at T = 6 is {exact:.3g}:" in message


def test_without_compressed_dimensions_eps_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    _, reducing = exact_flow("circles", 1)
    _, preserving = exact_flow("circles")
    assert LatentChoice(0.1).settled(reducing, 6.0, 1) == LatentChoice(0.1)
    with caplog.at_level(logging.WARNING):
        assert LatentChoice(0.1).settled(preserving, 6.0, 2) == LatentChoice()
        paper = LatentChoice(0.1, paper=True).settled(preserving, 6.0, 2)
    assert paper == LatentChoice(paper=True)
    assert all("none of the 2 dimensions is compressed" in text for text in caplog.messages)


def test_the_learned_law_is_the_default_where_it_belongs(caplog: pytest.LogCaptureFixture) -> None:
    _, flow = exact_flow("circles", 1)
    end, undecided = flow.end_time, LatentChoice(learned=None)
    learned = flow.with_law(ConditionalMixture(1, 1))
    assert undecided.settled(flow, end, 1) == LatentChoice()
    assert undecided.settled(learned, end, 1) == LatentChoice(learned=True)
    with caplog.at_level(logging.WARNING):
        assert undecided.settled(learned, 6.0, 1) == LatentChoice()
    assert "that of T =" in caplog.text
    for other, time in ((flow, end), (learned, 6.0)):
        with pytest.raises(UsageError, match="give auto"):
            LatentChoice(learned=True).settled(other, time, 1)
    law = LatentChoice(learned=True).law(learned, end, 1)
    assert isinstance(law, LearnedLaw)
    assert LatentChoice().on(learned).learned is None
    assert isinstance(LatentChoice().law(learned, end, 1), GaussianLaw)
