"""Correlations with a first time: against NumPy and closed forms, and the times they last."""

import math
import tracemalloc
from itertools import product

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError
from tests.support.draws import double, normal
from tests.support.flows import gaussian_flow
from tests.support.live_memory import LiveMemory
from tests.support.running import refusal
from torch_utils.results import save_arrays
from training.cli.residuals import row_pairs
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import get_solver
from training.paper import residuals
from training.paper.residuals import (
    NOISE_BLOCK,
    ResidualProbe,
    correlate,
    correlation_time,
    mean_autocorrelation,
    noise_rows,
)

XI = double([2.0, 0.3, 0.01])


def batches(*arrays, size):
    return zip(*(array.split(size) for array in arrays), strict=True)


def related(count=301):
    """Two times of five dimensions that mix, far from the origin and of very different sizes."""
    first = normal(count, 5, seed=1)
    later = first @ normal(5, 5, seed=2) + 0.5 * normal(count, 5, seed=3)
    sizes = torch.logspace(-6, 4, 5, dtype=torch.float64)
    return sizes * (first + 30), sizes.flip(0) * (later - 70)


def numpys(first, later):
    return np.corrcoef(first.double().numpy(), later.double().numpy(), rowvar=False)[:5, 5:]


def test_correlations_are_those_of_numpy_for_any_batches():
    first, later = related()
    expected = numpys(first, later)
    assert np.abs(expected - expected.T).max() > 0.1
    for size in (1, 7, 100, 301, 1000):
        got = correlate(batches(first, later, size=size), "r")
        np.testing.assert_allclose(got.matrix, expected, rtol=0, atol=1e-11)
        np.testing.assert_array_equal(got.diagonal, got.matrix.diagonal())
        np.testing.assert_allclose(got.std, later.numpy().std(axis=0), rtol=1e-10)
    for sign in (1, -1):
        itself = correlate([(first, sign * 3 * first)], "r").diagonal
        torch.testing.assert_close(itself, torch.full_like(itself, sign), atol=1e-12, rtol=0)
    single = first.float(), later.float()
    got = correlate(batches(*single, size=64), "r")
    np.testing.assert_allclose(got.matrix, numpys(*single), rtol=0, atol=1e-10)
    # A first sample far out costs little precision.
    for rows in (first, later):
        rows[0] = rows.mean(dim=0) + 1000 * rows.std(dim=0)
    got = correlate([(first, later)], "r")
    np.testing.assert_allclose(got.matrix, numpys(first, later), rtol=0, atol=1e-9)


def test_dimensions_that_do_not_vary_get_zeros():
    first, later = related()
    first[:, 1], later[:, 3] = 0.1, 1e9 / 3
    got = correlate(batches(first, later, size=10), "r")
    assert not got.matrix[1].any()
    assert not got.matrix[:, 3].any()
    assert got.std[3] == 0
    assert (got.matrix[[0, 2, 4]][:, [0, 1, 2, 4]] != 0).all()


def test_what_cannot_be_correlated_is_refused():
    nothing = []
    for given in (nothing, batches(*related(1), size=1)):
        with pytest.raises(DataError, match=r"r: [01] samples"):
            correlate(given, "r")
    for which, size in product((0, 1), (1e39, 1e160, 1e238, 1e300)):
        rows = [normal(20, 3, seed=1), normal(20, 3, seed=2)]
        rows[which][:, 1] *= size
        assert "standard deviation above 3.4e" in refusal(correlate, batches(*rows, size=7), "r")
        rows[which][:, 1] /= size * 1e-30
        assert correlate(batches(*rows, size=7), "r").matrix.isfinite().all()


def test_a_process_that_forgets_exponentially_has_its_known_correlations_and_times():
    """AR(1) in t: dimension i forgets at its own rate, and no dimension knows of another."""
    count, rates = 20_000, double([0.5, 1.0, 2.0])
    times = torch.arange(0, 8, 0.25, dtype=torch.float64)
    decay = (-0.25 * rates).exp()
    start = state = normal(count, 3)
    table = residuals.Autocorrelations(["r"], len(times), 3)
    for index in range(len(times)):
        got = correlate(batches(start, state, size=999), "r")
        assert (got.matrix - torch.diag(got.diagonal)).abs().max() < 5 / count**0.5
        table.put("r", index, got)
        state = decay * state + (1 - decay**2).sqrt() * normal(count, 3, seed=index + 1)
    arrays, facts = table.gathered(len(times), torch.device("cpu")).summary(times, count)
    exact = (-rates * times[:, None]).exp()
    np.testing.assert_allclose(arrays["r_diagonal"], exact, atol=5 / count**0.5)
    np.testing.assert_allclose(arrays["r_mean"], exact.mean(dim=1), atol=5 / count**0.5)
    np.testing.assert_allclose(arrays["r_std"], 1, atol=5 / count**0.5)
    assert not arrays["r_constant"].any()
    # With z = exp(-t/2) the mean is (z + z^2 + z^4) / 3; each exponential has the integral 1/rate.
    roots = np.roots([1, 0, 1, 1, -3 / math.e])
    (z,) = roots[(roots.imag == 0) & (roots.real > 0)].real
    lasting = facts["r"]["correlation_time"]
    assert lasting["e_folding"] == pytest.approx(-2 * math.log(z), abs=0.05)
    assert lasting["integral"] == pytest.approx(3.5 / 3, abs=0.1)
    assert lasting["bound"] is None
    assert arrays["n_samples"] == count


