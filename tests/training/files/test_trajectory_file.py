"""Files: ends of melts that are gone on from, observations, and the kinds of all."""

from importlib import import_module
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.draws import normal
from tests.support.flows import Counted, random_basis
from tests.support.outcomes import TRAJECTORY
from tests.support.running import refusal
from torch_utils.results import load_arrays, save_arrays
from training.files.declared import PREFIX, ResultFile
from training.files.formats import FORMATS
from training.files.observations import read_columns, read_mask, read_observations
from training.files.posterior_draws import AboutDraws, save_netcdf, variable_names
from training.files.trajectory import SavedEnd, describe_state, trajectory_file
from training.flow.pfode import ProbabilityFlow, State
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.inference.draws import Draws
from training.models.simulations import Simulator
from training.pictures.album import content_maker

HEUN = SOLVERS["heun"]
SCHEDULE = InflationSchedule.to_dimension(1, 3, top_variance=2.0, end_std=0.7)
# Nonlinear, with a mean, a rotation and unequal noise.
FLOW = ProbabilityFlow(lambda x, t: x.tanh(), SCHEDULE, random_basis(3))
DATA, TIMES = normal(6, 3), torch.linspace(0, 4, 9, dtype=torch.float64)
LABELS = torch.eye(6)[:, :2]
ROW = ["x1", "x2", "x3"]
NAMES = ["body_mass_g", "x", "km/h", "draw", "..", "x_"]


def test_results_have_their_arrays_and_explain_themselves(tmp_path):
    Simulator(FLOW, TIMES, HEUN, save_every=1).melt(DATA, path=tmp_path / "melt.npz")
    arrays = load_arrays(tmp_path / "melt.npz")
    sizes = {"S": 9, "N": 6, "D": 3}
    shapes = {name: tuple(sizes[axis] for axis in axes) for name, axes in TRAJECTORY.items()}
    assert str(arrays.pop("format")) == "inflationary-flows trajectory 1"
    assert {name: array.shape for name, array in arrays.items()} == shapes
    assert all(array.dtype == np.float64 for array in arrays.values())
    scale = arrays["scale"][:, None, None]
    rotation, mean = arrays["eigenvectors"], arrays["mean"]
    assert_equal = np.testing.assert_allclose
    assert_equal(arrays["xs"], scale * arrays["tilde_xs"], rtol=1e-13)
    assert_equal(arrays["xs_es"], scale * arrays["tilde_xs_es"], rtol=1e-13)
    assert_equal(arrays["tilde_xs"], arrays["tilde_xs_es"] @ rotation.T + mean, atol=1e-13)
    assert_equal(arrays["dxs"], arrays["dxs_es"] @ rotation.T, atol=1e-13)
    assert_equal(arrays["net_outs"], np.tanh(arrays["tilde_xs_es"]), rtol=1e-13)
    scores = (arrays["net_outs"] - arrays["tilde_xs_es"]) / arrays["noise_variance"][:, None]
    assert_equal(arrays["unscaled_scores"], scores, rtol=1e-13)
    assert_equal(arrays["dxs_es"][1:], np.diff(arrays["xs_es"], axis=0), atol=1e-14)
    assert (arrays["dxs_es"][0] == 0).all()
    times = torch.from_numpy(arrays["times"])
    assert_equal(arrays["scale"], FLOW.schedule.scale(times))
    assert_equal(arrays["noise_variance"], FLOW.schedule.noise_variance(times))
    assert_equal(arrays["eigenvalues"], FLOW.basis.eigenvalues)


@pytest.mark.parametrize(("save_every", "dtype"), [(1, "float64"), (3, "float32"), (8, "float64")])
def test_a_file_has_what_memory_has(tmp_path, save_every, dtype):
    simulator = Simulator(FLOW, TIMES, HEUN, save_every)
    labels = torch.arange(12.0).view(6, 2)
    for simulate, start in (("melt", (DATA,)), ("generate", (DATA, "gen"))):
        kept = getattr(simulator, simulate)(*start).trajectory
        path = tmp_path / f"{simulate}.npz"
        file = {"path": path, "dtype": dtype, "labels": labels}
        streamed = getattr(simulator, simulate)(*start, **file).trajectory
        assert torch.equal(streamed.states, kept.states[[0, -1]])
        arrays = load_arrays(path)
        assert set(arrays) == {*TRAJECTORY, "labels", "format"}
        np.testing.assert_array_equal(arrays["times"], kept.times)
        np.testing.assert_array_equal(arrays["labels"], labels, strict=True)
        for index, state in enumerate(zip(kept.times, kept.states, kept.updates, strict=True)):
            for name, rows in describe_state(FLOW, State(*state)).items():
                expected = rows.numpy().astype(dtype)
                np.testing.assert_array_equal(arrays[name][index], expected, strict=True)


