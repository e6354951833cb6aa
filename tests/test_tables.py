"""A table from CSV to a flow, its samples and densities, by the scripts that people call."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import calc_net_residuals_autocorrelations as calc_residuals
import calc_roundtrip_mse
import dataset_tool
import info
import pfODE_int
import toy_mesh_exps
import train
from dnnlib.warned import InflationWarning
from tests.support.finished_runs import HOUSE_NAMES, PLAIN, SMALL, write_csv, write_houses
from tests.support.image_runs import equal, load, stats
from tests.support.outcomes import assert_same, only_json, outcome
from tests.support.running import contents, good, in_coordinates, refused, run_script, trained
from torch_utils import distributed
from torch_utils.results import load_arrays
from torch_utils.snapshots import read_network, write_network
from training.data.batches import Batch
from training.data.tables.table import Rows, TableBatches
from training.files.records import load_records
from training.files.table import load_table
from training.flow.integrations import Integration
from training.models import model as models
from training.settings.simulations import BOUNDARY_POINTS
from training.subjects import TableFlow
from training.trained.network import TrainedNetwork


@pytest.fixture(scope="module")
def network(houses_run):
    return houses_run / "network-snapshot-000004.pkl"


def read_rows(path):
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return names, np.array(rows, dtype=float)


def test_samples_come_as_rows_of_the_source(network, tmp_path):
    out = tmp_path / "samples.csv"
    options = ("--sim_type=gen", "--bs=40", f"--csv={out}", f"--save_dir={tmp_path}")
    text = good(run_script(pfODE_int, f"--network={network}", *options)).out
    assert f"Wrote {out}" in text
    names, rows = read_rows(out)
    assert names == HOUSE_NAMES
    assert rows.shape == (40, 5)
    assert (rows[:, 1] == rows[:, 1].round()).all()
    with out.open(newline="") as file:
        assert all(len(cells[3].partition(".")[2]) <= 1 for cells in csv.reader(file))
    assert (rows[:, 2] == 4).all()
    np.testing.assert_allclose(rows[:, 4], 2 * rows[:, 0] + 1, rtol=1e-9)
    arrays = load_arrays(tmp_path / "houses_PRP_gen.npz")
    assert arrays["names"].tolist() == ["size", "room count", "price"]
    np.testing.assert_allclose(arrays["points"][:, 0], rows[:, 0], rtol=1e-9)
    # Draws keep to the range that the data had.
    assert set(rows[:, 1]) <= {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("options", "steps"),
    [([], 3), (["--log_prob"], 3), (["--save_freq=1"], 20), (["--n_iters=2"], 2)],
)
def test_a_lone_generation_goes_by_the_course_of_the_network(network, options, steps, tmp_path):
    model = TrainedNetwork.load(network)
    integration = Integration("exp_rk5", 3, 3, melts=False)
    integration.place(model.flow.times)
    model.integrations = {"points": integration}
    model.save(tmp_path / "network.pkl")
    alone = ("--sim_type=gen", "--bs=5", f"--save_dir={tmp_path}", *options)
    good(run_script(pfODE_int, f"--network={tmp_path / 'network.pkl'}", *alone))
    parameters = json.loads(next(tmp_path.glob("*_sim_params.json")).read_text())
    taken = parameters["gen"]["options"]
    assert (taken["solver"], taken["n_iters"]) == ("exp_rk5", steps)


def test_numbers_can_be_names_and_conditions_may_be_among_the_columns(tmp_path):
    (tmp_path / "years.csv").write_text("2000,2001,2002\n" + "3,1,2\n4,1.5,7\n5,0,1.5\n" * 5)
    making = (dataset_tool, f"--source={tmp_path / 'years.csv'}", f"--dest={tmp_path / 'y.npz'}")
    refused(run_script(*making), 1, "--header=yes")
    chosen = ("--header=yes", "--columns=2002,2000,2001", "--conditions=2001,2000")
    good(run_script(*making, *chosen))
    table = load_table(tmp_path / "y.npz")
    assert (table.names, table.condition_names) == (["2002"], ["2001", "2000"])


def test_what_is_only_numbers_is_a_table_and_what_is_not_is_records(tmp_path):
    source, dest = tmp_path / "table.csv", tmp_path / "table.npz"
    making = (dataset_tool, f"--source={source}", f"--dest={dest}", "--overwrite")
    rows = "".join(f"{row};{row % 7},{row % 3};${row % 5},000;0{row % 2}\n" for row in range(50))
    source.write_text(";a;b;c\n" + rows)
    text = good(run_script(*making, "--exclude=b,c")).out
    assert "Dropped the first column, which has no name" in text
    np.testing.assert_allclose(load_table(dest).points[:4, 0], [0, 1.1, 2.2, 3.0])
    text = good(run_script(*making, "--columns=a,c")).out
    assert "c       category  2 levels: 00, 01" in text
    assert load_records(dest).names == ["a", "c"]
    assert "a (number), c (category)" in good(run_script(info, dest)).out
    source.write_text("a,b\n" + "".join(f"{row % 7},{row % 9 or ''}\n" for row in range(50)))
    good(run_script(*making))
    assert np.isnan(load_records(dest).values).sum() == 6
    good(run_script(*making, "--missing=drop"))
    assert len(load_table(dest)) == 44


def test_held_out_rows_melt_and_have_densities(network, houses, tmp_path):
    model = TrainedNetwork.load(network)
    model.integrations = {"densities": Integration("exp_rk5", 10, 3, melts=True)}
    model.integrations["densities"].place(model.flow.times)
    model.save(tmp_path / network.name)
    own, data = f"--network={tmp_path / network.name}", f"--data_root={houses}"
    where = (own, data, f"--save_dir={tmp_path}")
    text = good(run_script(pfODE_int, *where, "--log_prob", "--bs=60")).out
    assert "Warning" not in text
    melt = load_arrays(tmp_path / "houses_PRP_melt.npz")
    held_out = np.flatnonzero(load_arrays(houses)["held_out"])
    np.testing.assert_array_equal(melt["row_index"], held_out)
    original = load_arrays(houses)["points"][held_out]
    assert (np.abs(melt["points"] - original) <= [1e-9, 0.5, 0.05 + 1e-9]).all()
    parameters = json.loads((tmp_path / "houses_PRP_HD_pfODE_int_sim_params.json").read_text())
    assert parameters["roundtrip"]["rms_error"] < 1e-3
    assert set(parameters["roundtrip"]["largest_error"]) == {"size", "room count", "price"}
    assert "density_ranks" in parameters["gen"]
    mean = parameters["melt"]["likelihood"]["log_prob"]["mean"]
    assert mean == pytest.approx(melt["log_prob"].mean())
    rows = tmp_path / "rows.csv"
    alone = ("--sim_type=melt", "--log_prob", f"--csv={rows}", "--overwrite")
    good(run_script(pfODE_int, *where, *alone, "--seed=5"))  # which spreads them otherwise
    names, got = read_rows(rows)
    assert names == [*HOUSE_NAMES, "log_prob", "log_prob_error"]
    assert (load_arrays(tmp_path / "houses_PRP_melt.npz")["points"] != melt["points"]).any()
    np.testing.assert_allclose(got[:, -2], melt["log_prob"], rtol=1e-9)
    np.testing.assert_allclose(got[:, -1], melt["log_prob_error"], rtol=1e-6)
    text = good(run_script(calc_roundtrip_mse, *where, "--n_iters=4", "--seed=3")).out
    result = json.loads((tmp_path / "houses_PRP_roundtrip_mse_seed3.json").read_text())
    assert result["format"] == "inflationary-flows roundtrip errors of rows 1"
    assert (result["rows"], set(result["columns"])) == (60, {"size", "room count", "price"})
    assert 0 < result["rms_error"] < 0.1
    assert "Round trip of 60 rows" in text


def test_held_out_rows_are_counted_in_carried_spheres(network, houses, tmp_path, monkeypatch):
    place = (toy_mesh_exps, f"--network={network}", f"--save_dir={tmp_path / 'out'}")
    few = ("--test_pts=50", "--r_num=3", "--r_max=2", "--boundary_pts=1500")
    text = good(run_script(*place, f"--data_root={houses}", *few)).out
    assert f"fresh: 60 rows of {houses}" in text
    arrays = load_arrays(tmp_path / "out" / "houses_PRP_coverage.npz")
    held_out = load_arrays(houses)["points"][np.flatnonzero(load_arrays(houses)["held_out"])]
    noise = 6 * 0.1 * held_out.std(axis=0) + [0, 0.5, 0.05]
    assert (np.abs(arrays["fresh_data"] - held_out) < noise).all()
    # In a flow, to be inside of what a sphere is carried to is to come from its inside.
    flow = TrainedNetwork.load(network).flow
    latents = flow.encode(torch.from_numpy(arrays["fresh_data"]))
    radii = (latents / flow.latent.std).square().sum(dim=1).sqrt().numpy()
    expected = (radii[:, None] < arrays["radii"]).mean(axis=0)
    assert 0 < expected[0] < expected[2] < 1
    np.testing.assert_allclose(arrays["coverage_fresh"], expected, atol=2.5 / 60)
    monkeypatch.delitem(BOUNDARY_POINTS, 3)
    with_data = run_script(*place, f"--data_root={houses}")
    refused(with_data, 2, "3 columns", "pfODE_int.py --sim_type=melt")


def test_residuals_of_held_out_rows_correlate(network, houses, tmp_path):
    out, correlated = tmp_path / "residuals", tmp_path / "correlations"
    place = ("extract", f"--network={network}", f"--data_root={houses}", f"--save_dir={out}")
    good(run_script(calc_residuals, *place, "--n_time_pts=3", "--noise=path"))
    arrays = load_arrays(out / "houses_PRP_net_outputs_residuals_time2.npz")
    clean = (arrays["net_outputs"] - arrays["net_residuals"]).astype(np.float64)
    flow, first = TrainedNetwork.load(network).flow, torch.tensor(0.0)
    points = flow.to_data(flow.schedule.scale(first) * torch.from_numpy(clean), first).numpy()
    held_out = load_arrays(houses)["points"][np.flatnonzero(load_arrays(houses)["held_out"])]
    assert (np.abs(points - held_out) < [1e-3, 0.501, 0.051]).all()
    root = (f"--res_root={out}", f"--save_dir={correlated}")
    good(run_script(calc_residuals, "calc", *root))
    summary = load_arrays(correlated / "houses_PRP_autocorrelations_summary.npz")
    assert len(summary["times"]) == 3


def test_misfits_of_network_and_table_are_told(network, houses, tmp_path, caplog):
    """Columns in another order are found by name; others, and broken files, are refused."""
    names, numbers = read_rows(write_houses(tmp_path / "first.csv"))
    numbers[[7, 8], names.index("double")] = 5, 6
    rows, off = write_csv(tmp_path / "rows.csv", names, numbers), "not in 2 row(s): row 8 has 5 in"
    turned, fewer = tmp_path / "turned.npz", tmp_path / "fewer.npz"
    making = (dataset_tool, f"--source={rows}", "--held-out=0.2")
    good(run_script(*making, f"--dest={turned}", "--columns=price,room count,size,double"))
    good(run_script(*making, f"--dest={fewer}", "--columns=size,price"))
    few = ("--sim_type=melt", "--n_iters=2", f"--network={network}")
    for path, place in ((houses, "one"), (turned, "other")):
        where = (f"--data_root={path}", f"--save_dir={tmp_path / place}")
        text = good(run_script(pfODE_int, *few, *where)).out
        assert (f"Warning: {path}: column 'double'" in text) == (off in text) == (place == "other")
    with pytest.warns(InflationWarning, match=re.escape(off)):
        models.Model.load(network).log_prob(dict(zip(names, numbers.T, strict=True)))
    caplog.clear()
    prior = TableFlow.of(TrainedNetwork.open(str(network)), {})
    assert torch.equal(prior.points(rows), torch.from_numpy(numbers[:, [0, 1, 3]]))
    assert off in caplog.text
    prior.points(rows, torch.tensor([1, 2]))
    assert "300 row(s) lack some of these: their values of 'double' are not" in caplog.text
    one, other = (load_arrays(tmp_path / name / "houses_PRP_melt.npz") for name in ("one", "other"))
    np.testing.assert_array_equal(one["xs_es"], other["xs_es"])
    where = (f"--data_root={fewer}", f"--save_dir={tmp_path / 'out'}")
    refused(run_script(pfODE_int, *few, *where), 1, fewer, "no column 'room count'")
    parts, about = read_network(network)
    broken = tmp_path / "broken.pkl"
    broken_one = (f"--network={broken}", f"--save_dir={tmp_path / 'out'}", "--sim_type=gen")
    for change, text in (
        ({"columns": ["size"]}, "does not name its 3 columns"),
        ({"dropped": 3}, "dropped columns"),
        ({"dropped": {**about["dropped"], "slopes": [[1.0]]}}, "dropped columns"),
    ):
        write_network(broken, parts, {**about, **change})
        refused(run_script(pfODE_int, *broken_one), 1, broken, text)


def test_tables_calibrate_on_held_out_rows(houses_run, houses, tmp_path):
    folder = tmp_path / "run"
    with in_coordinates(**PLAIN):
        trained(folder, train, f"--data={houses}", *SMALL, "--calibrate")
    plain, calibrated = (load(place).denoiser for place in (houses_run, folder))
    assert plain.calibration is None
    assert (calibrated.calibration.gains != 1).any()
    assert equal(plain.network.state_dict(), calibrated.network.state_dict())
    assert "The calibration is fitted to 60 held-out rows" in (folder / "log.txt").read_text()
    saved = (only_json(place, "training_options.json") for place in (houses_run, folder))
    assert [one["options"]["calibrate"] for one in saved] == [False, True]


def test_a_run_is_resumed_with_its_own_table_only(houses_run, houses):
    before = contents(houses_run)
    with pytest.MonkeyPatch.context() as patch:
        other = replace(load_table(houses), values=load_table(houses).values + 1)
        patch.setattr("training.models.training.load_data_set", lambda path: other)
        refused(run_script(train, f"--resume={houses_run}"), 1, "belongs to another table")
    assert contents(houses_run) == before
    assert all("Likelihood/held_out_nats" in line for line in stats(houses_run))


@pytest.mark.slow
def test_two_ranks_train_what_one_does(two_ranks, houses, tmp_path):
    # Batches that two ranks cannot halve, and no dropout, which each rank draws for itself.
    few = ("--width=16", "--depth=1", "--batch=51", "--duration=0.002", "--tick=1")
    choices = []
    for name, run in (("one", run_script), ("both", two_ranks.run)):
        place = (f"--outdir={tmp_path / name}", "--nosubdir", f"--data={houses}")
        given = (*place, *few, "--lr=0.001", "--dropout=0")
        text = good(run(train, *given)).out.splitlines()
        choices.append([line for line in text if "nats on validation" in line or "Chosen" in line])
    assert len(choices[0]) == 7
    assert choices[0] == choices[1]
    assert_same(outcome(tmp_path / "both"), outcome(tmp_path / "one"), 1e-5)


def whole_batches():
    rows = torch.arange(14.0, dtype=torch.float64).reshape(7, 2)

    def in_flow(rows, generator):
        points = rows.points
        noise = torch.rand(points.shape, generator=generator, dtype=torch.float64)
        return Batch(points + noise, rows.conditions)

    steps = []
    for first in (0, 2):
        stream = TableBatches(Rows(rows, rows), in_flow, True, 5, seed=1).batches(first)
        batches = [next(stream) for _ in range(3)]
        # What a row is given with goes where the row goes.
        assert all(torch.equal(one.points.floor(), one.labels) for one in batches)
        steps += [distributed.gather_rows(one.points, 5) for one in batches]
    return steps


def joined_batches():
    with distributed.process_group("cpu"):
        return whole_batches()


def test_rows_come_once_an_epoch_from_any_step_on_any_number_of_ranks(two_ranks):
    steps = whole_batches()
    numbers = torch.cat(steps[:3]).floor()[:, 0] // 2
    for epoch in (numbers[:7], numbers[7:14]):
        assert sorted(epoch.tolist()) == list(range(7))
    assert not torch.equal(numbers[:7], numbers[7:14])
    assert torch.equal(steps[2], steps[3])
    for rank in two_ranks.call(joined_batches):
        assert all(torch.equal(one, other) for one, other in zip(rank, steps, strict=True))
