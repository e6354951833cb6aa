"""Questions about the rows of a raw CSV, by the scripts that people call and from Python."""

import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from pandas import read_csv

import ask
import dataset_tool
import info
import pfODE_int
import posterior
import train
import visualize
from dnnlib.errors import UsageError
from tests.support.image_runs import network_file
from tests.support.messy_tables import MESSY
from tests.support.running import good, quick_endings, refusal, refused, run_script, trained
from torch_utils.snapshots import read_network, write_network
from training import Answers, Table, calibrate, check
from training.data.tables.encoding import encode
from training.data.tables.schema import CATEGORY, NUMBER, Column
from training.data.tables.table import DataTable
from training.files.answers import SavedAnswers
from training.files.records import save_records
from training.flow.coordinates.maps import NOWHERE, Gaps
from training.models.answers import _frame
from training.models.queries import Sheet
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.subjects import RecordFlow, RecordPrior, record_training
from training.subjects.record_spaces import atoms_of, choose_space, level_of
from training.trained.network import TrainedNetwork

SMALL = {"batch": 64, "width": 32, "depth": 1}
QUICK = ("--duration=0.02", "--batch=64", "--width=32", "--depth=1", "--tick=8")
COUNT = 600


def shop(count=COUNT):
    """Sales whose law is known: cities have prices of their own, gifts follow the price, and tips
    are often none, or ten."""
    draw = np.random.default_rng(0)
    city = draw.choice(["Rome", "Oslo", "Bath"], count, p=[0.5, 0.3, 0.2])
    means = {"Rome": 10.0, "Oslo": 20.0, "Bath": 20.0}
    price = np.array([means[name] for name in city]) + draw.normal(0, 1, count)
    items = draw.poisson(30, count)
    usual = np.where(draw.random(count) < 0.45, 10, 1 + draw.poisson(11, count))
    return pandas.DataFrame(
        {
            "city": city,
            "price": price.round(2),
            "items": items,
            "total": (price * items + draw.normal(0, 5, count)).round(1),
            "gift": np.where(draw.random(count) < (price > 15) * 0.8 + 0.1, "yes", "no"),
            "tip": np.where(draw.random(count) < (price > 15) * 0.5, 0, usual),
        }
    )


def with_holes(frame, share=0.15):
    hidden = np.random.default_rng(1).random(frame.shape) < share
    return frame.astype(object).mask(hidden, None)


@pytest.fixture(scope="module")
def sold(tmp_path_factory):
    """A folder with a CSV, its data set and a run on it."""
    folder = tmp_path_factory.mktemp("sold")
    with_holes(shop()).assign(till=1).to_csv(folder / "shop.csv", index=False)
    source, dest = f"--source={folder / 'shop.csv'}", folder / "shop.npz"
    good(run_script(dataset_tool, source, f"--dest={dest}", "--held-out=0.2"))
    trained(folder / "run", train, f"--data={dest}", *QUICK)
    return folder


@pytest.fixture(scope="module")
def network(sold):
    return network_file(sold / "run")


def test_holes_are_filled_and_the_rest_stays(sold, network, tmp_path):
    out = tmp_path / "filled.csv"
    rows = (f"--network={network}", f"--data={sold / 'shop.csv'}")
    good(run_script(ask, "fill", *rows, f"--dest={out}"))
    before, after, truth = read_csv(sold / "shop.csv"), read_csv(out), shop()
    for name in before.columns:
        there = before[name].notna()
        assert (after[name][there] == before[name][there]).all()
        assert after[name].notna().all()
    hole = before["price"].isna() & before["city"].notna()
    assert (after["price"][hole] - truth["price"][hole]).abs().mean() < 1.1
    inside = truth["price"].between(after["price_low"], after["price_high"])[hole]
    assert 0.75 < inside.mean() <= 1
    good(run_script(ask, "fill", *rows, "--tables=2", f"--dest={tmp_path / 'drawn.csv'}"))
    one, two = (read_csv(tmp_path / f"drawn_{number}.csv") for number in (1, 2))
    assert (one["price"][hole] != two["price"][hole]).any()
    good(run_script(ask, "fill", *rows, f"--dest={out}", "--overwrite", "--no-held_out"))
    assert (read_csv(out)["price_low"][hole] != after["price_low"][hole]).any()
    neither = (f"--calibrate={out}", "--no-held_out", "--overwrite")
    refused(run_script(ask, "fill", *rows, f"--dest={out}", *neither), 2, "--no-held_out")