def test_what_varies_does_so_at_a_time_and_the_first_and_means_are_over_it():
    stds = torch.ones(2, 3, 4)
    stds[0, 0, 1] = stds[0, 1, 2] = 1e-7
    stds[1, 2] = torch.tensor([1e3, 1.0, 1e-2, 0.0])
    stds[0, 2, 3] = 1e-4
    varies = residuals.varying(stds)
    assert varies[0].int().tolist() == [[1, 0, 1, 1], [1, 0, 0, 1], [1, 0, 1, 0]]
    assert varies[1].int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert not residuals.varying(torch.zeros(2, 3, 4)).any()
    diagonals = torch.tensor([[1.0, 1.0, 0, 1.0], [0.5, 0.2, 0, 0.1], [0.4, 0, 0, 0.2]])
    varies = torch.tensor([[True, True, False, True]] * 2 + [[True, False, False, True]])
    assert mean_autocorrelation(diagonals, varies).tolist() == pytest.approx([1, 0.3, 0.3])
    assert mean_autocorrelation(diagonals, torch.zeros(3, 4).bool()).tolist() == [0, 0, 0]


def test_a_dimension_that_fades_into_rounding_makes_no_steps():
    """Its deviation falls from far above the threshold to about it, now over and now under."""
    count, times = 300, torch.arange(6.0)
    table = residuals.Autocorrelations(["r"], 6, 3)
    start = normal(count, 3)
    kept = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.5])
    for index, fading in enumerate([1e-2, 1e-4, 2e-6, 0.5e-6, 1.5e-6, 0.2e-6]):
        later = kept[index] * start + 0.1 * index * normal(count, 3, seed=index + 1)
        other = normal(count, 1, seed=9 + index)[:, 0] if index else start[:, 2]
        later[:, 2] = fading * other
        first = torch.cat([start[:, :2], 1e-2 * start[:, 2:]], dim=1)
        table.put("r", index, correlate([(first, later)], "r"))
    arrays, facts = table.summary(times, count)
    assert arrays["r_constant"].tolist() == [0, 0, 0, 1, 0, 1]
    assert facts["r"]["dims_of_mean"] == 2
    torch.testing.assert_close(arrays["r_mean"], arrays["r_diagonal"][:, :2].mean(dim=1))
    assert (arrays["r_mean"].diff() < 0).all()


def test_rows_of_files_are_paired_in_order_and_memory_holds_batches_only(tmp_path):
    first, later = related(23)
    for name, rows in (("a", first), ("b", later)):
        save_arrays(tmp_path / f"{name}.npz", {"r": rows.numpy()})
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    pairs = list(row_pairs(*paths, "r", 10, torch.device("cpu")))
    assert [len(pair[0]) for pair in pairs] == [10, 10, 3]
    assert torch.equal(torch.cat([pair[0] for pair in pairs]), first)
    assert torch.equal(torch.cat([pair[1] for pair in pairs]), later)
    path = tmp_path / "large.npz"
    save_arrays(path, {"r": np.random.default_rng(0).standard_normal((30_000, 300), np.float32)})
    with LiveMemory():  # what PyTorch imports with the first of them is no memory of rows
        correlate(pairs, "r")
    tracemalloc.start()
    with LiveMemory() as memory:
        got = correlate(row_pairs(path, path, "r", 500, torch.device("cpu")), "r")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    torch.testing.assert_close(got.diagonal, torch.ones(300).double())
    assert memory.peak + most < path.stat().st_size / 2


