"""Pictures of posteriors and checks, the exact posteriors of toys, and files that are broken."""

import json
import shutil
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from dnnlib.errors import DataError
from tests.support.figures import marks, places, words
from tests.support.picture_files import save_check, save_posterior
from tests.support.running import refusal
from training.data.toys import Toy
from training.files.posterior import SavedCheck
from training.files.posterior_draws import DESCRIPTION, load_netcdf
from training.inference.likelihoods import Gaussian, Separable
from training.pictures import checks, posteriors, theme
from training.pictures.album import pictures_of
from training.pictures.figure import Line, Points, Steps

NOISE = torch.tensor(0.3, dtype=torch.float64)
GAUSSIANS = {
    "point": Gaussian(NOISE),
    "coordinate": Gaussian(NOISE, torch.tensor([1])),
    "linear": Gaussian(NOISE, operator=torch.tensor([[1.0, 2.0]])),
    "covariance": Gaussian(torch.tensor([[0.1, 0.05], [0.05, 0.2]], dtype=torch.float64)),
}
X, SHAPE = "posterior/x", (2, 40, 3, 2)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Contours of exact posteriors on few cells, which are sooner computed."""
    monkeypatch.setattr("training.pictures.posteriors.GRID", 40)


def names(folder):
    return {picture.path.name for picture in pictures_of([folder], None, None)}


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_the_exact_posterior_is_prior_times_likelihood(kind):
    toy, likelihood = Toy("moons"), GAUSSIANS[kind]
    observed = likelihood.observe(torch.tensor([[0.4, -0.6]], dtype=torch.float64))[0]
    x, y = np.linspace(-2.4, 2.4, 161), np.linspace(-2.6, 2.6, 141)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    weights, means, covariance, _ = toy.mixture
    cell = torch.tensor([x[1] - x[0], y[1] - y[0]]) / 2  # which is added to the spread
    distribution = torch.distributions.MultivariateNormal(means[:, None], covariance)
    prior = (weights.log()[:, None] + distribution.log_prob(grid)).logsumexp(dim=0)
    log_likelihood = likelihood.log_prob(grid, observed.expand(len(grid), -1))
    expected = (prior + log_likelihood).softmax(dim=0).view(141, 161).numpy()
    exact = posteriors.exact_posterior(toy, likelihood, observed.numpy())
    got = posteriors.plane_density(exact, x, y, (0, 1))
    assert got.sum() * 4 * float(cell.prod()) == pytest.approx(1, abs=0.01)
    # Of total variation.
    assert np.abs(got / got.sum() - expected).sum() / 2 < 0.02


def test_contours_hold_what_they_say():
    side = np.linspace(-6, 6, 241)
    density = multivariate_normal(np.zeros(2)).pdf(np.stack(np.meshgrid(side, side), axis=-1))
    outer, inner = posteriors.content_levels(density, (0.5, 0.9))
    assert inner == pytest.approx(0.5 / (2 * np.pi), rel=0.02)
    assert outer == pytest.approx(0.1 / (2 * np.pi), rel=0.02)


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_what_is_saved_of_posteriors_is_read_again(tmp_path, kind):
    likelihood = GAUSSIANS[kind]
    saved = load_netcdf(save_posterior(tmp_path, likelihood=likelihood), 2)
    assert saved.points.shape == (2, 40, 2, 2)
    assert (saved.count, saved.every, saved.toy, saved.names) == (3, 1, "circles", ["x1", "x2"])
    assert np.array_equal(saved.truth, saved.points[0, 0])
    points = torch.from_numpy(saved.points[:, :, 1].reshape(-1, 2))
    observed = torch.from_numpy(saved.observed[1]).expand(len(points), -1)
    expected = torch.from_numpy(saved.log_likelihood[:, :, 1].ravel())
    assert torch.allclose(saved.likelihood.log_prob(points, observed), expected)
    assert torch.allclose(likelihood.log_prob(points, observed), expected)


def test_only_some_draws_are_read_of_many(tmp_path, monkeypatch):
    path = save_posterior(tmp_path)
    whole = load_netcdf(path, 2)
    monkeypatch.setattr("training.files.posterior_draws.MOST_READ", 100)
    few = load_netcdf(path, 2)
    assert few.every == 4
    assert np.array_equal(few.points, whole.points[:, ::4])
    assert np.array_equal(few.log_likelihood, whole.log_likelihood[:, ::4])


def replaced(place, link=None, **options):
    def change(path):
        with h5py.File(path, "a") as file:
            del file[place]
            if link:
                file[place] = link
            elif options:
                file.create_dataset(place, **options)

    return change


def described(**changes):
    """Changes what a file says of itself."""

    def change(path):
        with h5py.File(path, "r") as file:
            content = json.loads(file[DESCRIPTION][...].tobytes())
        written_as(json.dumps({**content, **changes}).encode())(path)

    return change


def written_as(text):
    return replaced(DESCRIPTION, data=np.frombuffer(text, np.uint8))


def test_draws_that_cannot_be(tmp_path):
    whole, folder = save_posterior(tmp_path), tmp_path / "changed"
    folder.mkdir()
    damaged = "'posterior/x' is damaged, or is not an uncompressed"
    for change, message in (
        (described(format="another 1"), "contains no known data"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "not a readable netCDF-4"),
        (replaced(X), "no variable 'posterior/x'"),
        (replaced(X, data=np.full(SHAPE, np.nan)), "not finite"),
        (replaced(X, data=np.zeros((2, 40, 3))), r"has shape .*, expected \[C, S, M, D\]"),
        (replaced(X, data=np.zeros(SHAPE, "S3")), damaged),
        # Nothing of these numbers is in the file.
        (replaced(X, shape=(1 << 30, 1 << 20, 3, 2), dtype="f8"), damaged),
        (replaced(X, shape=(4000,) * 4, dtype="f8", compression=9), damaged),
        (replaced(X, shape=SHAPE, dtype="f8", external="/etc/hostname"), damaged),
        (replaced(X, h5py.ExternalLink("other.nc", X)), damaged),
        (replaced(X, h5py.SoftLink("/posterior/x")), damaged),
        (replaced("sample_stats/log_likelihood", data=np.zeros(3)), "has shape .*, expected"),
        (replaced("observed_data/y", data=np.zeros((2, 2))), "has shape .*, expected"),
        (replaced("prior/x", data=np.zeros((1, 9, 5))), "has shape .*, expected"),
        (replaced("constant_data/truth", data=np.zeros((2, 2))), "has shape .*, expected"),
        (replaced("constant_data/noise_std", data=np.zeros(2)), "noise must be positive"),
        (replaced("constant_data/noise_std", data=np.ones(3)), "has shape .*, expected"),
        (replaced(DESCRIPTION), "contains no known data"),
        (replaced(DESCRIPTION, data=np.zeros(3, "S2")), "damaged, or is not"),
        (written_as(b"{"), "not readable JSON"),
        (written_as(b"\xff"), "not readable JSON"),
        (written_as(b"[1]"), "contains no known data"),
        (described(coordinates=["x1"]), "coordinate names"),
        (described(coordinates="x1"), "coordinate names"),
        (described(samplers=None), "samplers"),
        (described(samplers=["hmc", "hmc", 3]), "samplers"),
        (described(image_shape=[1, 3, 3]), "does not match draws of 2"),
        (described(image_shape=[1, -1, -2]), "does not match draws of 2"),
    ):
        path = Path(shutil.copy(whole, folder))
        change(path)
        with pytest.raises(DataError, match=message) as raised:
            pictures_of([path], None, None)
        assert str(path) in str(raised.value)


def test_observed_coordinates_are_among_the_points(tmp_path):
    path = save_posterior(tmp_path, likelihood=GAUSSIANS["coordinate"])
    for place in (-1, 2):
        replaced("constant_data/seen", data=np.array([place]))(path)
        assert "do not match points with 2 coordinates" in refusal(load_netcdf, path, 1)


def test_what_is_drawn_follows_from_the_data(tmp_path):
    kinds = {
        "points chains": {},
        "points": {"sampler": "pool"},
        "marginals pairs chains": {"name": "wine", "dim": 4},
        "marginals chains": {"name": "wine", "dim": 1},
        "marginals pairs": {"name": "wine", "dim": 4, "sampler": "flow"},
        "images chains": {"name": "digits", "dim": 48, "image_shape": (3, 4, 4), "prior": False},
    }
    for number, (kind, options) in enumerate(kinds.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        stem = save_posterior(folder, **options).stem
        assert names(folder) == {f"{stem}_{name}.png" for name in kind.split()}
    shutil.copy(tmp_path / "0" / "circles_PRP_posterior.nc", tmp_path / "foreign.nc")
    described(format="another 1")(tmp_path / "foreign.nc")
    save_check(tmp_path)
    check = "circles_PRP_posterior_check"
    assert names(tmp_path) == {f"{check}_ranks.png", f"{check}_coverage.png"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", GAUSSIANS)
def test_toys_show_prior_draws_contours_and_what_was_observed(tmp_path, kind):
    saved = load_netcdf(save_posterior(tmp_path, likelihood=GAUSSIANS[kind]), 6)
    figure = posteriors.toy_points(saved, Toy("circles"))
    text = words(figure)
    assert "Posterior of circles" in text
    assert "80 draws each" in text
    assert [panel.title for panel in figure.panels] == [f"Observation {k}" for k in (1, 2, 3)]
    for index, panel in enumerate(figure.panels):
        assert np.array_equal(places(marks(panel, Points, "prior draws")[0]), saved.prior)
        draws = saved.points[:, :, index].reshape(-1, 2)
        assert np.array_equal(places(marks(panel, Points, "posterior draws")[0]), draws)
        (true,) = marks(panel, Points, "true value")
        assert np.array_equal(places(true)[0], saved.truth[index])
        assert [mark for mark in marks(panel, Line) if mark.label.startswith("exact posterior")]
        assert panel.equal
        (seen,) = [mark for mark in panel.marks if getattr(mark, "label", "") == "observed"]
        if kind in ("point", "covariance"):
            assert np.allclose(places(seen)[0], saved.observed[index])
        else:
            observed = GAUSSIANS[kind].observe(torch.from_numpy(places(seen)))
            np.testing.assert_allclose(observed[:, 0], saved.observed[index, 0], atol=1e-9)


def test_axes_are_those_of_the_prior_unless_it_is_far_wider_or_not_there():
    prior = np.random.default_rng(0).normal(size=(500, 2))
    wide = posteriors.zoomed_box(prior, 0.5 * prior[:100])
    assert np.array_equal(wide, posteriors.zoomed_box(prior, prior))
    near = posteriors.zoomed_box(prior, 0.01 * prior[:100] + [1, -1])
    assert np.allclose(near.mean(axis=1), [1, -1], atol=0.02)
    assert np.ptp(near[0]) == pytest.approx(np.ptp(near[1]))
    assert np.ptp(near[0]) < 0.1 * np.ptp(wide[0])
    apart = {"a": np.linspace(0, 1), "b": np.linspace(50, 51)}
    low, high = posteriors.histograms(None, apart, ["blue", "red"]).x_limits
    assert low < 0.1
    assert high > 50.9
    few = posteriors.histograms(None, {"a": np.linspace(0, 1, 19)}, ["blue"])
    assert not marks(few, Steps), "19 draws are points, not bars"


def test_solid_toys_have_a_row_for_each_observation(tmp_path):
    path = save_posterior(tmp_path, "s_curve", 3, count=3, draws=5, sampler="pool")
    figure = posteriors.toy_points(load_netcdf(path, 2), Toy("s_curve"))
    assert (len(figure.panels), figure.columns) == (2 * 4, 4)
    assert "first 2 of 3" in words(figure)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_columns_that_were_not_observed_come_first(tmp_path):
    seen = Gaussian(NOISE, torch.arange(20))
    saved = load_netcdf(save_posterior(tmp_path, "wine", 23, likelihood=seen), 6)
    assert posteriors.informative_columns(saved, 3).tolist() == [20, 21, 22]
    marginals = posteriors.marginals(saved)
    titles = [panel.title for panel in marginals.panels]
    assert titles[-3:] == ["x21", "x22", "x23"]
    assert "20 of 23 columns: of unobserved columns" in words(marginals)
    pairs = posteriors.pairs(saved)
    assert sum(panel is not None for panel in pairs.panels) == 15
    assert "observation 1 of 3" in words(pairs)
    lines = [mark for mark in marks(marginals.panels[0], Line) if len(mark.x)]
    first = int(titles[0][1:]) - 1
    expected = (*saved.observed[:, first], *saved.truth[:, first])
    np.testing.assert_allclose([line.x[0] for line in lines], expected)


def test_hidden_pixels_are_tinted(tmp_path):
    seen = Gaussian(torch.tensor(0.01, dtype=torch.float64), torch.arange(8))
    options = {"likelihood": seen, "image_shape": (1, 4, 4), "prior": False}
    saved = load_netcdf(save_posterior(tmp_path, "digits", 16, **options), 6)
    cells = posteriors.observed_cells(saved)
    shown = np.clip(np.rint(saved.observed[0]), 0, 255)
    assert np.array_equal(cells[0, :2, :, 0].ravel(), shown)
    tints = cells[0, 2:].reshape(-1, 3)
    assert (tints == tints[0]).all()
    assert len(set(tints[0].tolist())) == 3  # no gray
    figure = posteriors.images(saved)
    text = words(figure)
    assert all(f"draw {number}" in text for number in range(1, 7))
    assert "Tinted: unobserved pixels" in text
    assert "true value" in text
    assert len(figure.panels) == 11
    assert figure.scale.low == "0"
    plain = load_netcdf(save_posterior(tmp_path, "digits", 16, image_shape=(1, 4, 4)), 6)
    assert "Tinted" not in words(posteriors.images(plain))
    small = Gaussian(torch.tensor(1.0), operator=Separable.downsampling(2, (1, 4, 4)))
    options |= {"likelihood": small}
    path = save_posterior(tmp_path, "small", 16, **options)
    of_small = posteriors.observed_cells(load_netcdf(path, 6))
    assert (of_small[:, ::2] == of_small[:, 1::2]).all(), "a pixel of four is two by two"


def test_truths_are_colored_by_where_they_are_among_draws():
    draws = np.arange(100.0)[:, None, None, None, None].repeat(3, axis=4)
    truths = np.array([-1, 49.5, 101]).reshape(1, 1, 1, 3)
    below, middle, above = posteriors.truth_cells(draws, truths)[0, 0]
    assert below[2] > below[0]
    assert above[0] > above[2]
    assert middle.min() > 240


def test_ranks_of_chains_tell_them_apart(tmp_path):
    chains = np.arange(40.0).reshape(2, 20)  # one below the other
    assert posteriors.rank_counts(chains, 4).tolist() == [[10, 10, 0, 0], [0, 0, 10, 10]]
    figure = posteriors.chains(load_netcdf(save_posterior(tmp_path, "wine", 7), 6))
    text = words(figure)
    assert "the 4 of 7 coordinates with the largest R-hat" in text
    assert "log likelihood" in text
    assert text.count("R-hat") == 1 + 5
    assert len(figure.panels) == 2 * 5


def test_checks_say_their_verdict_and_color_what_leaves_its_band(tmp_path):
    good = SavedCheck.load(save_check(tmp_path, runs=1000))
    few = SavedCheck.load(save_check(tmp_path))
    bad = SavedCheck.load(save_check(tmp_path, shift=0.4))
    for saved, judgement in (
        (good, "no miscalibration found"),
        (few, "too few runs to test"),
        (bad, "not calibrated"),
    ):
        for figure in (checks.ranks(saved), checks.coverage(saved)):
            assert figure.title == f"Posterior of circles: {judgement}"
            assert saved.calibration.verdict in words(figure)
    colors = [marks(panel, Line)[-1].color for panel in checks.ranks(bad).panels]
    assert colors[0] != colors[1] == colors[2] == colors[3]
    titles = [panel.title for panel in checks.coverage(bad).panels]
    assert titles == ["central intervals", "TARP", "highest-density regions"]
    (tmp_path / "circles_PRP_posterior_check.json").write_text('{"level": 0.999}')
    assert "at level 0.999" in SavedCheck.load(save_check(tmp_path)).calibration.verdict


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_odd_draws_are_drawn(tmp_path, monkeypatch):
    """Constant ones, one observation, a single draw, names that look like mathematics."""
    monkeypatch.setattr(theme, "DPI", 30)
    toys_and_tables = (("circles", 2), ("s_curve", 3), ("wine", 3), ("wine", 1))
    for (name, dim), draws in product(toys_and_tables, [(2, 4, 1), (1, 1, 1)]):
        path = save_posterior(tmp_path, name, dim, count=1, draws=4)
        described(coordinates=["$x^$", "a\nb", ""][:dim])(path)
        replaced(X, data=np.zeros((*draws, dim)))(path)
        replaced("sample_stats/log_likelihood", data=np.zeros(draws))(path)
        for picture in pictures_of([path], None, None):
            picture.write(picture.path)
            assert picture.path.stat().st_size > 1000


def test_draws_that_repeat_are_counted_once():
    draws = np.random.default_rng(0).normal(size=(2, 6, 3))
    assert posteriors.distinct_words(draws) == ""
    draws[0, 3:] = draws[0, :3]
    assert posteriors.distinct_words(draws) == ", 3 to 6 of them distinct"
    draws[1, 3:] = draws[1, :3]
    assert posteriors.distinct_words(draws) == ", 3 distinct"


def test_pictures_state_what_has_not_converged(tmp_path):
    path = save_posterior(tmp_path)
    for converged, expected in ((1, True), (3, False)):
        path.with_suffix(".json").write_text(json.dumps({"converged": converged}))
        details = posteriors.name_and_details(load_netcdf(path, 2))[1]
        assert ("2 of 3 not converged" in details) == expected