def test_columns_are_predicted_from_the_others(sold, network, tmp_path):
    fresh, out = shop(900).iloc[COUNT:].reset_index(drop=True), tmp_path / "predicted.csv"
    fresh.drop(columns="total").to_csv(tmp_path / "fresh.csv", index=False)
    data = f"--data={tmp_path / 'fresh.csv'}"
    options = (f"--network={network}", data, "--columns=total,city", f"--dest={out}")
    printed = run_script(ask, "predict", *options).out
    assert "has no column" not in printed, "what is asked need not be there"
    assert "far outside" not in printed
    made = read_csv(out)
    assert (made["total_predicted"] - (fresh["price"] * fresh["items"])).abs().median() < 25
    shares = made[["city_is_Rome", "city_is_Oslo", "city_is_Bath"]]
    assert np.allclose(shares.sum(axis=1), 1, atol=2e-3)
    assert (made["city_predicted"] == "Rome")[fresh["price"] < 13].mean() > 0.95
    # What cannot be told apart is not: Oslo and Bath have the same prices.
    assert abs(made["city_is_Oslo"][fresh["price"] > 18].mean() - 0.6) < 0.15


def test_odd_cells_are_named(network, tmp_path):
    rows = shop(12)
    rows.loc[3, "total"] = 99.0
    rows.loc[[5, 6], "price"] = 9999.0
    rows["till"] = [1, 1.0, 2] * 4
    rows.to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "scores.csv"
    data = (f"--data={tmp_path / 'rows.csv'}", f"--dest={out}")
    printed = run_script(ask, "score", f"--network={network}", *data).out
    assert "column 'price' has 2 value(s) far outside" in printed
    assert "'till' is constant in the training data, but not in 4 row(s): row 3 has 2.0" in printed
    assert "'total' has" not in printed
    scores = read_csv(out)
    assert scores["row"].tolist() == list(range(1, 13))
    assert set(scores["log_prob"].nsmallest(3).index) == {3, 5, 6}
    assert "total" in scores["odd_cells"][3] or "items" in scores["odd_cells"][3]
    assert scores["odd_cells"].isna().mean() > 0.6


def test_rows_are_drawn_given_what_all_have(network, tmp_path):
    out = tmp_path / "drawn.csv"
    options = ("--count=400", "--given=city:Rome", f"--dest={out}", f"--data={out}")
    shop().to_csv(out, index=False)
    good(run_script(ask, "sample", f"--network={network}", *options, "--overwrite"))
    real = read_csv(tmp_path / "drawn_real.csv")
    wanted = shop().assign(till=1).query("city == 'Rome'")
    assert real.equals(wanted.reset_index(drop=True))
    made = read_csv(out)
    assert list(made.columns) == list(wanted.columns)
    assert (made["city"] == "Rome").all()
    assert abs(made["price"].mean() - 10) < 0.5
    assert made["gift"].isin(["yes", "no"]).all()
    assert (made["items"] == made["items"].round()).all()
    none = (f"--network={network}", f"--dest={tmp_path / 'none.csv'}")
    far = (none[0], "--count=1", "--given=price:1e6", f"--dest={tmp_path / 'far.csv'}")
    assert "'price' has 1 value(s) far outside" in run_script(ask, "sample", *far).out
    for given, words in (
        ("city:Paris", "Rome"),
        ("city:Rome,city:Bath", "city:Bath contradicts"),
        ("items:1.5", "whole numbers"),
        ("items:1,5", "in double quotes"),
    ):
        refused(run_script(ask, "sample", *none, "--count=1", f"--given={given}"), 2, words)
    save_records(tmp_path / "other.npz", Table.open(shop(60).drop(columns="tip")).rows)
    data = f"--data={tmp_path / 'other.npz'}"
    refused(run_script(ask, "fill", *none, data), 1, "other columns")
    marks = ("--missing_values=-9", f"--calibrate={tmp_path / 'other.npz'}")
    refused(run_script(ask, "fill", *none, data, marks[0]), 2, "is a data set: leave")
    refused(run_script(ask, "fill", *none, data, *marks), 2, "is a data set: leave")
    idle = (f"--data={out}", "--tables=2", "--interval=0.5")
    refused(run_script(ask, "fill", *none, *idle), 2, "--interval")
    twice = (f"--data={out}", "--columns=city,city")
    refused(run_script(ask, "predict", *none, *twice), 2, "named twice")