def test_a_row_of_noise_depends_on_its_number_alone():
    whole = noise_rows(range(3 * NOISE_BLOCK), 2, 5, 6)
    for rows in (range(0), range(1), range(7, 7), range(500, 530), range(511, 1025)):
        assert torch.equal(noise_rows(rows, 2, 5, 6), whole[rows.start : rows.stop])
    assert abs(float(whole.mean())) < 5 / whole.numel() ** 0.5
    assert float(whole.std()) == pytest.approx(1, abs=0.1)
    assert len(whole.unique()) == whole.numel()
    assert not (noise_rows(range(9), 2, 5, 7) == whole[:9]).any()


def inexact_flow(error=0.0):
    basis = EigenBasis(torch.zeros(3), XI, torch.eye(3, dtype=torch.float64))
    schedule = InflationSchedule.to_dimension(2, 3, top_variance=2.0, gamma0=0.1)
    return gaussian_flow(basis, schedule, error)


class Record:
    """What a probe gave, stacked over the times."""

    def __init__(self):
        self._seen = []

    def __call__(self, index, values):
        assert index == len(self._seen)
        self._seen.append(values)

    def __getitem__(self, name):
        return torch.stack([got[name] for got in self._seen])


def test_independent_residuals_of_the_exact_denoiser_correlate_as_known():
    """The correlation is ``sqrt(gamma_0 gamma_t / ((xi + gamma_0) (xi + gamma_t)))``."""
    flow, count = inexact_flow(), 20_000
    times = torch.linspace(0, 4, 5, dtype=torch.float64)
    clean = XI.sqrt() * normal(count, 3, seed=1)
    record = Record()
    ResidualProbe(flow, times).independent(clean, range(count), 1, 2, record)
    residuals = record["net_residuals"]
    torch.testing.assert_close(residuals, record["net_outputs"] - clean)
    gamma = flow.schedule.noise_variance(times)
    # What it does not know, xi gamma / (xi + gamma), is orthogonal to what it says.
    unknown = XI * gamma / (XI + gamma)
    np.testing.assert_allclose(residuals.var(dim=1) / unknown, 1, atol=0.06)
    fraction = (gamma / (XI + gamma)).sqrt()
    for index in range(1, 5):
        got = correlate([(residuals[0], residuals[index])], "r")
        exact = torch.diag(fraction[0] * fraction[index])
        np.testing.assert_allclose(got.matrix, exact, atol=5 / count**0.5)
    assert float((fraction[0] * fraction[4]).max()) > 0.4


def test_path_residuals_sum_up_to_how_far_the_path_leads():
    """``y = x_tilde - e`` is ``-int (r/2) sqrt(gamma_T/gamma_s) residual ds`` if it starts at 0."""
    flow, solver = inexact_flow(0.1), get_solver("exp_rk5")
    times = torch.linspace(0, 3, 301, dtype=torch.float64)
    clean = XI.sqrt() * normal(11, 3, seed=1)
    record = Record()
    ResidualProbe(flow, times).path(clean, solver, record)
    residuals = record["net_residuals"]
    assert residuals.shape == (301, 11, 3)
    gamma = flow.schedule.noise_variance(times)[:, None]
    kernel = flow.schedule.log_noise_rate(times)[:, None] / 2 * (gamma[-1] / gamma).sqrt()
    deviation = -torch.trapezoid(kernel * residuals, times, dim=0)
    melted = flow.melt(clean, times, solver).end / flow.schedule.scale(times[-1])
    torch.testing.assert_close(melted - clean, deviation, rtol=1e-3, atol=1e-4)
    assert (melted - clean).abs().max() > 0.1


def test_the_exact_part_of_a_residual_is_the_error_of_the_denoiser():
    flow, wrong = inexact_flow(), inexact_flow(0.1)
    exact = MixtureDenoiser(
        torch.ones(1), torch.zeros(1, 3), torch.diag(XI), torch.eye(3), flow.basis, flow.schedule
    )
    times = torch.linspace(0, 3, 4, dtype=torch.float64)
    clean = XI.sqrt() * normal(9, 3, seed=1)
    for probe, error in ((flow, 0.0), (wrong, 0.1)):
        for noise in ("independent", "path"):
            record = Record()
            looking = ResidualProbe(probe, times, exact)
            if noise == "path":
                looking.path(clean, get_solver("heun"), record)
            else:
                looking.independent(clean, range(9), 0, 0, record)
            expected = record["net_outputs"] * error / (1 + error)
            torch.testing.assert_close(record["exact_residuals"], expected, atol=1e-9, rtol=1e-9)


def test_residuals_that_are_not_finite_are_an_error_that_names_their_time():
    flow = inexact_flow()
    broken = ProbabilityFlow(lambda x, t: x / (t - 1), flow.schedule, flow.basis)
    probe = ResidualProbe(broken, torch.linspace(0, 2, 3, dtype=torch.float64))
    with pytest.raises(DataError, match="infinite at t = 1"):
        probe.independent(normal(4, 3), range(4), 0, 0, lambda index, found: None)