def test_the_denoiser_is_called_once_for_a_saved_state(tmp_path):
    counted = Counted(FLOW.denoiser)
    counting = ProbabilityFlow(counted, FLOW.schedule, FLOW.basis)
    times = FLOW.schedule.times(4, 4.0)
    with trajectory_file(tmp_path / "melt.npz", counting, times[[0, 4]], len(DATA)) as record:
        for index in (0, 4):
            record(State(times[index], DATA, torch.zeros_like(DATA)))
    assert counted.times == [0.0, 4.0]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_saved_melt_gives_its_ends_in_double_precision_and_its_labels(tmp_path, dtype):
    path, given = tmp_path / "melt.npz", {"labels": LABELS} if dtype == "float64" else {}
    Simulator(FLOW, TIMES, HEUN, save_every=8).melt(DATA, path=path, dtype=dtype, **given)
    # Steps between the first and the last time are free.
    saved = SavedEnd.load(path, FLOW, torch.linspace(0, 4, 4, dtype=torch.float64))
    assert saved.path == path
    assert saved.labels is given.get("labels") or torch.equal(saved.labels, LABELS)
    kept = FLOW.melt(DATA, TIMES, HEUN).states
    for rows, expected in zip((saved.start, saved.x), kept, strict=True):
        assert torch.equal(rows, expected.to(getattr(torch, dtype)).double())


CHANGES = {
    "one state": ("xs_es", lambda x: x[0], ["[6, 3]", "[S, N, D]"]),
    "a state too few": ("xs_es", lambda x: x[:-1], ["times", "shape [5]", "expected [4]"]),
    "falling times": ("times", lambda x: x[::-1], ["not an inflation", "times decrease"]),
    "dimensions": ("xs_es", lambda x: x[:, :, :2], ["noise_variance", "[5, 3]", "[5, 2]"]),
    "first time": ("times", lambda x: x + np.array([0.1, 0, 0, 0, 0]), ["times", "0.1, 4", "0, 4"]),
    "last time": ("times", lambda x: 1.01 * x, ["times", "4.04"]),
    "eigenvalues": ("eigenvalues", lambda x: 1.1 * x, ["eigenvalues", "2.2, 1.155", "2, 1.05"]),
    "scale": ("scale", lambda x: 3 * x, ["scales"]),
    "noise": ("noise_variance", lambda x: 2 * x, ["noise variances", "0.001", "0.0005"]),
    "labels of fewer": ("labels", lambda x: x[:5], ["labels", "[5, 2]", "[6, L]"]),
}


def test_a_file_that_is_no_melt_of_this_flow_or_network_is_refused(tmp_path):
    melted, own = tmp_path / "melt.npz", {"labels": LABELS, "network_sha256": "a" * 64}
    Simulator(FLOW, TIMES, HEUN, save_every=2).melt(DATA, path=melted, **own)
    for known in (None, "a" * 64):
        assert len(SavedEnd.load(melted, FLOW, TIMES, known).x) == len(DATA)
    with pytest.raises(DataError, match=r"another network.*aaaa.*bbbb"):
        SavedEnd.load(melted, FLOW, TIMES, "b" * 64)
    arrays = load_arrays(melted)
    for change, (name, function, parts) in CHANGES.items():
        save_arrays(melted, arrays | {name: function(arrays[name])})
        message = refusal(SavedEnd.load, melted, FLOW, TIMES)
        for part in parts:
            assert part in message, change
    for name in ("times", "scale", "eigenvalues", "xs_es", "noise_variance"):
        save_arrays(melted, {key: array for key, array in arrays.items() if key != name})
        assert f"'{name}'" in refusal(SavedEnd.load, melted, FLOW, TIMES)
    one = {name: arrays[name][:1] for name in ("times", "xs_es", "scale", "noise_variance")}
    save_arrays(melted, arrays | one)
    assert "[1, 6, 3]" in refusal(SavedEnd.load, melted, FLOW, TIMES)


def written(folder, text):
    path = folder / "seen.csv"
    path.write_text(text)
    return path


def read(folder, text, *names):
    return read_columns(written(folder, text), names, ROW, ["total"]).tolist()


def test_columns_are_found_by_name_in_whatever_order_they_stand(tmp_path):
    assert read(tmp_path, "x2,x1\n2,1\n4,3\n", "x1", "x2") == [[1, 2], [3, 4]]
    # Of a whole row only what is seen has to be a number.
    assert read(tmp_path, "x3,total,x2,x1\n,9,?,1\n", "x1") == [[1]]
    assert read(tmp_path, "x2\n5\n", "x2") == [[5]]