def test_a_check_hides_cells_of_held_out_rows(sold, network, tmp_path):
    out = tmp_path / "check.json"
    data = (f"--data={sold / 'shop.npz'}", f"--dest={out}", "--hidden=0.5")
    printed = good(run_script(ask, "check", f"--network={network}", *data)).out
    facts = json.loads(out.read_text())
    assert facts["verdict"] in printed
    assert set(facts["columns"]) <= set(shop().columns)
    assert facts["columns"]["city"]["log_loss"] < facts["columns"]["city"]["log_loss_of_shares"]
    assert facts["copies"]["drawn"] > 0.3 * facts["copies"]["held_out"]
    shop(60).drop(columns="tip").to_csv(out.with_suffix(".csv"), index=False)
    check = ("check", f"--network={network}", f"--dest={out}", "--overwrite")
    printed = good(run_script(ask, *check, f"--data={out.with_suffix('.csv')}")).out
    assert "has no column(s) tip" in printed
    assert " of these " in good(run_script(ask, *check, f"--data={sold / 'shop.csv'}")).out


def test_other_scripts_say_what_answers_and_columns_without_sense_are_refused(network, tmp_path):
    assert "city" in good(run_script(info, network)).out
    place = (f"--network={network}", f"--save_dir={tmp_path}")
    refused(run_script(pfODE_int, *place, "--sim_type=gen"), 2, "ask.py")
    parts, about = read_network(network)
    for name, wrong in (("values", [1.0] * 6), ("ask", [["city"]]), ("records", "{}")):
        write_network(tmp_path / "wrong.pkl", parts, {**about, name: wrong})
        assert "is damaged" in refusal(Answers.open, tmp_path / "wrong.pkl")


def test_scores_of_rows_with_an_index_without_a_name_are_read_again(network, tmp_path):
    shop(30).to_csv(tmp_path / "rows.csv")  # pandas writes the index without a name
    dest, data = tmp_path / "scores.csv", f"--data={tmp_path / 'rows.csv'}"
    good(run_script(ask, "score", f"--network={network}", data, f"--dest={dest}"))
    assert list(read_csv(dest).columns)[4:7] == ["odd_cells", "index", "city"]
    saved = SavedAnswers.load(tmp_path / "scores_params.json")
    assert saved.log_prob.tolist() == read_csv(dest)["log_prob"].tolist()
    assert saved.rows.beside["index"].tolist() == [str(row) for row in range(30)]
    good(run_script(visualize, dest))


def test_probabilities_of_a_discrete_number_add_to_one(network):
    flow = RecordFlow.of(TrainedNetwork.open(str(network)))
    for place, numbers in ((2, np.arange(10.0, 54.0)), (5, np.arange(40.0))):
        values = np.full((len(numbers), 6), np.nan)
        values[:, 0], values[:, 1], values[:, place] = 1, 20.0, numbers
        asked = np.zeros_like(values, dtype=bool)
        asked[:, place] = True
        log_prob, error = flow.log_prob(values, asked)
        assert abs(np.exp(log_prob).sum() - 1) < 1e-3
        assert (error[np.exp(log_prob) > 1e-4] < 0.06).all()