def test_correlation_times_of_lines_of_zeros_and_of_what_does_not_vary():
    lags = torch.linspace(0, 5, 11, dtype=torch.float64)
    got = correlation_time(lags, 1 - lags / 3.2)
    assert (got.gone, got.integral) == pytest.approx((3.2, 1.6))
    assert got.bound is None
    assert (got.e_folding, str(got)) == (pytest.approx(3.2 * (1 - 1 / math.e)), "1.6")
    got = correlation_time(lags, 1 - lags / 4, scatter=0.25)
    assert (got.gone, got.integral) == pytest.approx((3, 3 * 0.625))
    lags = torch.arange(6.0)
    got = correlation_time(lags, torch.tensor([1.0, 0.5, -0.5, 0.9, 0.9, 0.9]))
    assert (got.gone, got.integral) == pytest.approx((1.5, 0.75 + 0.125))
    lags = torch.tensor([0.0, 1, 3])
    got = correlation_time(lags, torch.tensor([1.0, 0.8, 0.6]))
    assert (got.integral, got.bound) == (pytest.approx(0.9 + 1.4), "lower")
    assert math.isnan(got.gone)
    assert math.isnan(got.e_folding)
    assert str(got) == "at least 2.3"
    _, facts = residuals.Autocorrelations(["r"], 3, 2).summary(lags, 100)
    assert facts["r"]["most_constant_dims"] == 2
    got = correlation_time(lags, torch.zeros(3))
    assert (got.integral, got.bound) == (0, None)
    for count in (2, 4, 5, 6):
        mean = torch.tensor([1.0, 0.8, 0.7])
        got = correlation_time(torch.arange(3.0), mean, residuals.scatter_of(count))
        assert (got.integral, got.bound) == (1, "upper")
    # A small rest is above the scatter at the next lag by chance, and gone thereafter.
    lags = torch.arange(0, 1, 0.05)
    rest = torch.tensor([1.0, 0.03, 0.025, 0.022, *[0.001] * 16])
    got = correlation_time(lags, rest, scatter=0.02)
    assert (got.integral, got.bound) == (pytest.approx(0.05), "upper")
    assert 0.15 < got.gone < 0.2


def fresh(spacing, count, seed, dim=2):
    """Of samples that know nothing of any other time, from 0 to 7."""
    lags = torch.arange(0, 7, spacing, dtype=torch.float64)
    first = normal(count, dim, seed=1000 * seed)
    mean = torch.ones(len(lags), dtype=torch.float64)
    for index in range(1, len(lags)):
        pair = first, normal(count, dim, seed=1000 * seed + index)
        mean[index] = correlate([pair], "r").diagonal.mean()
    return correlation_time(lags, mean, residuals.scatter_of(count))


@pytest.mark.parametrize(("count", "spacing"), [(100, 0.05), (1000, 0.2)])
def test_what_is_gone_at_once_lasts_less_than_the_spacing(count, spacing):
    for seed in range(5):
        got = fresh(spacing, count, seed)
        assert (got.integral, got.bound) == (pytest.approx(spacing), "upper")
        assert (got.e_folding, str(got)) == (pytest.approx(spacing), f"< {spacing}")


def test_an_exponential_lasts_as_long_on_any_grid_and_two_times_bound_it():
    for spacing, count in product((0.01, 0.1, 0.5), (1000, 100_000)):
        lags = torch.arange(0, 20, spacing, dtype=torch.float64)
        scatter = residuals.scatter_of(count)
        got = correlation_time(lags, (-lags).exp(), scatter)
        # What is cut off at the end, and the trapezoids.
        assert got.integral == pytest.approx(1, abs=scatter + spacing**2 / 10)
        assert got.bound is None
    for last, bound in ((0.5, "lower"), (0.3, "upper")):
        got = correlation_time(torch.tensor([0.0, 2]), torch.tensor([1.0, last]), 0.01)
        assert got.bound == bound
        assert (1 / (-math.log(last) / 2) < got.integral) == (bound == "upper")


def test_chance_scatters_as_it_is_said_to():
    count, repeats = 50, 4000
    first, later = normal(count, repeats, seed=1), normal(count, repeats, seed=2)
    for shape in (torch.clone, torch.exp, lambda x: x**3):  # normal, skewed, and with heavy tails
        got = correlate([(shape(first), shape(later))], "r").diagonal
        assert float(got.std()) == pytest.approx(residuals.scatter_of(count) / 2, rel=0.05)
