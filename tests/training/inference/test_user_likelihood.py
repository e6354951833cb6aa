"""Likelihoods of a user's file: what it returns, and what is shown when it fails."""

from pathlib import Path

import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.draws import normal
from tests.support.refusals import refusal
from training.inference.user_likelihood import UserLikelihood

POINTS, NOTHING = normal(5, 2), torch.zeros(5, 0).double()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("mine.py")


def written(file: Path, body: str) -> UserLikelihood:
    file.write_text(f"import torch\ndef f(x):\n    {body}\n")
    return UserLikelihood.load(f"{file}:f")


def test_it_is_the_users_function(file: Path) -> None:
    found = written(file, "return -x.square().sum(dim=1)")
    torch.testing.assert_close(found.log_prob(POINTS, NOTHING), -POINTS.square().sum(dim=1))
    assert found.is_differentiable(POINTS)
    assert not written(file, "return -x.detach().square().sum(dim=1)").is_differentiable(POINTS)
    with pytest.raises(UsageError, match="draws no observations"):
        found.simulate(POINTS, torch.Generator())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return x", "returned [5, 2] for points [5, 2]: it must return a tensor [5]"),
        ("return x.sum()", "returned [] for points"),
        ("return 1.0", "returned float for points"),
        ("return x[:, 0] * float('nan')", "is NaN or infinite at 5 of 5 points"),
        ("return x[:, 0].abs() * float('inf')", "is NaN or infinite at 5 of 5 points"),
    ],
)
def test_wrong_numbers_are_told(body: str, message: str, file: Path) -> None:
    found = written(file, body)
    assert message in refusal(found.log_prob, POINTS, NOTHING)


@pytest.mark.parametrize("relative", [True, False])
def test_its_own_traceback_is_shown(
    relative: bool, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = written(
        file if relative else file.absolute(), "return g(x)\ndef g(x): raise KeyError(7)"
    )
    message = refusal(found.log_prob, POINTS, NOTHING)
    assert message.endswith("mine.py:f raised KeyError: 7")
    shown = capsys.readouterr().err
    assert "in f" in shown
    assert "in g" in shown
    assert "user_likelihood" not in shown


@pytest.mark.parametrize(
    ("content", "error"), [("1 / 0", "ZeroDivisionError"), ("def f(:", "SyntaxError")]
)
def test_a_file_that_fails_is_told(
    content: str, error: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(content)
    with pytest.raises(DataError, match=f"mine.py raised {error}"):
        UserLikelihood.load(f"{file}:f")
    shown = capsys.readouterr().err
    assert "mine.py" in shown
    assert "user_likelihood" not in shown


@pytest.mark.parametrize(
    "text", ["none.py:f", "mine.txt:f", "mine.py:", "mine.py:g", "mine.py:x.y"]
)
def test_what_is_no_function_is_told(text: str, file: Path) -> None:
    file.write_text("def f(x): return x\ng = 3\n")
    with pytest.raises(UsageError, match=r"FILE\.py:function|has no function"):
        UserLikelihood.load(text)