def test_values_that_are_often_the_same_have_a_probability(network):
    flow = RecordFlow.of(TrainedNetwork.open(str(network)))
    (held,) = (one for one in flow.space.values if len(one) == 3 and np.isnan(one[-1]))
    assert held == pytest.approx((0, 10, np.nan), nan_ok=True)
    values = np.tile([1, 20.0, 30, 600, 0, np.nan], (40, 1))
    known = ~np.isnan(values)
    values[:, 5] = np.arange(40)
    log_prob, _ = flow.log_prob(values, ~known)
    middle = flow.ranks(values, known, 5)
    whole = np.exp(log_prob).cumsum() - np.exp(log_prob) / 2
    assert np.abs(middle - whole).max() < 0.03
    as_far = 2 * np.exp(log_prob)[::-1].cumsum()[::-1]
    assert np.allclose(flow.tails(values, known, 5)[18:23], as_far[18:23], rtol=0.12)
    atoms = flow.distributions(values, known, 5, middle.tolist())
    assert np.allclose(atoms.atoms.probabilities[0], np.exp(log_prob)[[0, 10]], atol=1e-6)
    far = np.abs(atoms.quantiles[0] - np.arange(40))
    assert far[log_prob > np.log(0.01)].max() <= 1
    assert flow.space.within_range(5, np.array([0.0, 10, -9])).tolist() == [0, 10, 3]
    drawn = flow.drawn(np.repeat(values[:1], 4000, axis=0), ~known[:1].repeat(4000, 0), 0)
    shares = (drawn[:, 5, None] == np.arange(40)).mean(axis=0)
    assert np.abs(shares - np.exp(log_prob)).max() < 0.03
    # A value that is no level is improbable and tells nothing.
    strange, unknown = (np.array([[city, 20.0, 30, 600, 0, 9]]) for city in (7, np.nan))
    assert flow.scores(strange).tails[0, 0] == np.exp(flow.scores(strange).log_prob[0]) == 0
    one, other = (
        flow.distributions(rows, rows < 1e9, 2, (0.1, 0.9)) for rows in (strange, unknown)
    )
    assert np.array_equal(one.quantiles, other.quantiles)


def test_atoms_are_values_that_stand_out():
    counts, amount = Column("counts", "whole"), Column("amount", "number")
    draw = np.random.default_rng(0)
    assert atoms_of(counts, draw.poisson(15, 2000).astype(float)) == (), "usual values are none"
    weeks = np.concatenate([np.full(900, 40.0), draw.poisson(30, 900), np.full(200, 0.0)])
    assert atoms_of(counts, weeks) == (0.0, 40.0)
    tiny = np.concatenate([np.zeros(300), draw.normal(5e-13, 1e-13, 700)])
    assert atoms_of(amount, tiny) == (0.0,)
    assert level_of(np.array([0.0, 1e-13, np.nan]), [0.0]).tolist() == [0, -1, -1]
    gaps = Gaps(1)
    gaps.hold(places=torch.tensor([[3.0, 5.0, *[NOWHERE] * 9]], dtype=torch.float64))
    steps = torch.tensor([1.0, 2, 4, 6, 7], dtype=torch.float64)
    x = (steps[:, None] + torch.linspace(-0.49, 0.49, 9)).view(-1, 1)
    there, _ = gaps(x)
    assert torch.allclose(gaps.inverse(there), x)
    assert torch.equal(there.view(5, 9).round()[:, 0], torch.arange(1.0, 6).double())


@pytest.mark.slow
def test_python_gives_what_the_scripts_do(sold, tmp_path):
    with quick_endings():
        records = Table.open(sold / "shop.csv", held_out=0.2)
        answers = records.train(tmp_path / "here", duration=0.002, **SMALL)
    place = (f"--data={sold / 'shop.npz'}", f"--outdir={tmp_path / 'there'}", "--duration=0.002")
    good(run_script(train, *place, *(f"--{name}={value}" for name, value in SMALL.items())))
    theirs = Answers.open(next(tmp_path.glob("there/*/network-snapshot-*.pkl")))
    one, other = (each.flow.network.denoiser.state_dict() for each in (answers, theirs))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert (theirs.sample(50, {"gift": "yes"}, seed=3)["gift"] == "yes").all()
    holes = with_holes(shop(50))
    answers.save(tmp_path / "answers.pkl")
    again = Answers.load(tmp_path / "answers.pkl")
    pandas.testing.assert_frame_equal(again.fill(holes), answers.fill(holes))
    filled = answers.fill(holes[::-1])[list(holes.columns)]
    assert filled.dropna().index.equals(holes.index[::-1]), "all holes are filled, row by row"
    assert not answers.complete(holes, 1, seed=1)[0].equals(answers.complete(holes, 2)[1])
    for call in (
        lambda: answers.predict(holes, ["total"], interval=90),
        lambda: answers.check(records, hidden=0),
        lambda: answers.sample(-1),
    ):
        assert "give a" in refusal(call, kind=UsageError)


