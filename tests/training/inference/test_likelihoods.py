"""Likelihoods: Gaussian ones, linear maps that they look through, and those of a user's file."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.refusals import refusal
from training.files.observations import read_mask, read_operator
from training.inference.likelihoods import Gaussian
from training.inference.operators import LinearMap
from training.inference.user_likelihood import UserLikelihood

DIM = 3
POINTS = normal(5, DIM, seed=1)
COVARIANCE = double([[0.5, 0.1], [0.1, 0.2]])
PLACES = torch.tensor([2, 0])
OPERATOR = normal(2, DIM, seed=2)
FORMS: dict[str, tuple[Gaussian, Tensor, Tensor]] = {
    "std": (Gaussian(double(0.3)), torch.eye(DIM).double(), 0.09 * torch.eye(DIM).double()),
    "stds": (
        Gaussian(double([0.1, 0.2, 0.3])),
        torch.eye(DIM).double(),
        torch.diag(double([0.01, 0.04, 0.09])),
    ),
    "mask": (
        Gaussian(double([0.1, 0.2]), PLACES),
        torch.eye(DIM).double()[PLACES],
        torch.diag(double([0.01, 0.04])),
    ),
    "mask and covariance": (
        Gaussian(COVARIANCE, PLACES),
        torch.eye(DIM).double()[PLACES],
        COVARIANCE,
    ),
    "operator": (Gaussian(COVARIANCE, operator=OPERATOR), OPERATOR, COVARIANCE),
}
"""Likelihoods, their matrix and their covariance."""
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
def test_the_density_is_torchs(form: str) -> None:
    likelihood, matrix, covariance = FORMS[form]
    observed = normal(len(POINTS), len(matrix), seed=3)
    expected = MultivariateNormal(POINTS @ matrix.T, covariance).log_prob(observed)
    assert_close(likelihood.log_prob(POINTS, observed), expected)
    root = likelihood.curvature_root(DIM)
    assert_close(root.T @ root, matrix.T @ torch.linalg.inv(covariance) @ matrix)


@every_form
def test_observations_have_the_mean_and_covariance_of_the_density(form: str) -> None:
    likelihood, matrix, covariance = FORMS[form]
    count = 20000
    found = likelihood.simulate(POINTS[:1].expand(count, -1), seeded())
    residuals = (found - matrix @ POINTS[0]) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert (residuals.mean(dim=0).abs() < 4.5 / count**0.5).all()
    identity = torch.eye(len(matrix)).double()
    assert ((residuals.T.cov() - identity).abs() < 4.5 * (2 / count) ** 0.5).all()


@every_form
def test_deviations_are_those_of_what_the_prior_expects(form: str) -> None:
    likelihood, matrix, covariance = FORMS[form]
    root, mean = normal(DIM, DIM, seed=4), normal(DIM, seed=5)
    observed = normal(2, len(matrix), seed=6)
    std = (matrix @ root @ root.T @ matrix.T + covariance).diagonal().sqrt()
    z = Normal(matrix @ mean, std).cdf(observed)
    found = likelihood.deviations(mean, root @ root.T, observed)
    assert_close(Normal(0.0, 1.0).cdf(-found), torch.minimum(z, 1 - z))


@pytest.mark.parametrize(
    ("noise", "others", "parts"),
    [
        (0.0, {}, "must be positive"),
        ([0.1, -0.1], {"coordinates": PLACES}, "must be positive"),
        (float("nan"), {}, "must be positive"),
        ([0.1, 0.2], {"dim": 3}, "2 entries for 3"),
        ([0.1, 0.2, 0.3], {"coordinates": PLACES, "dim": 3}, "3 entries for 2"),
        ([[1.0, 0.0], [0.0, 1.0]], {"dim": 3}, "2 entries for 3"),
        ([[1.0, 0.5], [0.0, 1.0]], {}, "not symmetric"),
        ([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0]], {}, "shape [2, 3]"),
        ([[1.0, 2.0], [2.0, 1.0]], {}, "not positive definite"),
        (0.1, {"coordinates": PLACES, "operator": OPERATOR}, "not both"),
    ],
)
def test_noise_that_is_none_is_told(noise: object, others: dict[str, Tensor], parts: str) -> None:
    def make() -> Gaussian:
        return Gaussian(double(noise), **others)

    assert parts in refusal(make, kind=UsageError)


def test_observations_that_are_nan_are_told() -> None:
    observed = torch.zeros_like(POINTS)
    observed[2, 1] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite at 1 of 5"):
        Gaussian(double(1.0)).log_prob(POINTS, observed)


SHAPE = (2, 4, 6)
PIXELS = 48
IMAGES = normal(3, PIXELS, seed=1)
NAMES = ("blur:0.7", "downsample:2", "crop:1,2,3,4", "random:5")


def named(text: str) -> LinearMap:
    return read_operator(text, PIXELS, SHAPE)


@pytest.mark.parametrize("text", NAMES)
def test_adjoints_are_those_of_the_inner_product(text: str) -> None:
    seen, values = named(text), normal(3, named(text).size, seed=2)
    there, back = (seen(IMAGES) * values).sum(dim=1), (IMAGES * seen.adjoint(values)).sum(dim=1)
    assert_close(there, back)
    assert_close(IMAGES @ seen.matrix.T, seen(IMAGES))


def test_maps_of_images_are_torchs() -> None:
    images = IMAGES.view(-1, *SHAPE)
    means = F.avg_pool2d(images, 2).flatten(1)
    assert_close(named("downsample:2")(IMAGES), means)
    assert_close(named("crop:1,2,3,4")(IMAGES), images[:, :, 1:4, 2:6].flatten(1))
    blur = named("blur:0.7")
    assert blur.shape == SHAPE
    assert_close(blur(torch.ones(1, PIXELS)), torch.ones(1, PIXELS))
    spot = torch.zeros(SHAPE).double()
    spot[0, 2, 3] = 1
    found = blur(spot.view(1, -1)).view(SHAPE)
    # Away from the borders, neighbors have exp(-1 / (2 std^2)) of the middle.
    assert_close(found[0, 2, 4] / found[0, 2, 3], torch.tensor(0.36).double(), atol=0.02, rtol=0)
    assert not found[1].any()


def test_random_masks_see_their_share_and_always_the_same() -> None:
    names = [f"pixel{place}" for place in range(1000)]
    seen = read_mask("random:0.3", names, None)
    assert 250 < len(seen) < 350
    assert torch.equal(seen, read_mask("random:0.3", names, None))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("blur", "blur:STD"),
        ("blur:0", "blur:STD"),
        ("downsample:1.5", "downsample:FACTOR"),
        ("downsample:4", "does not divide images of 6x4"),
        ("crop:1,2,3", "crop:ROW"),
        ("crop:1,2,4,4", "not within images of 6x4"),
        ("random:nan", "random:COUNT"),
        ("turn:2", "'turn:2'"),
    ],
)
def test_maps_that_there_are_not_are_told(text: str, part: str) -> None:
    assert part in refusal(named, text, kind=UsageError)
    assert "a .npy" in refusal(read_operator, "blur:1", 2, None, kind=UsageError)


PAIRS, NOTHING = normal(5, 2), torch.zeros(5, 0).double()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("mine.py")


def written(file: Path, body: str) -> UserLikelihood:
    file.write_text(f"import torch\ndef f(x):\n    {body}\n")
    return UserLikelihood.load(f"{file}:f")


def test_it_is_the_users_function(file: Path) -> None:
    found = written(file, "return -x.square().sum(dim=1)")
    assert_close(found.log_prob(PAIRS, NOTHING), -PAIRS.square().sum(dim=1))
    assert found.is_differentiable(PAIRS)
    assert not written(file, "return -x.detach().square().sum(dim=1)").is_differentiable(PAIRS)
    with pytest.raises(UsageError, match="draws no observations"):
        found.simulate(PAIRS, torch.Generator())


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
    assert message in refusal(found.log_prob, PAIRS, NOTHING)


@pytest.mark.parametrize("relative", [True, False])
def test_traceback_is_shown(relative: bool, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file if relative else file.absolute()
    found = written(path, "return g(x)\ndef g(x): raise KeyError(7)")
    message = refusal(found.log_prob, PAIRS, NOTHING)
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