def test_numbers_without_names_are_whole_rows_or_what_is_seen_in_its_order(tmp_path):
    assert read(tmp_path, "1,2,3\n6,5,4\n", "x1", "x3") == [[1, 3], [6, 4]]
    assert read(tmp_path, "1,2\n6,5\n", "x1", "x3") == [[1, 2], [6, 5]]
    np.save(tmp_path / "seen.npy", np.array([[7.0, 8.0, 9.0]]))
    assert read_columns(tmp_path / "seen.npy", ["x2"], ROW).tolist() == [[8]]
    # A first row of numbers that are names is a header.
    path = written(tmp_path, "2001,2000\n1,2\n")
    assert read_columns(path, ["2000", "2001"]).tolist() == [[2, 1]]


def test_what_does_not_fit_is_told_by_row_and_column(tmp_path):
    for text, match in (
        ("foo\n1\n", "a column 'foo', which is not among x1, x2, x3"),
        ("x1,x2,foo\n1,2,3\n", "a column 'foo', which is not among x1, x2, x3"),
        ("x1,x3\n1,2\n", "no column 'x2': give the columns x1, x2"),
        ("x1,x2,x1\n1,2,3\n", "two columns 'x1'"),
        ("1,2,3,4\n", "4 columns without names, expected 2 or 3"),
        ("x1,x2\n1,2\n3,\n", "line 3, column 'x2': the value is missing"),
        ("x1,x2\n1,2\n3,four\n", "line 3, column 'x2': 'four' is not a number: correct it, or l"),
        ("x1,x2\n", "has no rows"),
    ):
        with pytest.raises(DataError, match=match) as got:
            read(tmp_path, text, "x1", "x2")
        assert "\n" not in str(got.value)
        assert "--columns" not in str(got.value)


def test_what_has_no_names_of_its_own_is_taken_in_order_whatever_its_name(tmp_path):
    assert read_observations(written(tmp_path, "x2,foo\n1,2\n")).tolist() == [[1, 2]]
    assert "is not a table: give a" in refusal(read_observations, tmp_path / "images.zip")


def test_a_mask_takes_names_with_commas_in_their_order_and_says_what_it_could_be():
    names = ["age", "price, EUR", "size"]
    assert read_mask('"price, EUR",age', names, None).tolist() == [1, 0]
    with pytest.raises(UsageError, match="--mask has 'top': give names of coordinates"):
        read_mask("top", names, None)
    with pytest.raises(UsageError, match="give upper-half, lower-half, left-half, right-half, or"):
        read_mask("top", names, (1, 1, 3))


def test_columns_are_variables_by_names_that_netcdf_takes_and_that_are_free(tmp_path):
    assert variable_names(NAMES) == ["body_mass_g", "x_", "km_h", "draw_", "_", "x__"]
    points = normal(3, 2, 5, 6)
    drawn = Draws(points, points, points[..., 0], ["pool"] * 3, torch.ones(3))
    worth = torch.tensor([7.0, 2.5, torch.nan])
    path = tmp_path / "draws.nc"
    about = AboutDraws(names=NAMES, run={"samplers": drawn.sampler}, worth=worth)
    save_netcdf(path, iter([(drawn, -points)]), (2, 5, 3), about)
    with h5netcdf.File(path) as file:
        posterior = file["posterior"]
        for place, name in enumerate(variable_names(NAMES)):
            variable = posterior[name]
            assert variable.dimensions == ("chain", "draw", "observation")
            assert variable.attrs["long_name"] == NAMES[place]
            np.testing.assert_array_equal(variable[...], posterior["x"][..., place])
        assert posterior["z"].dimensions[-1] == "latent"
        assert posterior["latent"][0] == b"z1"
        # As draws alone they would seem to be worth up to ten each.
        assert posterior.attrs["effective_size"] == 2.5


FILES = Path(__file__).parents[3] / "training" / "files"
BESIDE = {"simulations", "roundtrip errors", "roundtrip errors of rows", "image distances"}
BESIDE |= {"generated images", "mixture", "model comparison", "round", "trajectory"}
"""Kinds of JSON files and of draws of weights. What a trajectory is of says its kind."""


def test_every_format_has_a_line_and_what_draws_and_shows_it_exists():
    for kind, entry in FORMATS.items():
        assert not entry.content or callable(content_maker(kind))
    modules = [import_module(f"training.files.{path.stem}") for path in FILES.glob("*.py")]
    named = [(name, value) for module in modules for name, value in vars(module).items()]
    kinds = {value.kind for _, value in named if isinstance(value, ResultFile) and value.kind}
    texts = [text for name, text in named if name.endswith("FORMAT")]
    kinds |= {text.removeprefix(PREFIX).rpartition(" ")[0] for text in texts}
    assert {"round", "table", "posterior check"} <= kinds
    assert kinds - BESIDE <= FORMATS.keys()