@pytest.mark.slow
def test_minutes_are_a_duration_as_measured_here(sold, tmp_path, monkeypatch):
    records, spaces = Table.open(sold / "shop.npz"), []

    def chosen(*arguments):
        spaces.append(choose_space(*arguments))
        return spaces[-1]

    monkeypatch.setattr(record_training, "choose_space", chosen)
    with quick_endings():
        records.train(tmp_path, minutes=0.003, **SMALL)
    assert len(spaces) == 1, "it takes as long as many steps"
    (run,) = tmp_path.glob("*-shop-*")
    duration = json.loads((run / "training_options.json").read_text())["options"]["duration"]
    assert (run / f"network-snapshot-{round(duration * 1e6) // 1000:06d}.pkl").exists()
    assert "one of them" in refusal(records.train, minutes=0.01, duration=0.1, kind=UsageError)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESSY)
def test_a_messy_table_is_asked_without_a_hand_on_it(tmp_path, name):
    source, data, out = tmp_path / name, tmp_path / "data.npz", tmp_path / "answers.csv"
    source.write_text(MESSY[name][0], encoding="utf-8")
    good(run_script(dataset_tool, f"--source={source}", f"--dest={data}"))
    path = network_file(trained(tmp_path, train, f"--data={data}", "--any", *QUICK))
    network, column = f"--network={path}", Answers.open(path).flow.empty.names[1]
    for question in (
        ("fill", f"--data={source}"),
        ("predict", f"--data={source}", f"--columns={column}", "--interval=0.5"),
        ("predict", f"--data={source}", f"--columns={column}", f"--calibrate={data}"),
        ("score", f"--data={source}"),
        ("sample", "--count=50", f"--data={data}"),
    ):
        good(run_script(ask, *question, network, f"--dest={out}", "--overwrite"))
        assert len(out.read_text(encoding="utf-8-sig").splitlines()) > 50
    check = ("check", network, f"--data={data}", f"--dest={tmp_path / 'check.json'}")
    assert "No miscalibration found" in good(run_script(ask, *check, "--level=0.001")).out


def test_one_question_is_answered_alone(sold, tmp_path):
    data, out = f"--data={sold / 'shop.npz'}", f"--outdir={tmp_path}"
    folder = trained(tmp_path / "run", train, data, "--ask=gift", *QUICK, "--duration=0.006")
    network = f"--network={network_file(folder)}"
    rows = (f"--data={sold / 'shop.csv'}", f"--dest={tmp_path / 'made.csv'}")
    refused(run_script(ask, "predict", network, *rows, "--columns=price"), 2, "--ask=gift")
    good(run_script(ask, "predict", network, *rows, "--columns=gift"))
    made, truth = read_csv(tmp_path / "made.csv"), shop()
    assert made["gift_is_yes"][truth["price"].between(0, 14)].mean() < 0.4
    refused(run_script(train, data, out, "--ask=colour", *QUICK), 2, "no such column")
    refused(run_script(train, data, out, "--marginals=ranks", *QUICK), 2, "whole rows")


def test_what_is_made_of_a_column_does_not_answer_for_it(tmp_path):
    """That a price is there tells the city, but nothing of a price that is asked; drawn rows lack
    as many."""
    rows = shop()[["city", "price"]]
    rows.loc[rows["city"] != "Rome", "price"] = np.nan
    records = Table.open(rows, is_missing=["price"])
    with quick_endings():
        answers = records.train(duration=0.015, **SMALL)
    made = answers.predict(pandas.DataFrame({"price": [None, 10.0]}), ["city"])
    assert made["city_is_Rome"][0] < 0.3
    assert made["city_is_Rome"][1] > 0.9
    rome = pandas.DataFrame({"city": ["Rome"] * 2, "price": [None, 10.0]})
    both = answers.predict(rome, ["price"])
    assert abs(both["price_predicted"][0] - both["price_predicted"][1]) < 0.2
    drawn = answers.sample(400, seed=1)
    assert list(drawn.columns) == ["city", "price"]
    assert (drawn["price"].isna() == (drawn["city"] != "Rome")).mean() > 0.9
    for given in ({"price": 10.0}, {"price is missing": "no"}):
        drawn = answers.sample(50, given, seed=2)
        assert drawn["price"].notna().all()
        assert (drawn["city"] == "Rome").mean() > 0.9


def test_answers_as_data_frames_have_numbers_levels_and_digits():
    columns = Column("level", CATEGORY, ("#N/A",)), Column("size", NUMBER, missing="-9")
    beside = {"key": np.array(["1234567890123456789", ""])}
    records = DataTable(columns, beside=beside, decimal=",", values=np.empty((2, 2)), held_out=None)
    names = ["level", "size", "key", "level_probability"]
    columns = [["#N/A", ""], ["1,5", "-9"], ["1234567890123456789", ""], ["0.5", "1"]]
    frame = _frame(Sheet(names, 2, [columns], 1, names[-1:]), records)
    assert frame.loc[0].tolist() == ["#N/A", 1.5, "1234567890123456789", 0.5]
    assert frame.loc[1].isna().tolist() == [True, True, True, False]


def test_calibrated_intervals_hold_whatever_the_flow_is_worth(network):
    answers, rows = Answers.open(network), shop(1800)
    rows["total"] += np.random.default_rng(2).normal(0, 60, len(rows)).round(1)
    held_out = encode(rows[:900], answers.flow.empty.columns)[0]

    def holds(**options):
        made = answers.predict(rows[900:], ["total"], 0.8, **options)
        inside = rows["total"][900:].to_numpy()
        return float(((made["total_low"] <= inside) & (inside <= made["total_high"])).mean())

    assert holds() < 0.5, "the network has not seen such noise"
    assert holds() != holds(held_out=False)
    assert abs(holds(held_out=held_out) - 0.8) < 0.04
    assert "at least 4" in refusal(holds, held_out=held_out.at(np.arange(3)))
    far = encode(rows[:900].assign(total=1e6), answers.flow.empty.columns)[0]
    assert holds(held_out=far) > 0.9, "ranks of these are 1"
    for call, words in (
        (lambda: answers.score(rows, odd=2), "odd is 2"),
        (lambda: answers.check(rows), "give a table of Table.open"),
        (lambda: answers.fill(held_out), "rows are a table to train on"),
    ):
        assert words in refusal(call, kind=UsageError)


def test_a_query_about_numbers_is_a_posterior_like_any_other(network, tmp_path):
    answers, rows = Answers.open(network), shop(COUNT + 60).iloc[COUNT:].reset_index(drop=True)
    median = answers.predict(rows, ["total"], held_out=False)["total_predicted"].to_numpy()
    drawn = answers.posterior("total").sample(rows.drop(columns="total"), draws=400).points[..., 0]
    assert (drawn <= median[:, None]).mean() == pytest.approx(0.5, abs=0.04)
    both = answers.posterior(["price", "total"])
    draws, pairs = both.sample(rows, draws=50), rows[["price", "total"]]
    assert draws.points.shape == (60, 50, 2)
    np.testing.assert_array_equal(both.sample(rows, draws=50).points, draws.points)
    assert draws.summary()["name"].tolist() == ["price", "total"] * 60
    assert dict(draws.to_arviz().posterior.sizes) == {"chain": 1, "draw": 50, "row": 60}
    assert len(draws.plot().axes) == 2
    draws.save(tmp_path / "draws.nc")
    assert (tmp_path / "draws.nc").exists()
    # Frequent values have probabilities, which are the shares of draws.
    tip, some = answers.posterior("tip"), rows[:4]
    share = (tip.sample(some, draws=4000).points[..., 0] == 10).mean(axis=1)
    probability = np.exp(tip.log_prob(np.full((4, 1), 10.0), some))
    assert (abs(share - probability) < 4 * (probability / 4000) ** 0.5).all()
    assert check(both, pairs, rows, draws=50).facts["runs"] == 60
    assert calibrate(both, pairs, rows, draws=50).intervals(rows[:3], draws=50).shape == (3, 2, 2)
    assert "is a category" in refusal(answers.posterior, ["total", "city"], kind=UsageError)
    assert "name each once" in refusal(answers.posterior, ["total", "total"], kind=UsageError)


def test_a_prior_of_numbers_has_the_density_of_the_answers(network, tmp_path):
    rows, seen = shop(4).drop(columns="gift"), tmp_path / "rows.csv"
    rows["tip"] = [12, 8, 9, 15]
    rows.loc[3, "city"] = None  # not seen
    rows.to_csv(seen, index=False)
    prior = RecordPrior.of(TrainedNetwork.open(str(network)), {})
    points, questions = prior.points(seen), prior.questions(seen)
    answers, space = prior.answers, prior.answers.space
    levels = [answers.empty.columns[0].levels.index(city) for city in rows["city"][:3]]
    numbers = rows[prior.names[:3]], np.full(4, np.nan), rows["tip"]
    values = np.column_stack([[*levels, np.nan], *numbers])
    states = space.states(torch.tensor([[KNOWN, ASKED, ASKED, ASKED, ABSENT, ASKED]] * 4))
    states[3, space.cell(0)] = ABSENT
    states[:, space.level_cell(5)] = KNOWN
    cells, flow = space.encoded(values), answers.questions
    joint = flow.of(flow._labels(cells, states)).log_prob(cells.numbers)
    expected = joint + space.log_slopes(values).sum(dim=1)
    assert torch.allclose(prior.flow.given(labels=questions).log_prob(points), expected, atol=1e-3)
    assert torch.allclose(prior.flow.log_prob(points[3:]), expected[3:], atol=1e-3)


def test_posteriors_know_the_levels_observed(sold, network, tmp_path):
    seen, out = tmp_path / "seen.csv", tmp_path / "out"
    noise = (
        "--likelihood=mask",
        "--mask=total",
        "--noise_std=40",
        "--sampler=pool",
    )
    options = (f"--network={network}", *noise, "--draws=50", f"--save_dir={out}")
    seen.write_text("city,total,till\nRome,400,1\nOslo,400,3\n")
    printed = run_script(posterior, "sample", *options, f"--observation={seen}").out
    assert "is constant in the training data, but not in 1 row(s): row 2 has 3 inst" in printed
    drawn = json.loads((out / "shop_PRP_posterior.json").read_text())["posteriors"]
    assert drawn[0]["mean"]["price"] < 13 < drawn[1]["mean"]["price"]
    truths = ("--truth=data", f"--data_root={sold / 'shop.npz'}", "--runs=20")
    good(run_script(posterior, "check", *options, *truths))
    for text, why in (
        ("city,total\nParis,400\n", "'Paris' is an unknown category"),
        ("colour,total\nred,400\n", "'colour'"),
        ("price,total\n10,400\n10,\n", "row 2: 'total' is missing"),
    ):
        seen.write_text(text)
        refused(run_script(posterior, "sample", *options, f"--observation={seen}"), 1, why)


@quick_endings()
def test_rows_that_calibrate_intervals_choose_nothing_in_a_training():
    frame = shop(80)[["price", "total"]]
    options = {"seed": 0, "duration": 0.0003, "tick": 1, **SMALL}
    usual = Table.open(frame, seed=0, types={"price": "number"})
    values, held_out = usual.rows.values.copy(), usual.rows.held_out
    values[held_out] = values[held_out][::-1] * 3
    changed = replace(usual, rows=replace(usual.rows, values=values))
    first, other = (each.train(**options).flow.network for each in (usual, changed))
    for name, tensor in first.denoiser.state_dict().items():
        assert torch.equal(tensor, other.denoiser.state_dict()[name]), name
    assert first.about["held_cells"] != other.about["held_cells"]
